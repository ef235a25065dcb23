import asyncio
import socket

import grpc
import pytest

from cri_proxy.cli.checks import endpoints
from cri_proxy.cli.checks.findings import CheckStatus
from cri_proxy.cri import api_pb2, methods
from hack.testbed.fake_runtime import FakeRuntime

VERSION = methods.path_of("Version")
STATUS = methods.path_of("Status")


@pytest.fixture
async def runtime(tmp_path):
    """A healthy runtime with the handlers runc and kata."""
    async with FakeRuntime(tmp_path / "r.sock") as running:
        running.answer(
            VERSION,
            api_pb2.VersionResponse(
                version="0.1.0",
                runtime_name="containerd",
                runtime_version="2.1.5",
                runtime_api_version="v1",
            ),
        )
        running.answer(STATUS, status())
        yield running


def status(*, is_ready=True, handlers=("", "runc", "kata")):
    return api_pb2.StatusResponse(
        status=api_pb2.RuntimeStatus(
            conditions=[
                api_pb2.RuntimeCondition(type="RuntimeReady", status=True),
                api_pb2.RuntimeCondition(
                    type="NetworkReady", status=is_ready, message="cni config uninitialized"
                ),
            ]
        ),
        runtime_handlers=[api_pb2.RuntimeHandler(name=name) for name in handlers],
    )


async def look(endpoint, handlers=None):
    return await asyncio.to_thread(endpoints.runtime, endpoint, handlers or {"flox": ""})


async def test_a_healthy_runtime_is_reported_with_its_versions(runtime):
    finding = await look(runtime.socket)

    assert finding.status is CheckStatus.OK
    assert finding.found == f"containerd 2.1.5, CRI v1, at {runtime.socket}"


async def test_a_handler_that_the_runtime_does_not_have_fails(runtime):
    finding = await look(runtime.socket, {"flox": "", "gpu": "nvidia"})

    assert finding.status is CheckStatus.FAIL
    assert "has no handler nvidia" in finding.found
    assert "kata, runc" in finding.advice


async def test_a_runtime_too_old_to_list_its_handlers_is_not_blamed(runtime):
    runtime.answer(STATUS, status(handlers=()))

    assert (await look(runtime.socket, {"gpu": "nvidia"})).status is CheckStatus.OK


async def test_a_runtime_that_is_not_ready_is_a_warning_with_its_own_words(runtime):
    runtime.answer(STATUS, status(is_ready=False))

    finding = await look(runtime.socket)

    assert finding.status is CheckStatus.WARN
    assert "reports NetworkReady false: cni config uninitialized" in finding.found


async def test_a_runtime_without_cri_v1_fails_with_what_to_do(runtime):
    runtime.fail(VERSION, grpc.StatusCode.UNIMPLEMENTED, "unknown service")

    finding = await look(runtime.socket)

    assert finding.status is CheckStatus.FAIL
    assert "CRI v1" in finding.found


async def test_a_socket_without_a_server_fails(tmp_path):
    with _left_behind(tmp_path / "r.sock") as path:
        finding = await look(path)

    assert finding.status is CheckStatus.FAIL


@pytest.mark.e2e
async def test_a_real_runtime_is_recognized(containerd):
    finding = await look(containerd.socket)

    assert finding.status is CheckStatus.OK
    assert finding.found.startswith("containerd ")


async def test_a_runtime_that_is_not_there_fails(tmp_path):
    assert "does not exist" in (await look(tmp_path / "none.sock")).found
    (tmp_path / "file").touch()
    assert "is not a socket" in (await look(tmp_path / "file")).found


def test_a_socket_of_our_own_that_can_be_made_is_fine(tmp_path):
    finding = endpoints.own(tmp_path / "run" / "p.sock")

    assert finding.status is CheckStatus.OK
    assert "created when the daemon starts" in finding.found


def test_a_path_without_room_for_a_name_beside_it_fails(tmp_path):
    path = tmp_path / ("x" * (95 - len(str(tmp_path))))

    assert endpoints.own(path).status is CheckStatus.FAIL


def test_a_file_in_the_place_of_our_socket_fails(tmp_path):
    (tmp_path / "p.sock").write_text("mine")

    assert "is not a socket" in endpoints.own(tmp_path / "p.sock").found


def test_a_place_below_a_file_fails(tmp_path):
    (tmp_path / "file").touch()

    assert endpoints.own(tmp_path / "file" / "p.sock").status is CheckStatus.FAIL


def test_a_served_socket_differs_from_one_left_behind(tmp_path):
    path = tmp_path / "p.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o660)
        server.listen()
        assert "served by a daemon (0660 " in endpoints.own(path).found

    assert "left behind by a stopped daemon" in endpoints.own(path).found


def test_a_socket_that_everybody_may_use_is_a_warning(tmp_path):
    with _left_behind(tmp_path / "p.sock") as path:
        path.chmod(0o666)

        assert endpoints.own(path).status is CheckStatus.WARN


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--container-runtime-endpoint=unix://{listen}"], "ok"),
        (["--container-runtime-endpoint", "{listen}"], "ok"),
        (["--container-runtime-endpoint=unix:///run/containerd/containerd.sock"], "warn"),
        (["--config={directory}/config.yaml"], "ok"),
        (["--config={directory}/none.yaml"], "warn"),
        ([], "warn"),
    ],
)
def test_the_kubelet_that_runs_here_is_asked_by_its_command_line(tmp_path, words, status):
    listen = tmp_path / "p.sock"
    (tmp_path / "config.yaml").write_text(f'a: b\ncontainerRuntimeEndpoint: "unix://{listen}"\n')
    filled = [word.format(listen=listen, directory=tmp_path) for word in words]
    _process(tmp_path, "7", "bash", ["bash"])
    _process(tmp_path, "42", "kubelet", ["/usr/bin/kubelet", *filled])

    assert endpoints.kubelet(listen, tmp_path / "proc").status == status


def test_a_node_without_kubelet_is_fine(tmp_path):
    (tmp_path / "proc").mkdir()

    assert (
        endpoints.kubelet(tmp_path / "p.sock", tmp_path / "proc").found
        == "not running on this node"
    )


def _process(directory, number, name, arguments):
    place = directory / "proc" / number
    place.mkdir(parents=True)
    (place / "comm").write_text(f"{name}\n")
    (place / "cmdline").write_text("".join(f"{argument}\0" for argument in arguments))


class _left_behind:  # noqa: N801 - a context manager
    """A socket file without a listener."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(self.path))
        return self.path

    def __exit__(self, *_):
        self.path.unlink()
