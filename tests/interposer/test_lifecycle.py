"""The interceptors of annotated pods' calls: what they forward, wait for, keep and refuse."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from cri_proxy import errors
from cri_proxy.cri import api_pb2, methods
from cri_proxy.cri.runtime import Runtime
from cri_proxy.interposer import adjustment, generations, imageconfigs, lifecycle
from cri_proxy.interposer.handlers import Handlers
from cri_proxy.model.environments import Environment, Mode
from cri_proxy.model.references import Reference
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store.disk import leases
from hack.testbed.fake_runtime import Context, FakeRuntime
from tests.interposer.conftest import RecordedCall

FLOX_ENV = StorePath("0" * 32, "environment-run")
WEB = Reference("acme", "web")
CONTAINER_STATUS = methods.path_of("ContainerStatus")
ANNOTATIONS = {"flox.dev/environment": "acme/web"}


@dataclass
class Realizer:
    """Realizes nothing: has one environment, and records who asks for which."""

    environment: Environment
    begun: list[Reference] = field(default_factory=list)
    timeouts: list[float | None] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def begin(
        self, reference: Reference, *, token: str | None, mode: Mode, has_shell: bool
    ) -> Realizer:
        self.begun.append(reference)
        return self

    async def wait(self, timeout: float | None) -> Environment:
        self.timeouts.append(timeout)
        return self.environment

    async def load(self, identity: str) -> Environment | None:
        self.loaded.append(identity)
        return self.environment


@pytest.fixture
def realizer(tmp_path: Path) -> Realizer:
    """A realizer with an environment on disk."""
    place = tmp_path / "environments" / "0-acme-web"
    (place / "store" / FLOX_ENV.basename).mkdir(parents=True)
    (place / "environment.json").touch()
    return Realizer(
        Environment(
            identity=place.name,
            reference=WEB.at(3),
            revision="r",
            lock_digest="d",
            system="x86_64-linux",
            mode=Mode.RUN,
            flox_env=FLOX_ENV,
            shell=None,
            variables=(),
            closure=(FLOX_ENV,),
            nar_bytes=0,
            realized_at=0.0,
            store=place / "store",
        )
    )


@pytest.fixture
def policy(tmp_path: Path) -> lifecycle.Policy:
    return lifecycle.Policy(Handlers({"flox": "runc"}), 1.5, kubelet_root=tmp_path / "kubelet")


@pytest.fixture
def create(
    realizer: Realizer, runtime: FakeRuntime, queries: Runtime, policy: lifecycle.Policy
) -> lifecycle.CreateContainer:
    image = api_pb2.ImageStatusResponse(image=api_pb2.Image(id="sha256:1"))
    runtime.answer(methods.path_of("ImageStatus"), image)
    kept = generations.KeptGenerations(queries.containers)
    configs = imageconfigs.ImageConfigs(queries)
    return lifecycle.CreateContainer(realizer, configs, kept, None, policy)


def container_of(annotations: dict[str, str], name: str = "main") -> bytes:
    request = api_pb2.CreateContainerRequest(
        pod_sandbox_id="sandbox",
        config=api_pb2.ContainerConfig(
            metadata=api_pb2.ContainerMetadata(name=name),
            image=api_pb2.ImageSpec(image="sha256:1", runtime_handler="flox"),
            command=["true"],
        ),
        sandbox_config=api_pb2.PodSandboxConfig(
            metadata=api_pb2.PodSandboxMetadata(uid="pod"), annotations=annotations
        ),
    )
    return request.SerializeToString() + b"\xfa\x3f\x03new"


def sandbox_of(annotations: dict[str, str], *, handler: str = "") -> bytes:
    config = api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(name="web", namespace="shop"), annotations=annotations
    )
    request = api_pb2.RunPodSandboxRequest(config=config, runtime_handler=handler)
    return request.SerializeToString() + b"\xfa\x3f\x03new"


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {"note": "about flox.dev/environment"},
        ANNOTATIONS | {"flox.dev/skip-containers": "main"},
        ANNOTATIONS | {"flox.dev/environment.main": ""},
    ],
)
async def test_a_container_without_an_environment_is_forwarded_unchanged(
    create: lifecycle.CreateContainer,
    realizer: Realizer,
    call: RecordedCall,
    annotations: dict[str, str],
) -> None:
    payload = container_of(annotations)

    assert await create(payload, call) == b"response"
    assert call.forwarded[0] is payload
    assert realizer.begun == []


async def test_a_container_gets_its_environment_and_the_runtimes_own_handler(
    create: lifecycle.CreateContainer, realizer: Realizer, call: RecordedCall
) -> None:
    await create(container_of(ANNOTATIONS), call)

    config = api_pb2.CreateContainerRequest.FromString(call.forwarded[0]).config
    assert [each.host_path for each in config.mounts] == [str(realizer.environment.store)]
    assert config.annotations[adjustment.IDENTITY_ANNOTATION] == "0-acme-web"
    assert config.image.runtime_handler == "runc"
    assert b"\xfa\x3f\x03new" in call.forwarded[0]


@pytest.mark.parametrize(("seconds", "timeout"), [(10.0, 8.5), (1.0, 0.0), (None, None)])
async def test_a_margin_of_the_deadline_is_left_to_the_runtime(
    create: lifecycle.CreateContainer,
    realizer: Realizer,
    seconds: float | None,
    timeout: float | None,
) -> None:
    await create(container_of(ANNOTATIONS), RecordedCall(seconds=seconds))

    assert realizer.timeouts == [timeout]


async def test_a_pods_later_container_gets_what_the_first_was_given(
    create: lifecycle.CreateContainer, realizer: Realizer, call: RecordedCall
) -> None:
    await create(container_of(ANNOTATIONS), call)
    await create(container_of(ANNOTATIONS, "second"), call)

    assert realizer.begun == [WEB]
    assert realizer.loaded == ["0-acme-web"]


async def test_the_environment_is_leased_until_the_runtime_has_answered(
    create: lifecycle.CreateContainer, realizer: Realizer
) -> None:
    place = realizer.environment.store.parent
    claims: list[leases.Lease | None] = []
    await create(
        container_of(ANNOTATIONS),
        RecordedCall(on_forward=lambda: claims.append(leases.claim(place))),
    )

    assert claims == [None]
    afterwards = leases.claim(place)
    assert afterwards is not None
    afterwards.release()


@pytest.mark.parametrize("is_whole", [True, False], ids=["all of it", "its view"])
async def test_a_container_is_refused_if_its_environment_was_removed_meanwhile(
    create: lifecycle.CreateContainer, realizer: Realizer, call: RecordedCall, is_whole: bool
) -> None:
    view = realizer.environment.store / FLOX_ENV.basename
    view.rmdir()
    if is_whole:
        view.parent.rmdir()
        (view.parent.parent / "environment.json").unlink()
        view.parent.parent.rmdir()

    with pytest.raises(errors.SourceUnreachable, match="acme/web:3 was removed from this node"):
        await create(container_of(ANNOTATIONS), call)

    assert call.forwarded == []


@pytest.fixture
def run(realizer: Realizer, policy: lifecycle.Policy) -> lifecycle.RunPodSandbox:
    return lifecycle.RunPodSandbox(realizer, policy)


async def test_a_sandbox_without_annotations_is_forwarded_unchanged(
    run: lifecycle.RunPodSandbox, realizer: Realizer, call: RecordedCall
) -> None:
    payload = sandbox_of({"app": "web"}, handler="runsc")

    assert await run(payload, call) == b"response"
    assert call.forwarded[0] is payload
    assert realizer.begun == []


async def test_a_sandboxs_environments_begin_but_not_thousands_of_them(
    run: lifecycle.RunPodSandbox, realizer: Realizer, call: RecordedCall
) -> None:
    many = {f"flox.dev/environment.c{number}": f"acme/e{number}" for number in range(1000)}
    payload = sandbox_of(ANNOTATIONS | many)
    await run(payload, call)

    assert call.forwarded[0] is payload
    assert realizer.begun[0] == WEB
    assert len(realizer.begun) == 16


async def test_a_mapped_handler_becomes_the_runtimes_own(
    run: lifecycle.RunPodSandbox, call: RecordedCall
) -> None:
    await run(sandbox_of(ANNOTATIONS, handler="flox"), call)

    assert call.forwarded == [sandbox_of(ANNOTATIONS, handler="runc")]


async def test_a_mapped_handler_without_an_environment_is_refused(
    run: lifecycle.RunPodSandbox, call: RecordedCall
) -> None:
    with pytest.raises(errors.RequestInvalid, match="pod shop/web has none") as refused:
        await run(sandbox_of({"flox.dev/enviroment": "acme/web"}, handler="flox"), call)

    assert "unknown annotation 'flox.dev/enviroment'" in str(refused.value)
    assert call.forwarded == []


EXECS = [api_pb2.ExecRequest, api_pb2.ExecSyncRequest]


@pytest.mark.parametrize("kind", EXECS)
async def test_exec_joins_the_activation_of_its_container(
    runtime: FakeRuntime,
    queries: Runtime,
    call: RecordedCall,
    kind: type[api_pb2.ExecRequest],
) -> None:
    notes = {adjustment.EXEC_ANNOTATION: json.dumps(["/bash", "--"]), "other": "x"}
    status = api_pb2.ContainerStatus(id="c1", annotations=notes)
    runtime.answer(CONTAINER_STATUS, api_pb2.ContainerStatusResponse(status=status))
    execute = lifecycle.Exec(kind, lifecycle.Annotations(queries))
    for _ in range(2):
        request = kind(container_id="c1", cmd=["cat", "a b"])
        await execute(request.SerializeToString() + b"\xfa\x3f\x03new", call)

    for payload in call.forwarded:
        assert list(kind.FromString(payload).cmd) == ["/bash", "--", "cat", "a b"]
        assert b"\xfa\x3f\x03new" in payload
    assert len(runtime.calls) == 1


@pytest.mark.parametrize("kind", EXECS)
async def test_exec_in_any_other_container_is_forwarded_unchanged(
    runtime: FakeRuntime,
    queries: Runtime,
    call: RecordedCall,
    kind: type[api_pb2.ExecRequest],
) -> None:
    async def status(payloads: AsyncIterator[bytes], context: Context) -> None:
        request = api_pb2.ContainerStatusRequest.FromString(await anext(aiter(payloads)))
        if request.container_id == "gone":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such container")
        found = api_pb2.ContainerStatus(id=request.container_id, annotations={"other": "x"})
        await context.write(api_pb2.ContainerStatusResponse(status=found).SerializeToString())

    runtime.on(CONTAINER_STATUS, status)
    execute = lifecycle.Exec(kind, lifecycle.Annotations(queries))
    payloads = [kind(container_id=each, cmd=["cat"]).SerializeToString() for each in ("c1", "gone")]
    payloads.append(b"\x0a\xff\xff\xff")
    for payload in payloads:
        assert await execute(payload, call) == b"response"

    assert all(ours is theirs for ours, theirs in zip(call.forwarded, payloads))


def test_what_cannot_be_decoded_is_refused_only_with_our_annotation_in_it() -> None:
    broken = b"\x0a\xff\xff\xff"
    assert lifecycle.decode(api_pb2.CreateContainerRequest, broken) is None

    with pytest.raises(errors.RequestInvalid, match="CreateContainerRequest has the anno"):
        lifecycle.decode(api_pb2.CreateContainerRequest, broken + b"flox.dev/environment")
