"""The spans of a pod's startup, and that tracing changes nothing but one header."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from cri_proxy.cri import api_pb2, methods
from hack.testbed import waiting
from hack.testbed.collector import Collector, Span
from tests.daemon.conftest import Station

RUN = methods.path_of("RunPodSandbox")
PULL = methods.path_of("PullImage")
CREATE = methods.path_of("CreateContainer")
START = methods.path_of("StartContainer")
STOP_CONTAINER = methods.path_of("StopContainer")
STOP = methods.path_of("StopPodSandbox")
ENDING = (
    (STOP_CONTAINER, api_pb2.StopContainerRequest(container_id="container-1")),
    (STOP, api_pb2.StopPodSandboxRequest(pod_sandbox_id="sandbox-1")),
    (
        methods.path_of("RemoveContainer"),
        api_pb2.RemoveContainerRequest(container_id="container-1"),
    ),
    (
        methods.path_of("RemovePodSandbox"),
        api_pb2.RemovePodSandboxRequest(pod_sandbox_id="sandbox-1"),
    ),
)
UID = "7f1c9a52-0b62-4d4e-9b1f-5e1c8a6b7d10"
KUBELETS_TRACE = "0af7651916cd43dd8448eb211c80319c"
KUBELETS_SPAN = "b7ad6b7169203331"


def kubelets(*, is_sampled: bool, span: str = KUBELETS_SPAN) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a kubelet that traces."""
    return (
        ("traceparent", f"00-{KUBELETS_TRACE}-{span}-0{int(is_sampled)}"),
        ("tracestate", "vendor=1"),
        ("baggage", "a=b"),
    )


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
async def traced(station: Station, collector: Collector) -> Station:
    """A station that sends traces, and whose runtime makes a sandbox and containers."""
    station.proxy.configure(
        {"tracing": {"exporter": "otlp", "endpoint": collector.url, "settle_seconds": 0.3}}
    )
    serve(station)
    await asyncio.to_thread(station.proxy.start)
    station.runtime.calls.clear()
    return station


def serve(station: Station) -> None:
    """Let the runtime answer the calls of a startup."""
    runtime = station.runtime
    runtime.answer(RUN, api_pb2.RunPodSandboxResponse(pod_sandbox_id="sandbox-1"))
    runtime.answer(CREATE, api_pb2.CreateContainerResponse(container_id="container-1"))
    runtime.answer(START, api_pb2.StartContainerResponse())
    runtime.answer(STOP, api_pb2.StopPodSandboxResponse())
    runtime.answer(STOP_CONTAINER, api_pb2.StopContainerResponse())
    runtime.answer(methods.path_of("RemoveContainer"), api_pb2.RemoveContainerResponse())
    runtime.answer(methods.path_of("RemovePodSandbox"), api_pb2.RemovePodSandboxResponse())
    runtime.answer(
        methods.path_of("ImageStatus"),
        api_pb2.ImageStatusResponse(image=api_pb2.Image(id="sha256:1")),
    )


def config(annotations: dict[str, str] | None = None) -> api_pb2.PodSandboxConfig:
    return api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(uid=UID, name="web", namespace="shop"),
        annotations=annotations or {},
    )


def run_request(annotations: dict[str, str] | None = None) -> bytes:
    request = api_pb2.RunPodSandboxRequest(config=config(annotations))
    return request.SerializeToString() + b"\xfa\x3f\x03new"


def create_request(annotations: dict[str, str] | None = None, *, attempt: int = 0) -> bytes:
    request = api_pb2.CreateContainerRequest(
        pod_sandbox_id="sandbox-1",
        config=api_pb2.ContainerConfig(
            metadata=api_pb2.ContainerMetadata(name="main", attempt=attempt),
            image=api_pb2.ImageSpec(image="sha256:1", user_specified_image="shop/web:1"),
            command=["serve"],
            envs=[api_pb2.KeyValue(key="PASSWORD", value=b"do-not-tell")],
        ),
        sandbox_config=config(annotations),
    )
    return request.SerializeToString() + b"\xfa\x3f\x03new"


START_REQUEST = api_pb2.StartContainerRequest(container_id="container-1").SerializeToString()


async def call(station: Station, path: str, payload: bytes, metadata: Any = ()) -> bytes:
    answer: bytes = await station.caller.unary_unary(path)(
        payload, metadata=metadata, timeout=60, wait_for_ready=True
    )
    return answer


