"""A trace collector: receives OTLP as OpenTelemetry's own does, and keeps the spans.

    with Collector() as collector:
        ...                     # a program that exports to collector.url, or by gRPC to grpc_url
        span = collector.wait("pod.startup")
        assert collector.children(span) == [...]

The messages are the published ones (opentelemetry-proto). `status` makes it answer with an error.
"""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Self

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

from hack.testbed import waiting

_KINDS: Final = {2: "server", 3: "client"}
_ERROR: Final = 2


@dataclass(frozen=True, slots=True)
class Span:
    """A received span; ids are hexadecimal, times are in nanoseconds, `service` is the sender."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    start: int
    end: int
    is_error: bool
    message: str
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]
    events: tuple[str, ...]


class Collector:
    """A collector at `url` while the context lasts, which answers with `status`.

    `bodies` are the raw messages, to verify that they do not contain something.
    """

    def __init__(self) -> None:
        self.paths: Final[list[str]] = []
        self.bodies: Final[list[bytes]] = []
        self.resources: Final[list[dict[str, Any]]] = []
        self.status = 200
        self._spans: Final[list[Span]] = []
        self._lock: Final = threading.Lock()
        self._server: Final = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url: Final = f"http://127.0.0.1:{self._server.server_port}"
        self._grpc: Final = grpc.server(ThreadPoolExecutor(2))
        self._grpc.add_generic_rpc_handlers((self._rpc(),))
        self.grpc_url: Final = f"http://127.0.0.1:{self._grpc.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._grpc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._grpc.stop(None)

    def spans(self, name: str = "") -> list[Span]:
        """Return the spans so far, all or those with `name`, by start time."""
        with self._lock:
            found = [span for span in self._spans if name in ("", span.name)]
        return sorted(found, key=lambda span: span.start)

    def wait(self, name: str, *, count: int = 1) -> Span:
        """Wait until `count` spans of `name` have arrived; return the one that started last."""
        return waiting.until(
            lambda: self.spans(name) if len(self.spans(name)) >= count else None,
            what=f"{count} spans {name} at the collector",
            explain=lambda: f"it has {[span.name for span in self.spans()]}",
        )[-1]

    def children(self, parent: Span) -> list[Span]:
        """Return the children of `parent`, by start time."""
        return [span for span in self.spans() if span.parent_id == parent.span_id]

    def tree(self, parent: Span) -> list[Any]:
        """Return `parent` as [name, [children…]], for comparisons."""
        return [parent.name, [self.tree(child) for child in self.children(parent)]]

    def _take(self, path: str, request: ExportTraceServiceRequest) -> None:
        with self._lock:
            self.paths.append(path)
            for group in request.resource_spans:
                resource = _attributes_of(group.resource.attributes)
                self.resources.append(resource)
                service = str(resource.get("service.name", ""))
                for scope in group.scope_spans:
                    self._spans.extend(_span_of(service, message) for message in scope.spans)

    def _rpc(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Return the handler that receives the same over gRPC."""

        def export(body: bytes, _: object) -> bytes:
            self.bodies.append(body)
            self._take("grpc", ExportTraceServiceRequest.FromString(body))
            return ExportTraceServiceResponse().SerializeToString()

        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        method = grpc.unary_unary_rpc_method_handler(export)
        return grpc.method_handlers_generic_handler(service, {"Export": method})

    def _handler(self) -> Callable[..., http.server.BaseHTTPRequestHandler]:
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.bodies.append(body)
                if collector.status == 200:
                    collector._take(self.path, ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(collector.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _span_of(service: str, message: Message) -> Span:
    return Span(
        service=service,
        name=message.name,
        trace_id=message.trace_id.hex(),
        span_id=message.span_id.hex(),
        parent_id=message.parent_span_id.hex(),
        kind=_KINDS.get(message.kind, "internal"),
        start=message.start_time_unix_nano,
        end=message.end_time_unix_nano,
        is_error=message.status.code == _ERROR,
        message=message.status.message,
        attributes=_attributes_of(message.attributes),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in message.links),
        events=tuple(event.name for event in message.events),
    )


def _attributes_of(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value_of(pair.value) for pair in pairs}


def _value_of(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)
