#!/testbed/tree/bin/python3
"""A substitute for kubelet that reads the same configuration and calls the runtime continuously.

    stand_in_kubelet.py [--config FILE] [--container-runtime-endpoint URL]

It keeps one connection, calls Version repeatedly, and serves healthz at 127.0.0.1:10248, which
reports healthy if the last call succeeded. Every second it writes the number of calls and the
failures to /run/kubelet.json. If /etc/kubelet-refuses exists, it is always unhealthy with the
proxy's socket. It runs in a `machine`, with the Python of a tarball.
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
    """Return the runtime's endpoint from the last flag, the file, or the default."""
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
    """Makes calls and counts them."""

    def __init__(self, address: str) -> None:
        """Prepare the channel, which connects on the first call."""
        self.address = address
        self.calls = 0
        self.failures: list[str] = []
        self.is_healthy = False
        self._version = grpc.insecure_channel(
            address.replace("unix://", "unix:"), options=[("grpc.default_authority", "localhost")]
        ).unary_unary(
            "/runtime.v1.RuntimeService/Version",
            request_serializer=api_pb2.VersionRequest.SerializeToString,
            response_deserializer=api_pb2.VersionResponse.FromString,
        )

    def run(self) -> None:
        """Make calls forever."""
        written = 0.0
        while True:
            self.calls += 1
            try:
                self._version(api_pb2.VersionRequest(version="v1"), timeout=DEADLINE_SECONDS)
                self.is_healthy = not (REFUSAL.exists() and "cri-proxy" in self.address)
            except grpc.RpcError as error:
                self.is_healthy = False
                self.failures.append(str(error))
            if time.monotonic() - written > 1:
                written = time.monotonic()
                state = {"pid": os.getpid(), "endpoint": self.address, "calls": self.calls}
                beside = STATE.with_suffix(".new")
                beside.write_text(json.dumps({**state, "failures": self.failures}))
                beside.rename(STATE)
            time.sleep(0.02)


def main() -> None:
    """Run the calls, and serve healthz meanwhile."""
    Path("/proc/self/comm").write_text("kubelet")
    kubelet = Kubelet(endpoint())

    class Healthz(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if kubelet.is_healthy else 500)
            self.end_headers()
            self.wfile.write(b"ok" if kubelet.is_healthy else b"unhealthy")

        def log_message(self, *_: Any) -> None:
            pass

    http.server.ThreadingHTTPServer.allow_reuse_address = True
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 10248), Healthz)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kubelet.run()


if __name__ == "__main__":
    main()
