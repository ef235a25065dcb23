import signal

from cri_proxy.cri import api_pb2
from hack.testbed import images
from hack.testbed.binaries import Binaries
from hack.testbed.containerd import Containerd, lacks
from hack.testbed.kubelet import Spec
from hack.testbed.pods import Pods


def test_missing_programs_are_reported_by_name(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(Binaries, "search_path", str(tmp_path))

    assert "the program runc" in lacks()


def test_the_images_of_the_testbed_are_imported(containerd: Containerd, pods: Pods) -> None:
    for image in images.of_testbed():
        reply = pods.client.call(
            "ImageStatus",
            api_pb2.ImageStatusRequest(image=api_pb2.ImageSpec(image=image.name)),
            api_pb2.ImageStatusResponse,
        )

        assert image.name in reply.image.repo_tags


def test_two_testbeds_can_run_at_once(containerd: Containerd) -> None:
    with Containerd() as other, other.pods() as others:
        others.run_pod("beside")

        assert other.socket != containerd.socket
        with containerd.pods() as ours:
            assert all(pod.metadata.name != "beside" for pod in ours.pods())


def test_pods_survive_a_restart_of_containerd() -> None:
    with Containerd() as containerd, containerd.pods() as pods, pods.run_pod("survivor") as pod:
        container = pod.run(Spec(command=["sh", "-c", "echo begun; exec sleep 1000"]))
        container.await_output(b"begun")
        before = containerd.pid

        containerd.restart()

        assert containerd.pid != before
        assert container.status().state == api_pb2.CONTAINER_RUNNING
        assert container.exec_sync(["echo", "still here"]).stdout == b"still here\n"


def test_pods_survive_containerd_being_killed() -> None:
    with Containerd() as containerd, containerd.pods() as pods, pods.run_pod("survivor") as pod:
        container = pod.run(Spec(command=["sleep", "1000"]))

        containerd.kill()
        assert not containerd.is_running
        containerd.restart()

        assert container.status().state == api_pb2.CONTAINER_RUNNING
        container.stop()
        assert container.wait() == 128 + signal.SIGKILL