async def wait(collector: Collector, name: str, **count: int) -> Span:
    return await asyncio.to_thread(collector.wait, name, **count)


async def test_a_startup_is_one_trace_that_the_pod_determines(
    traced: Station, collector: Collector
) -> None:
    await call(traced, RUN, run_request())
    await call(traced, CREATE, create_request())
    await call(traced, START, START_REQUEST)

    root = await wait(collector, "pod.startup")

    assert collector.tree(root) == [
        "pod.startup",
        [
            [RUN[1:], [[RUN[1:], []]]],
            [CREATE[1:], [[CREATE[1:], []]]],
            [START[1:], [[START[1:], []]]],
        ],
    ]
    assert {span.trace_id for span in collector.spans()} == {root.trace_id}
    assert root.parent_id == ""
    digest = hashlib.sha256(f"cri-proxy pod.startup {UID} 0".encode()).hexdigest()
    assert (root.trace_id, root.span_id) == (digest[:32], digest[32:48])
    assert root.end >= max(span.end for span in collector.children(root))
    assert root.attributes["k8s.pod.uid"] == UID
    assert root.attributes["k8s.pod.name"] == "web"
    assert root.attributes["k8s.namespace.name"] == "shop"


async def test_behind_the_router_the_same_calls_are_traced_and_no_others(
    traced: Station, collector: Collector
) -> None:
    traced.proxy.configure({"serve": {"front": "router"}})
    await asyncio.to_thread(traced.proxy.restart)
    metadata = kubelets(is_sampled=True)
    polled = methods.path_of("ListContainers")
    traced.runtime.calls.clear()

    await call(traced, RUN, run_request(), metadata)
    await call(traced, polled, b"", metadata)
    await call(traced, CREATE, create_request(), metadata)
    await call(traced, START, START_REQUEST, metadata)

    root = await wait(collector, "pod.startup")
    received = await traced.runtime.called(polled)
    assert {span.trace_id for span in collector.spans()} == {KUBELETS_TRACE}
    assert {span.name for span in collector.spans()} == {
        "pod.startup",
        *(path[1:] for path in (RUN, CREATE, START)),
    }
    assert root.parent_id == KUBELETS_SPAN
    assert received.values_of("traceparent") == [metadata[0][1]]


async def test_calls_follow_the_semantic_conventions(traced: Station, collector: Collector) -> None:
    await call(traced, RUN, run_request())
    await call(traced, CREATE, create_request())
    await call(traced, START, START_REQUEST)

    await wait(collector, "pod.startup")

    server, client = collector.spans(CREATE[1:])
    assert (server.kind, client.kind) == ("server", "client")
    for span in (server, client):
        assert span.attributes["rpc.system.name"] == "grpc"
        assert span.attributes["rpc.method"] == "runtime.v1.RuntimeService/CreateContainer"
        assert span.attributes["rpc.status_code"] == "OK"
        assert span.attributes["k8s.container.name"] == "main"
        assert span.attributes["k8s.container.restart_count"] == 0
        assert span.attributes["container.image.name"] == "shop/web:1"
        assert span.attributes["k8s.pod.uid"] == UID
    assert server.attributes["container.id"] == "container-1"
    start = collector.spans(START[1:])[0]
    assert start.attributes["container.id"] == "container-1"
    assert start.attributes["k8s.container.name"] == "main"
    assert server.attributes["server.address"] == str(traced.proxy.socket)
    assert client.attributes["server.address"] == str(traced.runtime.socket)
    assert client.attributes["cri_proxy.rewritten"] is False
    assert collector.resources[0]["service.name"] == "cri-proxy"
    assert "do-not-tell" not in repr(collector.spans())


async def test_payloads_pass_byte_for_byte_and_only_the_traceparent_is_replaced(
    traced: Station, collector: Collector
) -> None:
    metadata = (*kubelets(is_sampled=True), ("x-own", "1"), ("x-odd-bin", b"\x00\xff"))
    payload = create_request()

    await call(traced, CREATE, payload, metadata)

    await wait(collector, "pod.startup")
    received = await traced.runtime.called(CREATE)
    client = next(span for span in collector.spans(CREATE[1:]) if span.kind == "client")
    assert received.payloads == [payload]
    assert received.values_of("traceparent") == [f"00-{KUBELETS_TRACE}-{client.span_id}-01"]
    for key, value in metadata[1:]:
        assert received.values_of(key) == [value]


