import pytest

from cri_proxy.cli.checks import node

SYSTEMS = ("x86_64-linux", "aarch64-linux")


@pytest.mark.parametrize(
    ("machine", "release", "status"),
    [
        ("x86_64", "6.1.0-18-amd64", "ok"),
        ("aarch64", "5.10.0", "ok"),
        ("x86_64", "4.18.0-553.el8", "warn"),
        ("x86_64", "what", "warn"),
        ("riscv64", "6.1.0", "fail"),
    ],
)
def test_a_node_is_judged_by_processor_and_kernel(machine, release, status):
    assert node.system(machine, release, SYSTEMS).status == status


def test_any_user_but_root_is_a_warning():
    assert [node.user(number).status for number in (0, 1000)] == ["ok", "warn"]


def test_a_bundle_that_was_named_must_be_there(tmp_path):
    bundle = tmp_path / "ca.pem"

    assert node.authorities(str(bundle)).status == "fail"
    bundle.touch()
    assert node.authorities(str(bundle)).found == str(bundle)


def test_no_bundle_may_be_wanted():
    assert node.authorities("none").status == "ok"
    assert node.authorities("auto").status in {"ok", "warn"}
