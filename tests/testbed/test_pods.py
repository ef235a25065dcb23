import grpc
import pytest

from cri_proxy.cri import api_pb2
from hack.testbed import images
from hack.testbed.kubelet import Mount, Spec
from hack.testbed.pods import Pods


def test_a_container_runs_writes_and_exits(pods: Pods) -> None:
    pod = pods.run_pod("talker")
    container = pod.run(Spec(command=["sh", "-c", "echo out; echo err >&2; exit 3"]))

    assert container.wait() == 3
    assert container.logs().stdout == b"out\n"
    assert container.logs().stderr == b"err\n"


def test_command_and_args_replace_those_of_the_image_as_in_a_pod(pods: Pods) -> None:
    pod = pods.run_pod("arguments")
    dressed = images.DRESSED
    written = [
        _output(pod.run(spec))
        for spec in (
            Spec(name="none", image=dressed),
            Spec(name="args", image=dressed, args=["mine"]),
            Spec(name="command", image=dressed, command=["echo"]),
            Spec(name="both", image=dressed, command=["echo", "all"], args=["mine"]),
        )
    ]

    assert written == [b"entrypoint cmd\n", b"entrypoint mine\n", b"\n", b"all mine\n"]


def test_settings_of_the_image_apply_unless_the_pod_has_its_own(pods: Pods) -> None:
    pod = pods.run_pod("settings")
    command = ["/bin/sh", "-c", "echo $(id -u) $(pwd) $FROM_IMAGE"]
    inherited = pod.run(Spec(name="inherited", image=images.DRESSED, command=command))
    own = pod.run(
        Spec(
            name="own",
            image=images.DRESSED,
            command=command,
            user=0,
            working_dir="/tmp",
            envs=[("FROM_IMAGE", b"no"), ("FROM_IMAGE", b"never")],
        )
    )

    assert _output(inherited) == b"1000 /srv yes\n"
    assert _output(own) == b"0 /tmp never\n"


def test_the_empty_image_has_no_files(pods: Pods) -> None:
    busybox = images.static_busybox()
    assert busybox is not None
    pod = pods.run_pod("empty")
    container = pod.run(
        Spec(
            image=images.EMPTY,
            command=["/tool/busybox", "find", "/", "-xdev", "-type", "f"],
            mounts=[Mount(busybox.parent, "/tool", is_read_only=True)],
        )
    )

    of_the_runtime = {b"/etc/hosts", b"/etc/hostname", b"/etc/resolv.conf"}
    assert set(_output(container).split()) <= of_the_runtime


def test_mounts_show_the_host_read_only_if_asked(pods: Pods, tmp_path) -> None:
    (tmp_path / "note").write_text("from the host\n")
    pod = pods.run_pod("mounts")
    container = pod.run(
        Spec(
            command=["sh", "-c", "cat /a/note; echo back > /b/answer; touch /a/no || exit 7"],
            mounts=[Mount(tmp_path, "/a", is_read_only=True), Mount(tmp_path, "/b")],
        )
    )

    assert container.wait() == 7
    assert container.logs().stdout == b"from the host\n"
    assert (tmp_path / "answer").read_text() == "back\n"


def test_secrets_are_written_before_the_sandbox_and_mounted(pods: Pods) -> None:
    pod = pods.run_pod("secretive", secrets={"floxhub": {"floxhub-token": b"t0k3n"}})
    mount = pod.secret_mount("floxhub", "/var/run/secrets/flox.dev")
    container = pod.run(
        Spec(command=["cat", "/var/run/secrets/flox.dev/floxhub-token"], mounts=[mount])
    )

    assert _output(container) == b"t0k3n"


def test_a_program_leaves_its_termination_message_for_kubelet(pods: Pods) -> None:
    pod = pods.run_pod("last-words")
    container = pod.run(Spec(command=["sh", "-c", "echo farewell > /dev/termination-log"]))
    container.wait()

    assert container.termination_message() == b"farewell\n"


def test_programs_can_be_executed_in_a_container(pods: Pods) -> None:
    pod = pods.run_pod("host")
    container = pod.run(Spec(command=["sleep", "1000"], envs=[("COLOR", b"blue")]))
    executed = container.exec_sync(["sh", "-c", "echo $COLOR; echo no >&2; exit 5"])

    assert (executed.exit_code, executed.stdout, executed.stderr) == (5, b"blue\n", b"no\n")


def test_pods_reach_each_other_over_the_bridge_and_the_host_reaches_them(pods: Pods) -> None:
    with pods.run_pod("server") as server, pods.run_pod("client") as client:
        listener = server.run(
            Spec(
                command=[
                    "sh",
                    "-c",
                    "mkdir /w && echo hi > /w/index.html && echo up && exec httpd -f -p 8080 -h /w",
                ]
            )
        )
        listener.await_output(b"up")
        fetch = f"until wget -q -O - http://{server.ip()}:8080/; do usleep 50000; done"
        reader = client.run(Spec(command=["timeout", "60", "sh", "-c", fetch]))

        assert reader.wait() == 0
        assert reader.logs().stdout == b"hi\n"
        assert server.ip() != client.ip()


def test_a_pod_on_the_hosts_network_sees_the_hosts_interfaces(pods: Pods, containerd) -> None:
    pod = pods.run_pod("host-networked", host_network=True)
    container = pod.run(Spec(command=["ls", "/sys/class/net"]))

    assert containerd.traces.network.bridge.encode() in _output(container).split()


def test_annotations_and_runtime_handler_reach_the_runtime(pods: Pods) -> None:
    pod = pods.run_pod("annotated", {"example.org/a": "b"}, runtime_handler="runc-second")

    assert pod.status().annotations["example.org/a"] == "b"
    assert pod.status().runtime_handler == "runc-second"
    assert _output(pod.run(Spec(command=["echo", "second"]))) == b"second\n"


def test_an_unknown_runtime_handler_is_refused(pods: Pods) -> None:
    with pytest.raises(grpc.RpcError, match="nonesuch"):
        pods.run_pod("refused", runtime_handler="nonesuch")


def test_a_stopped_container_gets_its_grace_period(pods: Pods) -> None:
    pod = pods.run_pod("graceful")
    loop = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 1000 & wait $!; done"
    container = pod.run(Spec(command=["sh", "-c", loop]))
    container.await_output(b"up")

    container.stop(grace_seconds=60)

    assert container.wait() == 0
    assert container.logs().stdout == b"up\nbye\n"


def test_remaining_pods_are_removed_with_the_client(containerd) -> None:
    with containerd.pods() as pods:
        pod = pods.run_pod("left")
        pod.run(Spec(command=["sleep", "1000"]))

    with containerd.pods() as pods:
        request = api_pb2.ListContainersRequest()
        listed = pods.client.call("ListContainers", request, api_pb2.ListContainersResponse)

        assert pod.id not in [each.id for each in pods.pods()]
        assert pod.id not in [each.pod_sandbox_id for each in listed.containers]


def _output(container) -> bytes:
    assert container.wait() == 0, container.logs()
    return container.logs().stdout