async def test_a_sampled_context_of_kubelets_is_continued(
    traced: Station, collector: Collector
) -> None:
    await call(traced, RUN, run_request(), kubelets(is_sampled=True))
    await call(traced, CREATE, create_request(), kubelets(is_sampled=True, span="1" * 16))

    root = await wait(collector, "pod.startup")

    assert {span.trace_id for span in collector.spans()} == {KUBELETS_TRACE}
    assert root.parent_id == KUBELETS_SPAN
    assert collector.spans(RUN[1:])[0].parent_id == root.span_id
    assert collector.spans(CREATE[1:])[0].parent_id == "1" * 16


async def test_an_unsampled_context_of_kubelets_is_linked_and_not_followed(
    traced: Station, collector: Collector
) -> None:
    await call(traced, RUN, run_request(), kubelets(is_sampled=False))

    root = await wait(collector, "pod.startup")

    assert root.trace_id != KUBELETS_TRACE
    assert collector.spans(RUN[1:])[0].links == ((KUBELETS_TRACE, KUBELETS_SPAN),)


async def test_a_later_trace_of_kubelets_joins_the_startup_with_a_link(
    traced: Station, collector: Collector
) -> None:
    await call(traced, RUN, run_request())
    await call(traced, CREATE, create_request(), kubelets(is_sampled=True))

    root = await wait(collector, "pod.startup")

    server = collector.spans(CREATE[1:])[0]
    assert server.parent_id == root.span_id
    assert server.links == ((KUBELETS_TRACE, KUBELETS_SPAN),)


@pytest.mark.parametrize("is_sampled", [None, True, False], ids=["none", "sampled", "unsampled"])
async def test_a_proxy_that_is_killed_in_between_goes_on_with_the_same_trace(
    traced: Station, collector: Collector, is_sampled: bool | None
) -> None:
    metadata = () if is_sampled is None else kubelets(is_sampled=is_sampled)
    traced.proxy.configure({"tracing": {"settle_seconds": 3}})
    await asyncio.to_thread(traced.proxy.restart)
    await call(traced, RUN, run_request(), metadata)
    await asyncio.to_thread(
        waiting.until, lambda: RUN[1:] in kept(traced), what="the ring to be written"
    )
    traced.proxy.kill()
    await asyncio.to_thread(traced.proxy.start)
    await call(traced, CREATE, create_request(), metadata)
    await call(traced, START, START_REQUEST, metadata)

    root = await wait(collector, "pod.startup")

    spans = [*collector.spans(CREATE[1:]), *collector.spans(START[1:])]
    sent = await traced.runtime.called(RUN)
    (before,) = sent.values_of("traceparent")
    assert {span.trace_id for span in spans} == {root.trace_id} == {str(before).split("-")[1]}
    assert len(collector.spans("pod.startup")) == 1
    assert root.start < min(span.start for span in spans)
    assert root.end >= max(span.end for span in spans if span.kind == "client")


async def test_a_container_created_before_the_proxy_was_killed_is_started_in_the_same_trace(
    traced: Station, collector: Collector
) -> None:
    traced.proxy.configure({"tracing": {"settle_seconds": 3}})
    await asyncio.to_thread(traced.proxy.restart)
    await call(traced, RUN, run_request())
    await call(traced, CREATE, create_request())
    await asyncio.to_thread(
        waiting.until, lambda: "container-1" in kept(traced), what="the ring to be written"
    )
    traced.proxy.kill()
    await asyncio.to_thread(traced.proxy.start)
    await call(traced, START, START_REQUEST)

    root = await wait(collector, "pod.startup")

    assert collector.spans(START[1:])[0].parent_id == root.span_id


async def test_a_failure_is_recorded_and_a_retry_is_known_as_one(
    traced: Station, collector: Collector
) -> None:
    await call(traced, RUN, run_request())
    traced.runtime.fail(CREATE, grpc.StatusCode.UNAVAILABLE, "not yet")
    with pytest.raises(grpc.aio.AioRpcError, match="not yet"):
        await call(traced, CREATE, create_request())
    serve(traced)
    await call(traced, CREATE, create_request())

    root = await wait(collector, "pod.startup")

    first, second = (span for span in collector.spans(CREATE[1:]) if span.kind == "server")
    assert first.is_error
    assert first.message == "not yet"
    assert first.attributes["rpc.status_code"] == first.attributes["error.type"] == "UNAVAILABLE"
    assert second.attributes["cri_proxy.try"] == 2
    assert second.links == ((root.trace_id, first.span_id),)
    assert not root.is_error


