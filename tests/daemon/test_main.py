"""The daemon's own life: readiness, sockets, signals, a runtime that comes late or goes away."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cri_proxy.cri import api_pb2, channels, methods
from hack.testbed import processes, waiting
from hack.testbed.fake_runtime import Context
from tests.daemon.conftest import Station

SLOW = "/runtime.v1.RuntimeService/StopContainer"
RUN = methods.path_of("RunPodSandbox")
CREATE = methods.path_of("CreateContainer")
ANNOTATED = api_pb2.CreateContainerRequest(
    config=api_pb2.ContainerConfig(image=api_pb2.ImageSpec(image="sha256:1"), command=["true"]),
    sandbox_config=api_pb2.PodSandboxConfig(annotations={"flox.dev/environment": "acme/none"}),
).SerializeToString()
OUR_LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (debug|info|warning|error) [a-z.]+: ")


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """Stand where systemd listens for readiness."""
    place = tmp_path / "notify.sock"
    monkeypatch.setenv("NOTIFY_SOCKET", str(place))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(place))
    listener.settimeout(60)
    return listener


async def test_readiness_is_reported_once_the_runtime_has_answered(
    station: Station, listener: socket.socket
) -> None:
    with listener:
        await station.runtime.stop()
        await asyncio.to_thread(station.proxy.start, awaited=False)
        await asyncio.to_thread(
            waiting.until, lambda: "serving" in station.proxy.log_text(), what="the proxy to serve"
        )
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.recv(100)
        listener.settimeout(60)

        await station.runtime.start()

        assert await asyncio.to_thread(listener.recv, 100) == b"READY=1"


async def test_calls_fail_as_unavailable_while_the_runtime_is_away_and_work_when_it_is_back(
    station: Station,
) -> None:
    await asyncio.to_thread(station.proxy.start)
    version = station.caller.unary_unary(methods.path_of("Version"))
    await station.runtime.stop()

    with pytest.raises(grpc.aio.AioRpcError) as away:
        await version(b"", timeout=30)
    await station.runtime.start()

    assert away.value.code() is grpc.StatusCode.UNAVAILABLE
    async with asyncio.timeout(60):
        while True:
            try:
                assert await version(b"1", timeout=30) == b"1"
            except grpc.aio.AioRpcError:
                continue
            break


async def _slow_answer(
    station: Station, method: str = SLOW
) -> tuple[grpc.aio.UnaryUnaryCall[bytes, bytes], asyncio.Event]:
    """Return a call in flight at the runtime, which answers when the event is set."""
    released = asyncio.Event()

    async def behaviour(payloads: object, context: Context) -> None:
        await released.wait()
        await context.write(b"done")

    station.runtime.on(method, behaviour)
    call = station.caller.unary_unary(method)(b"", timeout=60)
    await station.runtime.called(method)
    return call, released


async def test_the_first_signal_lets_calls_in_flight_end(station: Station) -> None:
    await asyncio.to_thread(station.proxy.start)
    call, released = await _slow_answer(station)

    os.kill(station.proxy.pid, signal.SIGTERM)
    await asyncio.to_thread(
        waiting.until, lambda: "draining" in station.proxy.log_text(), what="the proxy to drain"
    )
    released.set()

    assert await call == b"done"
    await asyncio.to_thread(
        waiting.until, lambda: "stopped" in station.proxy.log_text(), what="the proxy to end"
    )


async def test_standard_error_has_only_our_own_lines(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default gRPC logs a notice for each program that is started while calls are in flight."""
    for variable in ("GRPC_ENABLE_FORK_SUPPORT", "GRPC_VERBOSITY"):
        monkeypatch.delenv(variable)  # this process has set them, too
    await asyncio.to_thread(station.proxy.start)
    call, released = await _slow_answer(station, RUN)
    (worker,) = _children_of(station.proxy.pid)
    os.kill(worker, signal.SIGKILL)

    await asyncio.to_thread(
        waiting.until, lambda: worker not in _children_of(station.proxy.pid), what="its death"
    )
    with pytest.raises(grpc.aio.AioRpcError, match="acme/none"):
        await station.caller.unary_unary(CREATE)(ANNOTATED, timeout=60)  # takes a new worker
    released.set()
    await call

    lines = station.proxy.log_text().splitlines()
    assert any("acme/none" in line for line in lines)
    assert [line for line in lines if not OUR_LINE.match(line)] == []


async def test_the_second_signal_ends_at_once(station: Station) -> None:
    await asyncio.to_thread(station.proxy.start)
    call, _ = await _slow_answer(station)

    os.kill(station.proxy.pid, signal.SIGTERM)
    await asyncio.to_thread(
        waiting.until, lambda: "draining" in station.proxy.log_text(), what="the proxy to drain"
    )
    os.kill(station.proxy.pid, signal.SIGTERM)

    with pytest.raises(grpc.aio.AioRpcError):
        await call
    await asyncio.to_thread(
        waiting.until, lambda: "stopped" in station.proxy.log_text(), what="the proxy to end"
    )


async def test_a_second_proxy_at_the_same_socket_is_refused_in_a_sentence(station: Station) -> None:
    await asyncio.to_thread(station.proxy.start)

    second = await asyncio.to_thread(
        subprocess.run,
        station.proxy.argv("serve"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert second.returncode == 1
    assert str(station.proxy.socket) in second.stderr
    assert "--replace" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize("more", [(), ("--set", "serve.front=interposer")], ids=["router", "alone"])
async def test_a_proxy_that_is_replaced_finishes_its_calls_and_ends(
    station: Station, more: tuple[str, ...]
) -> None:
    """Whatever was in front and will be; new connections are the new one's from the first."""
    await asyncio.to_thread(station.proxy.start)
    old = station.proxy.pid
    call, released = await _slow_answer(station)
    program = processes.Program(
        [*station.proxy.argv("serve"), "--replace", *more],
        log=station.proxy.directory / "log-of-the-new",
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=station.proxy.directory,
    )
    try:
        await asyncio.to_thread(
            waiting.until, lambda: "draining" in station.proxy.log_text(), what="the old to drain"
        )
        async with channels.dial(station.proxy.socket) as caller:
            version = caller.unary_unary(methods.path_of("Version"))
            assert await version(b"1", timeout=30) == b"1"

        released.set()
        assert await call == b"done"
        await asyncio.to_thread(
            waiting.until, lambda: "stopped" in station.proxy.log_text(), what="the old to end"
        )
        async with channels.dial(station.proxy.socket) as caller:
            assert await caller.unary_unary(methods.path_of("Version"))(b"2", timeout=30) == b"2"
        assert program.pid != old
    finally:
        program.stop()


async def test_no_worker_outlives_a_proxy_that_was_killed(station: Station) -> None:
    await asyncio.to_thread(station.proxy.start)
    children = _children_of(station.proxy.pid)

    station.proxy.kill()

    assert children
    await asyncio.to_thread(
        waiting.until,
        lambda: not any(Path(f"/proc/{child}/cmdline").exists() for child in children),
        what="the workers to end",
    )


def _children_of(process: int) -> list[int]:
    return [
        int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]
