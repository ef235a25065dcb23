#!/testbed/tree/bin/python3
"""A stand-in for kubelet: reads its configuration in the same places, and asks without pause.

    stand_in_kubelet.py [--config FILE] [--container-runtime-endpoint URL]

It keeps one connection, asks for the runtime's version again and again, and serves healthz at
127.0.0.1:10248: well if the last answer was one. Every second it writes to /run/kubelet.json how
many calls it has made and which have failed. With /etc/kubelet-refuses it is never well through a
socket named like the proxy's. It runs in a `machine`, with the Python of a tarball.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import grpc

from cri_proxy.cri import api_pb2

STATE = Path("/run/kubelet.json")
REFUSAL = Path("/etc/kubelet-refuses")
DEADLINE_SECONDS = 30.0


def endpoint() -> str:
    """Return the runtime's endpoint: the last flag, or the file's, or the default."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--container-runtime-endpoint")
    options, _ = parser.parse_known_args()
    if options.container_runtime_endpoint:
        return str(options.container_runtime_endpoint)
    text = Path(options.config).read_text() if options.config else ""
    found = re.search(r"^containerRuntimeEndpoint: *\"?([^\s\"]+)", text, re.MULTILINE)
    return found[1] if found else "unix:///run/containerd/containerd.sock"


class Kubelet:
    """Calls, counted."""

    def __init__(self, address: str) -> None:
        """Connect with the first call."""
        self.address = address
        self.calls = 0
        self.failures: list[str] = []
        self.is_well = False
        self._version = grpc.insecure_channel(
            address.replace("unix://", "unix:"), options=[("grpc.default_authority", "localhost")]
        ).unary_unary(
            "/runtime.v1.RuntimeService/Version",
            request_serializer=api_pb2.VersionRequest.SerializeToString,
            response_deserializer=api_pb2.VersionResponse.FromString,
        )

    def run(self) -> None:
        """Ask for ever."""
        written = 0.0
        while True:
            self.calls += 1
            try:
                self._version(api_pb2.VersionRequest(version="v1"), timeout=DEADLINE_SECONDS)
                self.is_well = not (REFUSAL.exists() and "cri-proxy" in self.address)
            except grpc.RpcError as error:
                self.is_well = False
                self.failures.append(str(error))
            if time.monotonic() - written > 1:
                written = time.monotonic()
                state = {"pid": os.getpid(), "endpoint": self.address, "calls": self.calls}
                beside = STATE.with_suffix(".new")
                beside.write_text(json.dumps({**state, "failures": self.failures}))
                beside.rename(STATE)
            time.sleep(0.02)


def main() -> None:
    """Serve healthz beside the calls."""
    Path("/proc/self/comm").write_text("kubelet")
    kubelet = Kubelet(endpoint())

    class Healthz(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if kubelet.is_well else 500)
            self.end_headers()
            self.wfile.write(b"ok" if kubelet.is_well else b"not well")

        def log_message(self, *_: Any) -> None:
            pass

    http.server.ThreadingHTTPServer.allow_reuse_address = True
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 10248), Healthz)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kubelet.run()


if __name__ == "__main__":
    main()