async def test_a_startup_whose_sandbox_is_stopped_is_over_at_once(
    traced: Station, collector: Collector
) -> None:
    traced.proxy.configure({"tracing": {"settle_seconds": 3600}})
    await asyncio.to_thread(traced.proxy.restart)
    await call(traced, RUN, run_request())
    await call(
        traced, STOP, api_pb2.StopPodSandboxRequest(pod_sandbox_id="sandbox-1").SerializeToString()
    )

    assert await wait(collector, "pod.startup")


async def test_a_pods_end_is_a_trace_of_its_own_with_a_link_to_its_startup(
    traced: Station, collector: Collector
) -> None:
    await call(traced, RUN, run_request())
    await call(traced, CREATE, create_request())
    for path, payload in ENDING:
        await call(traced, path, payload.SerializeToString())

    stop = await wait(collector, "pod.stop")
    root = await wait(collector, "pod.startup")

    assert stop.trace_id != root.trace_id
    assert stop.links == ((root.trace_id, root.span_id),)
    assert collector.tree(stop) == [
        "pod.stop",
        [[path[1:], [[path[1:], []]]] for path, _ in ENDING],
    ]
    assert stop.attributes["k8s.pod.name"] == "web"
    stopped = collector.spans(STOP_CONTAINER[1:])[0]
    assert stopped.attributes["k8s.container.name"] == "main"
    assert stopped.attributes["container.id"] == "container-1"


async def test_the_end_of_a_pod_that_a_killed_proxy_started_is_linked_to_its_startup(
    traced: Station, collector: Collector
) -> None:
    await call(traced, RUN, run_request())
    await call(traced, CREATE, create_request())
    root = await wait(collector, "pod.startup")
    await asyncio.to_thread(
        waiting.until, lambda: "pod.startup" in kept(traced), what="the ring to be written"
    )
    traced.proxy.kill()
    await asyncio.to_thread(traced.proxy.start)
    path, payload = ENDING[0]

    await call(traced, path, payload.SerializeToString(), kubelets(is_sampled=False))

    stop = await wait(collector, "pod.stop")
    server = collector.spans(path[1:])[0]
    assert stop.links == ((root.trace_id, root.span_id),)
    assert server.links == ((KUBELETS_TRACE, KUBELETS_SPAN),)
    assert server.parent_id == stop.span_id


async def test_the_end_of_a_pod_is_in_kubelets_trace_where_it_has_one(
    traced: Station, collector: Collector
) -> None:
    await call(traced, RUN, run_request())
    path, payload = ENDING[1]

    await call(traced, path, payload.SerializeToString(), kubelets(is_sampled=True))

    stop = await wait(collector, "pod.stop")
    server = collector.spans(path[1:])[0]
    assert (server.trace_id, server.parent_id) == (KUBELETS_TRACE, KUBELETS_SPAN)
    assert (stop.trace_id, stop.span_id) in server.links


async def test_a_refusal_is_logged_with_its_trace_id(traced: Station, collector: Collector) -> None:
    annotations = {"flox.dev/environment": "acme/none"}
    with pytest.raises(grpc.aio.AioRpcError):
        await call(traced, CREATE, create_request(annotations))

    server = await wait(collector, CREATE[1:])
    (line,) = (line for line in traced.proxy.log_text().splitlines() if "call refused" in line)
    assert f"trace_id={server.trace_id} span_id={server.span_id}" in line
    assert "kind=NotFound why=" in line
    assert server.attributes["rpc.status_code"] == "NOT_FOUND"


async def test_a_restarted_container_is_no_startup(traced: Station, collector: Collector) -> None:
    metadata = kubelets(is_sampled=False)

    await call(traced, CREATE, create_request(attempt=1), metadata)
    await call(traced, RUN, run_request())
    await wait(collector, "pod.startup")

    assert collector.spans(CREATE[1:]) == []
    received = await traced.runtime.called(CREATE)
    assert received.values_of("traceparent") == [metadata[0][1]]


