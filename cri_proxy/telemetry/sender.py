"""The span sender: the pipe to the program that sends spans (`exporter`).

OpenTelemetry's SDK, its HTTP client and its gRPC live in that program. In the daemon they would
take memory, hold the interpreter while calls wait, and run beside the gRPC that relays kubelet's
calls. The program sends what it has when its input ends, so a daemon that is killed loses no span
that it had written.

The pipe never blocks: what it does not take at once waits here, within a bound, and is dropped and
counted above that. All of it belongs to the span queue's thread, but for the supervision of the
program.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Final

from cri_proxy.lib.child import Program, Supervisor
from cri_proxy.settings.schema import LogSettings
from cri_proxy.telemetry import logs

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""The variables that name a collector."""
_BACKLOG_BYTES: Final = 4 * 1024 * 1024
_log = logs.of(__name__)


@dataclass(frozen=True, slots=True)
class ExporterInit:
    """What the exporter needs: the collector's endpoint, the protocol, and how to log."""

    endpoint: str
    protocol: str
    log: LogSettings


class SpanSender:
    """Sends spans by `program`, which is started at once and again whenever it ends."""

    def __init__(self, program: Program) -> None:
        self.backlog = bytearray()
        """What waits for the pipe."""
        self._lost = 0
        log_end = functools.partial(_log.warning, "span exporter ended")
        self._supervisor = Supervisor(program, log_end)
        self._child = self._supervisor.child

    def add(self, trace_id: str, state: str, text: str) -> None:
        """Send the record of a span with the next `flush`."""
        if len(self.backlog) < _BACKLOG_BYTES:
            line = f'{{"trace_id":"{trace_id}","state":{json.dumps(state)},"span":{text}}}\n'
            self.backlog += line.encode()
        else:
            self._lost += 1

    def flush(self) -> None:
        """Write what the pipe takes."""
        child = self._supervisor.child
        if child is not self._child:
            self._child = child
            # The program that ended may have been sent a part of the first line.
            del self.backlog[: self.backlog.find(b"\n") + 1]
        if child is None:
            return
        try:
            while self.backlog:
                written = child.write(self.backlog)
                if not written:
                    return
                del self.backlog[:written]
        except OSError:  # it has ended: the supervisor logs that and starts it again
            return
        if self._lost:
            _log.warning("traces are lost: more than can be sent", spans=self._lost)
            self._lost = 0

    def close(self, seconds: float) -> None:
        """End the program when it has sent what it was given, within `seconds`."""
        self._supervisor.stop(seconds)
