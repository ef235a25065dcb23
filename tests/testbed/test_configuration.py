import tomllib
from pathlib import Path

import pytest

from hack.testbed import configuration

_CHOICES = configuration.Choices(
    directory=Path("/somewhere"),
    runc=Path("/opt/runc/runc"),
    cni_plugins=Path("/usr/lib/cni"),
    sandbox_image="docker.io/local/pause:1",
    snapshotter="native",
    handlers=("runc", "runc-second"),
    is_oom_score_restricted=True,
)


def test_containerd_1_gets_version_2() -> None:
    value = tomllib.loads(configuration.text_of(_CHOICES, major=1))
    cri = value["plugins"]["io.containerd.grpc.v1.cri"]

    assert value["version"] == 2
    assert cri["sandbox_image"] == "docker.io/local/pause:1"
    assert cri["restrict_oom_score_adj"] is True
    assert cri["containerd"]["snapshotter"] == "native"
    assert cri["cni"]["conf_dir"] == "/somewhere/cni"


def test_containerd_2_gets_version_3() -> None:
    value = tomllib.loads(configuration.text_of(_CHOICES, major=2))
    runtime = value["plugins"]["io.containerd.cri.v1.runtime"]
    images = value["plugins"]["io.containerd.cri.v1.images"]

    assert value["version"] == 3
    assert images["pinned_images"]["sandbox"] == "docker.io/local/pause:1"
    assert images["snapshotter"] == "native"
    assert runtime["restrict_oom_score_adj"] is True
    assert runtime["cni"]["conf_dir"] == "/somewhere/cni"
    assert value["plugins"]["io.containerd.nri.v1.nri"]["disable"] is True


@pytest.mark.parametrize("major", [1, 2])
def test_every_path_is_below_the_directory_and_every_handler_is_runc(major: int) -> None:
    value = tomllib.loads(configuration.text_of(_CHOICES, major=major))
    plugin = "io.containerd.grpc.v1.cri" if major == 1 else "io.containerd.cri.v1.runtime"
    containerd = value["plugins"][plugin]["containerd"]

    assert value["root"] == "/somewhere/root"
    assert value["state"] == "/somewhere/state"
    assert value["grpc"]["address"] == "/somewhere/containerd.sock"
    assert value["plugins"][plugin]["netns_mounts_under_state_dir"] is True
    assert containerd["default_runtime_name"] == "runc"
    assert [each["options"] for each in containerd["runtimes"].values()] == [
        {"BinaryName": "/opt/runc/runc", "Root": "/somewhere/runc"}
    ] * 2