async def test_only_annotated_pods_are_traced_where_the_settings_say_so(
    traced: Station, collector: Collector
) -> None:
    traced.proxy.configure({"tracing": {"pods": "annotated"}})
    await asyncio.to_thread(traced.proxy.restart)
    traced.runtime.calls.clear()
    metadata = kubelets(is_sampled=True)
    await call(traced, RUN, run_request(), metadata)
    received = await traced.runtime.called(RUN)
    traced.push("web", traced.published.tools)

    await call(traced, CREATE, create_request({"flox.dev/environment": "acme/web"}))

    await wait(collector, "pod.startup")
    assert received.values_of("traceparent") == [metadata[0][1]]
    assert collector.spans(RUN[1:]) == []
    assert collector.spans("realizer.realize")


async def test_a_cold_environment_has_a_span_for_each_step(
    traced: Station, collector: Collector
) -> None:
    annotations = {"flox.dev/environment": "acme/web"}
    traced.push("web", traced.published.tools)

    await call(traced, RUN, run_request(annotations))
    await call(traced, CREATE, create_request(annotations))

    root = await wait(collector, "pod.startup")
    assert "pod started pod=shop/web seconds=" in traced.proxy.log_text()
    assert root.trace_id in traced.proxy.log_text()
    spans = collector.spans()
    realize = collector.spans("realizer.realize")[0]
    names = {span.name for span in spans}
    wait_span = collector.spans("realizer.wait")[0]
    client = next(
        span for span in collector.spans(CREATE[1:]) if span.attributes.get("cri_proxy.rewritten")
    )
    assert {span.trace_id for span in spans} == {root.trace_id}
    assert realize.parent_id == collector.spans(RUN[1:])[0].span_id
    assert names >= {
        *("floxhub.resolve", "realizer.recipe", "store.fetch", "store.survey"),
        *("realizer.assemble", "realizer.render", "store.link", "store.commit"),
        *("realizer.wait", "interposer.rewrite"),
    }
    assert (realize.trace_id, realize.span_id) in wait_span.links
    assert client.kind == "client"
    assert realize.attributes["flox.environment.reference"] == "acme/web"
    assert realize.attributes["cri_proxy.paths.fetched"] == 1
    assert "do-not-tell" not in repr(spans)


async def test_a_large_path_has_a_span_of_its_own_and_the_rest_is_summed(
    traced: Station, collector: Collector
) -> None:
    annotations = {"flox.dev/environment": "acme/web"}
    large = traced.published.package("large", {"share/large": random.Random(5).randbytes(9 << 20)})
    traced.push("web", traced.published.tools, large)

    await call(traced, CREATE, create_request(annotations))

    await wait(collector, "pod.startup")
    paths = {
        span.attributes["cri_proxy.path"]: span for span in collector.spans("store.fetch_path")
    }
    span = next(span for path, span in paths.items() if path.endswith("-large"))
    assert [child.name for child in collector.children(span)] == ["store.unpack", "store.commit"]
    assert span.attributes["cri_proxy.bytes"] > 9 << 20
    assert span.parent_id == collector.spans("store.fetch")[0].span_id
    rest = collector.spans("store.fetch")[0].attributes.get("cri_proxy.rest.paths", 0)
    assert rest + len(paths) == 2


async def test_a_collector_that_is_not_there_costs_its_spans_and_one_warning(
    station: Station,
) -> None:
    station.proxy.configure(
        {"tracing": {"exporter": "otlp", "endpoint": "http://127.0.0.1:9", "settle_seconds": 0.1}}
    )
    serve(station)
    await asyncio.to_thread(station.proxy.start)
    await call(station, RUN, run_request())
    await call(station, CREATE, create_request())

    await asyncio.to_thread(
        waiting.until,
        lambda: "traces are lost" in station.proxy.log_text(),
        what="the warning",
        seconds=90,
    )

    await asyncio.to_thread(station.proxy.stop)
    text = station.proxy.log_text()
    assert text.count("traces are lost") == 1
    assert "Traceback" not in text


async def test_without_a_collector_startups_are_kept_and_not_a_header_is_changed(
    station: Station,
) -> None:
    serve(station)
    await asyncio.to_thread(station.proxy.start)
    metadata = kubelets(is_sampled=True)

    await call(station, RUN, run_request(), metadata)

    received = await station.runtime.called(RUN)
    assert received.values_of("traceparent") == [metadata[0][1]]
    assert await asyncio.to_thread(
        waiting.until, lambda: RUN[1:] in kept(station), what="the ring to be written"
    )


def kept(station: Station) -> str:
    """Return all that is in the ring."""
    files = (station.proxy.root / "traces").glob("*.jsonl")
    return "".join(file.read_text() for file in files)
