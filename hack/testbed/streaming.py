"""A client for `exec`, `attach` and `port-forward` streams of a runtime's own server.

The CRI's Exec, Attach and PortForward return a URL of the runtime. On a node, kubelet forwards the
client's connection there; here the client connects directly, with kubectl's WebSocket protocol
(`v4.channel.k8s.io`): the first byte of a message is its channel.

    with streaming.execute(client, container.id, ["cat"], stdin=True) as session:
        session.send(b"hello")
        session.await_output(b"hello")
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, Self

import websocket

from cri_proxy.cri import api_pb2
from hack.testbed import cri

_PROTOCOL: Final = "v4.channel.k8s.io"
_STDIN, _STDOUT, _STDERR, _ERROR, _RESIZE = range(5)
_DATA: Final = 0  # of a forwarded port, where 1 is for errors
_SECONDS: Final = 60.0


class Session:
    """The streams of a program; `exit_code` is set once `finish` has returned."""

    def __init__(self, url: str) -> None:
        self._socket = websocket.create_connection(
            url.replace("http", "ws", 1), subprotocols=[_PROTOCOL], timeout=_SECONDS
        )
        self.stdout = b""
        self.stderr = b""
        self.exit_code: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _close(self._socket)

    def send(self, data: bytes) -> None:
        """Write to its stdin."""
        self._socket.send_binary(bytes([_STDIN]) + data)

    def resize(self, width: int, height: int) -> None:
        """Set the size of its terminal."""
        size = json.dumps({"Width": width, "Height": height}).encode()
        self._socket.send_binary(bytes([_RESIZE]) + size)

    def await_output(self, expected: bytes) -> None:
        """Read until its stdout contains `expected`."""
        while expected not in self.stdout:
            if not self._receive():
                raise AssertionError(f"ended without {expected!r}: {self.stdout!r}")

    def finish(self) -> Self:
        """Read to the end of the streams."""
        while self._receive():
            pass
        return self

    def _receive(self) -> bool:
        """Receive one message; return False at the end."""
        message = _message_of(self._socket)
        if not message:
            return False
        channel, data = message[0], message[1:]
        match channel:
            case 1:
                self.stdout += data
            case 2:
                self.stderr += data
            case 3 if data:
                self.exit_code = _exit_code_of(json.loads(data))
        return True


class Port:
    """A forwarded port: bytes to and from a server in the pod."""

    def __init__(self, url: str, port: int) -> None:
        self._socket = websocket.create_connection(
            f"{url.replace('http', 'ws', 1)}?port={port}",
            subprotocols=[_PROTOCOL],
            timeout=_SECONDS,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _close(self._socket)

    def ask(self, request: bytes) -> bytes:
        """Send bytes, and return the answer up to the end of the connection."""
        self._socket.send_binary(bytes([_DATA]) + request)
        answer = b""
        greeted: set[int] = set()
        while True:
            message = _message_of(self._socket)
            if not message:
                return answer
            channel, data = message[0], message[1:]
            if channel not in greeted:
                greeted.add(channel)  # the first message of each channel has the port's number
            elif channel == _DATA:
                answer += data
            else:
                raise AssertionError(f"forwarding failed: {data!r}")


def execute(
    client: cri.Client,
    container_id: str,
    argv: Sequence[str],
    *,
    stdin: bool = False,
    tty: bool = False,
) -> Session:
    """Run a program in a container; with a terminal, there is no separate stderr."""
    request = api_pb2.ExecRequest(
        container_id=container_id, cmd=argv, stdin=stdin, tty=tty, stdout=True, stderr=not tty
    )
    return Session(client.call("Exec", request, api_pb2.ExecResponse).url)


def attach(client: cri.Client, container_id: str) -> Session:
    """Attach to the streams of a container's own program, which has a stdin."""
    request = api_pb2.AttachRequest(container_id=container_id, stdin=True, stdout=True, stderr=True)
    return Session(client.call("Attach", request, api_pb2.AttachResponse).url)


def forward(client: cri.Client, sandbox_id: str, port: int) -> Port:
    """Connect to a port in a pod."""
    request = api_pb2.PortForwardRequest(pod_sandbox_id=sandbox_id, port=[port])
    return Port(client.call("PortForward", request, api_pb2.PortForwardResponse).url, port)


def _close(connection: websocket.WebSocket) -> None:
    """Close a connection, or only shut it down if the other end has closed it."""
    connection.close()
    connection.shutdown()  # type: ignore[no-untyped-call]


def _message_of(connection: websocket.WebSocket) -> bytes:
    """Return the next message; empty at the end of the connection."""
    try:
        message = connection.recv()
    except websocket.WebSocketConnectionClosedException:
        return b""
    return message.encode() if isinstance(message, str) else message


def _exit_code_of(status: dict[str, object]) -> int:
    """Return the exit code in a Kubernetes `Status`."""
    if status.get("status") == "Success":
        return 0
    details = status.get("details")
    causes = details.get("causes", []) if isinstance(details, dict) else []
    for cause in causes:
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise AssertionError(f"no exit code: {status}")
