"""Annotations that are odd or invalid: refused or honored, never misread, never let through.

And exec: what the runtime is asked to run in a container, argument by argument.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import grpc
import pytest

from cri_proxy.cri import api_pb2, methods
from cri_proxy.interposer import adjustment
from tests.daemon.conftest import Station

CREATE = methods.path_of("CreateContainer")
RUN = methods.path_of("RunPodSandbox")
ENVIRONMENT = "flox.dev/environment"
KIBIBYTE = 1024


@pytest.fixture
async def station(station: Station) -> Station:
    """Start the proxy, with an environment that is published, and one that must be activated."""
    station.push("web", station.published.tools)
    station.runtime.answer(
        methods.path_of("ImageStatus"),
        api_pb2.ImageStatusResponse(image=api_pb2.Image(id="sha256:1")),
    )
    await asyncio.to_thread(station.proxy.start)
    station.runtime.calls.clear()
    return station


def request_of(annotations: dict[str, str], name: str = "main") -> api_pb2.CreateContainerRequest:
    """Return a CreateContainer of a pod with these annotations."""
    return api_pb2.CreateContainerRequest(
        pod_sandbox_id="sandbox",
        config=api_pb2.ContainerConfig(
            metadata=api_pb2.ContainerMetadata(name=name),
            image=api_pb2.ImageSpec(image="sha256:1"),
            command=["true"],
        ),
        sandbox_config=api_pb2.PodSandboxConfig(
            metadata=api_pb2.PodSandboxMetadata(uid="pod"), annotations=annotations
        ),
    )


async def created(station: Station, payload: bytes) -> api_pb2.ContainerConfig:
    """Return the configuration that the runtime received for a container."""
    station.runtime.calls.clear()
    await station.caller.unary_unary(CREATE)(payload, timeout=60)
    call = await station.runtime.called(CREATE)
    return api_pb2.CreateContainerRequest.FromString(call.payloads[0]).config


async def assert_refused(station: Station, path: str, payload: bytes) -> str:
    """Hold the proxy to refusing a call without a word to the runtime; return its sentence."""
    station.runtime.calls.clear()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await station.caller.unary_unary(path)(payload, timeout=60)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not any(call.path == path for call in station.runtime.calls)
    return refused.value.details() or ""


def is_in_environment(config: api_pb2.ContainerConfig) -> bool:
    """Whether a container was given the environment."""
    return any(mount.container_path == "/nix/store" for mount in config.mounts)


@pytest.mark.parametrize(
    "value",
    ["", "\0", "acme/web\0", "acme/web\n7", "acme/\u202eweb", "acme/wéb", "x" * 256 * KIBIBYTE],
    ids=["empty", "nul", "nul behind", "newline", "bidi", "accent", "256 KiB"],
)
@pytest.mark.parametrize("path", [RUN, CREATE])
async def test_an_odd_reference_is_refused_with_a_short_sentence(
    station: Station, value: str, path: str
) -> None:
    request = request_of({ENVIRONMENT: value})
    sandbox = api_pb2.RunPodSandboxRequest(config=request.sandbox_config)
    payload = (request if path == CREATE else sandbox).SerializeToString()

    details = await assert_refused(station, path, payload)

    assert ENVIRONMENT in details
    assert len(details) < KIBIBYTE
    assert details.isprintable()


@pytest.mark.parametrize("odd", [b"\xff", b"\xc3", b"\xed\xa0\x80"])
@pytest.mark.parametrize("path", [RUN, CREATE])
async def test_bytes_that_are_no_text_are_refused(station: Station, odd: bytes, path: str) -> None:
    request = request_of({ENVIRONMENT: "acme/web", "note": "x" * len(odd)})
    sandbox = api_pb2.RunPodSandboxRequest(config=request.sandbox_config)
    payload = (request if path == CREATE else sandbox).SerializeToString()

    details = await assert_refused(
        station,
        path,
        payload.replace(
            b"\x12" + bytes([len(odd)]) + b"x" * len(odd), b"\x12" + bytes([len(odd)]) + odd
        ),
    )

    assert ENVIRONMENT in details


async def test_256_kib_of_other_annotations_are_carried_along(station: Station) -> None:
    others = {f"example.com/{number}": "y" * KIBIBYTE for number in range(255)}

    config = await created(
        station, request_of({**others, ENVIRONMENT: "acme/web"}).SerializeToString()
    )

    assert is_in_environment(config)


async def test_thousands_of_names_and_environments_are_honored(station: Station) -> None:
    """Begun at once are a few of them only; each container gets its own in its time."""
    many = {f"{ENVIRONMENT}.c{number}": f"acme/e{number}" for number in range(5000)}
    names = ",".join(f"s{number}" for number in range(20_000))
    annotations = {
        **many,
        ENVIRONMENT: "acme/web",
        f"{ENVIRONMENT}.mine": "acme/web",
        "flox.dev/skip-containers": f"{names},{names}",
    }
    sandbox = api_pb2.RunPodSandboxRequest(config=request_of(annotations).sandbox_config)
    await station.caller.unary_unary(RUN)(sandbox.SerializeToString(), timeout=60)

    assert is_in_environment(
        await created(station, request_of(annotations, "mine").SerializeToString())
    )
    payload = request_of(annotations, "s19999").SerializeToString()
    assert not is_in_environment(await created(station, payload))
    assert (await station.runtime.called(CREATE)).payloads == [payload]


async def test_a_key_that_comes_twice_counts_as_protobuf_has_it(station: Station) -> None:
    """The last entry of a map is the one that the runtime reads, too."""
    first = request_of({ENVIRONMENT: "acme/absent"}).SerializeToString()
    second = api_pb2.CreateContainerRequest(
        sandbox_config=api_pb2.PodSandboxConfig(annotations={ENVIRONMENT: "acme/web"})
    ).SerializeToString()

    assert is_in_environment(await created(station, first + second))


@pytest.mark.parametrize("value", ["main helper", "main;helper", '["main"]', "mäin"])
@pytest.mark.parametrize("key", ["flox.dev/skip-containers", "flox.dev/skip-containers-exec"])
async def test_names_that_cannot_be_are_refused(station: Station, key: str, value: str) -> None:
    request = request_of({ENVIRONMENT: "acme/web", key: value})

    assert key in await assert_refused(station, CREATE, request.SerializeToString())


def container_of(exec_prefix: Sequence[str] | None) -> api_pb2.ContainerStatusResponse:
    """Return the status of a container that was created with this noted for exec."""
    notes = {adjustment.IDENTITY_ANNOTATION: "x"}
    if exec_prefix is not None:
        notes[adjustment.EXEC_ANNOTATION] = json.dumps(list(exec_prefix))
    status = api_pb2.ContainerStatus(id="c", annotations=notes)
    return api_pb2.ContainerStatusResponse(status=status)


PREFIX = ("/nix/store/b/bin/bash", "-p", "/nix/store/e/activate", "--join", "/k", "--")
ODD = ("sh", "", " ", "a  b", "$HOME", "'", '"', "\n", "--", "é")


async def test_a_streaming_exec_is_prepared_inside_and_all_else_of_it_stays(
    station: Station,
) -> None:
    path = methods.path_of("Exec")
    station.runtime.answer(methods.path_of("ContainerStatus"), container_of(PREFIX))
    request = api_pb2.ExecRequest(container_id="c", cmd=ODD, tty=True, stdin=True, stdout=True)

    await station.caller.unary_unary(path)(
        request.SerializeToString() + b"\xfa\x3f\x03new", timeout=60
    )

    (payload,) = (await station.runtime.called(path)).payloads
    received = api_pb2.ExecRequest.FromString(payload)
    assert list(received.cmd) == [*PREFIX, *ODD]
    assert (received.tty, received.stdin, received.stdout, received.stderr) == (True,) * 3 + (
        False,
    )
    assert payload.count(b"\xfa\x3f\x03new") == 1


async def test_an_exec_that_stays_outside_passes_byte_for_byte(station: Station) -> None:
    station.runtime.answer(methods.path_of("ContainerStatus"), container_of(None))
    for path, request in (
        (methods.path_of("Exec"), api_pb2.ExecRequest(container_id="c", cmd=ODD)),
        (methods.path_of("ExecSync"), api_pb2.ExecSyncRequest(container_id="c", cmd=ODD)),
    ):
        payload = request.SerializeToString() + b"\xfa\x3f\x03new"

        await station.caller.unary_unary(path)(payload, timeout=60)

        assert (await station.runtime.called(path)).payloads == [payload]


@pytest.mark.parametrize("name", ["RemoveContainer", "RemovePodSandbox"])
async def test_a_removal_passes_byte_for_byte(station: Station, name: str) -> None:
    path = methods.path_of(name)
    payload = b"\x0a\x01c\xfa\x3f\x03new"

    await station.caller.unary_unary(path)(payload, timeout=60)

    assert (await station.runtime.called(path)).payloads == [payload]
