"""`cri-proxy uninstall` on the image of a node."""

import pytest

from cri_proxy.node.root import Root
from tests.node.conftest import NODES, snapshot


def test_the_image_is_as_it_was_before_the_installation(commands, image):
    before = snapshot(Root(image))
    commands.in_pipe("install", "--root", str(image))

    done = commands.in_pipe("uninstall", "--root", str(image))

    assert (done.code, done.output) == (0, "cri-proxy is removed from this node\n")
    assert snapshot(Root(image)) == before


def test_what_is_not_installed_cannot_be_removed(commands, image):
    done = commands.in_pipe("uninstall", "--root", str(image))

    assert done.code == 1
    assert done.errors == (
        "error: cri-proxy is not installed on this node: there is nothing to do\n"
    )


@pytest.mark.parametrize(("options", "is_kept"), [((), True), (("--purge",), False)])
def test_environments_stay_unless_they_are_purged(commands, image, options, is_kept):
    store = image / "var/lib/cri-proxy"
    (store / "environments").mkdir(parents=True)
    commands.in_pipe("install", "--root", str(image))
    root = f"--set=store.root=/{store.relative_to(image)}"

    done = commands.in_pipe("uninstall", "--root", str(image), root, *options)

    assert done.code == 0, done.errors
    assert store.exists() is is_kept
    assert ("removed /var/lib/cri-proxy" in done.output.splitlines()) is not is_kept


def test_a_file_that_was_changed_since_is_reported(commands, image):
    file = image / "var/lib/kubelet/kubeadm-flags.env"
    commands.in_pipe("install", "--root", str(image))
    file.write_text(file.read_text() + "# changed\n")

    done = commands.in_pipe("uninstall", "--root", str(image))

    assert (
        "/var/lib/kubelet/kubeadm-flags.env was changed by another program meanwhile: "
        "only our part was removed"
    ) in done.output.splitlines()
    assert file.read_text() == NODES["kubeadm-flags"][f"/{file.relative_to(image)}"] + "# changed\n"
