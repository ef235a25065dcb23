import json
import subprocess
import sys
from pathlib import Path

from hack.testbed import sweeping, waiting
from hack.testbed.containerd import Containerd
from hack.testbed.kubelet import Spec

_REPOSITORY = Path(__file__).parents[2]
_KINDS = {"process", "mount", "interface", "control", "socket", "directory"}
_STARTER = """
import sys
from hack.testbed.containerd import Containerd
from hack.testbed.kubelet import Spec
containerd = Containerd()
containerd.start()
containerd.pods().run_pod("orphan").run(Spec(command=["sleep", "1000"]))
print(containerd.directory, flush=True)
sys.stdin.read()
"""


def test_stopping_leaves_nothing_of_pods_that_still_run() -> None:
    containerd = Containerd()
    with containerd:
        pod = containerd.pods().run_pod("left")
        pod.run(Spec(command=["sleep", "1000"]))
        before = sweeping.remains(containerd.traces)
        cables = [line.split()[1] for line in before if line.startswith("interface")]
        sockets = [Path(line.split()[1]) for line in before if line.startswith("socket")]
        assert {line.split()[0] for line in before} == _KINDS
        assert len(cables) == 2

    assert sweeping.remains(containerd.traces) == []
    assert not set(cables) & _interfaces()
    assert not any(socket.exists() for socket in sockets)
    assert not list(Path("/var/lib/cni").rglob(f"*{pod.id}*"))


def test_stopping_leaves_nothing_after_containerd_was_killed() -> None:
    containerd = Containerd()
    with containerd:
        containerd.pods().run_pod("left").run(Spec(command=["sleep", "1000"]))
        containerd.kill()

    assert sweeping.remains(containerd.traces) == []


def test_containers_outside_the_testbeds_control_groups_are_found_too() -> None:
    containerd = Containerd()
    with containerd:
        pods = containerd.pods()
        pods._cgroup_parent = ""  # as another client could send it
        pod = pods.run_pod("stray")
        container = pod.run(Spec(command=["sleep", "1000"]))
        groups = [f"k8s.io/{each}" for each in (pod.id, container.id)]
        assert any(line.endswith(groups[0]) for line in sweeping.remains(containerd.traces))

    assert sweeping.remains(containerd.traces) == []
    assert not [tree for group in groups for tree in sweeping.cgroups.trees(group)]


def test_nothing_is_left_when_the_test_process_itself_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _STARTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_REPOSITORY,
    ) as process:
        assert process.stdout is not None
        directory = Path(process.stdout.readline().strip())
        traces = sweeping.load(directory)
        assert {line.split()[0] for line in sweeping.remains(traces)} == _KINDS

        process.kill()

    waiting.until(
        lambda: not sweeping.remains(traces),
        what="the guard to sweep",
        explain=lambda: f"left: {sweeping.remains(traces)}",
    )


def test_a_program_that_only_names_the_directory_is_left_alone(tmp_path: Path) -> None:
    traces = sweeping.Traces(
        directory=tmp_path, cgroup="cri-proxy-none", network=sweeping.network.chosen("00000000")
    )
    argv = ["/bin/sh", "-c", "read -r word", "sh", f"{tmp_path}/containerd.sock"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as bystander:
        assert sweeping.remains(traces) == [f"directory {tmp_path}"]

        sweeping.sweep(traces)

        assert bystander.poll() is None
        bystander.kill()
    assert not tmp_path.exists()


def _interfaces() -> set[str]:
    listing = subprocess.run(
        ["ip", "-json", "link", "show"], check=True, capture_output=True, text=True
    ).stdout
    return {each["ifname"] for each in json.loads(listing)}
