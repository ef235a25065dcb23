"""A collector of traces on 127.0.0.1: keeps what OTLP exporters post to it, as it came.

with Collector() as collector:
...  # a program exports to collector.url
collector.bodies
"""

from __future__ import annotations

from hack.testbed.faulty import Answer, FaultyServer, Request


class Collector(FaultyServer):
    """Takes every export; a context manager that serves while it is entered."""

    @property
    def bodies(self) -> list[bytes]:
        """What was posted so far: messages of OTLP in protobuf."""
        return [each.body for each in list(self.requests)]

    def answer(self, request: Request) -> Answer:
        """Return an empty ExportTraceServiceResponse: all spans were taken."""
        return 200, "application/x-protobuf", b""
