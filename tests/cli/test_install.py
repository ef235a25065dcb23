"""`cri-proxy install` on the image of a node."""

import pytest

from cri_proxy.node.root import Root
from tests.node.conftest import PROXY, snapshot

FLAGS_FILE = "var/lib/kubelet/kubeadm-flags.env"


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_an_image_that_does_not_exist_is_refused(commands, command, tmp_path):
    done = commands.in_pipe(command, "--root", str(tmp_path / "image"))

    assert done.code == 1
    assert (
        f"there is no directory {tmp_path}/image: set --root to the unpacked image" in done.errors
    )


def test_an_installation_reports_what_it_changed(commands, image):
    done = commands.in_pipe("install", "--root", str(image))

    assert done.code == 0, done.errors
    assert done.output.splitlines() == [
        f"changed /{FLAGS_FILE}",
        "cri-proxy is installed on this node",
    ]
    assert PROXY in (image / FLAGS_FILE).read_text()


def test_installing_again_says_that_nothing_changed(commands, image):
    commands.in_pipe("install", "--root", str(image))

    done = commands.in_pipe("install", "--root", str(image))

    assert (done.code, done.output) == (0, "nothing had to be changed\n")


def test_a_dry_run_shows_the_changes_and_makes_none(commands, image):
    before = snapshot(Root(image))

    done = commands.in_pipe("install", "--dry-run", "--root", str(image))

    lines = done.output.splitlines()
    assert done.code == 0
    assert f"--- /{FLAGS_FILE}" in lines
    assert any(line.startswith("+") and PROXY in line for line in lines)
    assert "+++ /etc/systemd/system/cri-proxy.service" in lines
    assert lines[-1] == "restart kubelet.service"
    assert snapshot(Root(image)) == before


def test_a_dry_run_of_nothing_says_so(commands, image):
    commands.in_pipe("install", "--root", str(image))

    done = commands.in_pipe("install", "--dry-run", "--root", str(image))

    assert done.output == "nothing to do: this version and configuration are installed\n"


def test_an_image_has_a_settings_file_of_its_own(commands, image, tmp_path):
    """The one of this machine, and the variable that names another, are not the image's."""
    other = tmp_path / "other.toml"
    other.write_text('[serve]\nlisten = "/run/other/other.sock"\n')
    config = image / "etc/cri-proxy/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[serve]\nlisten = "/run/cri-proxy/image.sock"\n')

    commands.in_pipe("install", "--root", str(image), CRI_PROXY_CONFIG=str(other))

    assert "unix:///run/cri-proxy/image.sock" in (image / FLAGS_FILE).read_text()


def test_a_settings_file_that_is_named_is_used_for_an_image_as_well(commands, image, tmp_path):
    config = tmp_path / "named.toml"
    config.write_text('[serve]\nlisten = "/run/cri-proxy/named.sock"\n')

    commands.in_pipe("install", "--root", str(image), "--config", str(config))

    assert "unix:///run/cri-proxy/named.sock" in (image / FLAGS_FILE).read_text()


def test_a_runtime_that_is_set_is_written_into_the_settings(commands, image):
    commands.in_pipe(
        "install", "--root", str(image), "--set", "runtime.endpoint=/run/crio/crio.sock"
    )

    config = (image / "etc/cri-proxy/config.toml").read_text()
    assert config == '[runtime]\nendpoint = "/run/crio/crio.sock"\n'


def test_a_node_without_kubelet_is_refused(commands, tmp_path):
    done = commands.in_pipe("install", "--root", str(tmp_path))

    assert done.code == 1
    assert done.errors.startswith("error: no systemd unit starts kubelet here")
