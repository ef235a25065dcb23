"""What a scrape shows of the whole program, and what probes are answered."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cri_proxy.cri import api_pb2, methods
from hack.testbed import waiting
from tests.daemon.conftest import Station

MANIFESTS = Path(__file__).parents[2] / "manifests" / "observability"
CREATE = methods.path_of("CreateContainer")
STATUS = methods.path_of("Status")
EVENTS = methods.path_of("GetContainerEvents")


@pytest.fixture
async def measured(station: Station) -> str:
    """A station that is measured; the address that it answers at."""
    station.proxy.configure(
        {"metrics": {"listen": "127.0.0.1:0"}, "serve": {"front": "router"}},
    )
    await asyncio.to_thread(station.proxy.start)
    match = re.search(r"metrics listen=(\S+)", station.proxy.log_text())
    assert match is not None
    return f"http://{match[1]}"


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def samples(url: str) -> dict[str, float]:
    """Return a scrape's samples by name and labels."""
    status, text = await asyncio.to_thread(get, f"{url}/metrics")
    assert status == 200
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def calls(found: dict[str, float], method: str, code: str) -> float:
    name = f'cri_proxy_calls_total{{rpc_method="{method}",rpc_status_code="{code}"}}'
    return found.get(name, 0)


def create_request() -> bytes:
    return api_pb2.CreateContainerRequest(
        pod_sandbox_id="sandbox",
        config=api_pb2.ContainerConfig(
            metadata=api_pb2.ContainerMetadata(name="main"),
            image=api_pb2.ImageSpec(image="sha256:1"),
            command=["true"],
        ),
        sandbox_config=api_pb2.PodSandboxConfig(
            metadata=api_pb2.PodSandboxMetadata(uid="pod"),
            annotations={"flox.dev/environment": "acme/web"},
        ),
    ).SerializeToString()


async def test_relayed_calls_are_counted_by_method_and_status(
    station: Station, measured: str
) -> None:
    await station.caller.unary_unary(STATUS)(b"", timeout=60)
    await station.caller.unary_unary(STATUS)(b"", timeout=60)
    station.runtime.fail(STATUS, grpc.StatusCode.NOT_FOUND)
    with pytest.raises(grpc.aio.AioRpcError):
        await station.caller.unary_unary(STATUS)(b"", timeout=60)
    await station.caller.unary_unary("/runtime.v9.Future/Method")(b"", timeout=60)
    async for _ in station.caller.unary_stream(EVENTS)(b"", timeout=60):
        pass

    found = await samples(measured)

    assert calls(found, STATUS[1:], "OK") == 2
    assert calls(found, STATUS[1:], "NOT_FOUND") == 1
    assert calls(found, EVENTS[1:], "OK") == 1
    assert calls(found, "_OTHER", "OK") == 1
    assert not any("Future" in name for name in found)


async def test_realizations_and_interposed_calls_are_measured(
    station: Station, measured: str
) -> None:
    station.push("web", station.published.tools)
    station.runtime.answer(
        methods.path_of("ImageStatus"),
        api_pb2.ImageStatusResponse(image=api_pb2.Image(id="sha256:1")),
    )
    for _ in range(2):
        await station.caller.unary_unary(CREATE)(create_request(), timeout=120)

    found = await samples(measured)

    durations = {name: value for name, value in found.items() if "_duration_seconds_count" in name}
    assert sum(value for name, value in durations.items() if f'"{CREATE[1:]}"' in name) == 2
    outcome = 'cri_proxy_realization_duration_seconds_count{{cri_proxy_outcome="{}"}}'
    assert found[outcome.format("fetched")] == 1
    assert found["cri_proxy_fetched_paths_total"] == 1
    assert found["cri_proxy_fetched_size_bytes_total"] > 1_000_000
    requests = 'cri_proxy_cache_requests_total{cri_proxy_outcome="found"}'
    assert found[requests] >= 2  # a worker's: the narinfo and the archive at least
    assert found["cri_proxy_store_paths"] == 1
    assert found["cri_proxy_store_environments"] == 1
    assert found["cri_proxy_runtime_up"] == 1
    assert found["cri_proxy_disk_free_bytes"] > 0
    assert "cri_proxy_loop_lag_seconds" in found


async def test_a_failed_realization_is_measured_by_its_cause(
    station: Station, measured: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await station.caller.unary_unary(CREATE)(create_request(), timeout=60)

    found = await samples(measured)

    name = 'cri_proxy_realization_duration_seconds_count{cri_proxy_outcome="NotFound"}'
    assert found[name] == 1


async def test_the_router_counts_connections_and_held_bytes(
    station: Station, measured: str
) -> None:
    await station.caller.unary_unary(STATUS)(b"", timeout=60)

    found = await samples(measured)

    assert found["cri_proxy_router_connections"] >= 1
    assert found["cri_proxy_router_held_bytes"] == 0


async def test_readiness_follows_the_runtime_and_health_does_not(
    station: Station, measured: str
) -> None:
    ready = await asyncio.to_thread(get, f"{measured}/readyz")
    await station.runtime.stop()

    def is_unready() -> tuple[int, str] | None:
        answer = get(f"{measured}/readyz")
        return answer if answer[0] == 503 else None

    status, why = await asyncio.to_thread(
        waiting.until, is_unready, what="the proxy to notice that the runtime is away"
    )

    assert ready == (200, "ok\n")
    assert status == 503
    assert "check that it is running" in why
    assert await asyncio.to_thread(get, f"{measured}/healthz") == (200, "ok\n")
    assert (await samples(measured))["cri_proxy_runtime_up"] == 0


async def test_other_paths_are_answered_with_the_paths_that_exist(measured: str) -> None:
    status, text = await asyncio.to_thread(get, f"{measured}/debug")

    assert status == 404
    assert "/metrics" in text


async def test_an_address_that_cannot_be_had_is_refused(station: Station) -> None:
    station.proxy.configure({"metrics": {"listen": "192.0.2.1:1"}})
    station.proxy.start(awaited=False)

    def refusal() -> bool:
        return "set metrics.listen to an address of this node" in station.proxy.log_text()

    await asyncio.to_thread(waiting.until, refusal, what="the refusal")


@pytest.mark.parametrize("file", ["dashboard.json", "alerts.yaml"])
async def test_dashboard_and_alerts_ask_for_metrics_that_exist(
    station: Station, measured: str, file: str
) -> None:
    station.push("web", station.published.tools)
    station.runtime.answer(
        methods.path_of("ImageStatus"),
        api_pb2.ImageStatusResponse(image=api_pb2.Image(id="sha256:1")),
    )
    await station.caller.unary_unary(CREATE)(create_request(), timeout=120)
    text = (MANIFESTS / file).read_text()
    asked = set(re.findall(r"\b((?:cri_proxy|rpc_server|process)_[a-z_]+)(?=[{\[ )]|\\?$)", text))

    found = {name.partition("{")[0] for name in await samples(measured)}

    assert len(asked) >= 5
    assert asked - found - {"cri_proxy_outcome"} == set()


def test_the_page_lists_every_metric_of_the_dashboard() -> None:
    page = (MANIFESTS.parents[1] / "docs" / "observability.md").read_text()
    dashboard = json.loads((MANIFESTS / "dashboard.json").read_text())
    asked = set(re.findall(r"cri_proxy_[a-z_]+|rpc_server_[a-z_]+", json.dumps(dashboard)))

    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}
    assert {name for name in families - {"cri_proxy_outcome"} if name not in page} == set()
