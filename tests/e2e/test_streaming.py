"""`kubectl exec -it`, `attach` and `port-forward`: streams, in the environment, end to end.

By a client over WebSockets always; by crictl, which speaks what kubectl has spoken for years, where
`hack/critools.sh` has built it.
"""

from __future__ import annotations

import os
import pty
import re
import select
import socket
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest

from hack.testbed import critools, streaming, waiting
from hack.testbed.environments import Published
from hack.testbed.pods import Container, Pod
from tests.e2e.conftest import ON_BOTH_RUNTIMES, Node, spec

HOOK = "export HOOKED=$(echo yes)"
SERVE = "echo ready; exec nc -ll -p 8080 -e sh -c 'read line; echo \"$GREETING, $line\"'"
KINDS = pytest.mark.parametrize("hook", [None, HOOK], ids=["static", "hooked"])
# What a shell, a runtime or a quoting wrapper might get wrong.
ODD = ["", " ", "a b", "$HOME", '"', "'", "*", "\\", "a\nb", "--", "-c", "ünïcödé", "`id`", "#x"]


@pytest.fixture
def node_settings(published: Published) -> dict[str, dict[str, Any]]:
    """Set the shell for environments that need one and have none."""
    return {"activation": {"shell": str(published.bash.path)}}


def sleeper(node: Node, hook: str | None, **parts: Any) -> tuple[Pod, Container]:
    """Return a pod whose container's program does nothing, in an environment."""
    node.push("web", variables={"GREETING": "hello"}, hook=hook)
    pod = node.pod("acme/web")
    container = pod.run(spec("sh", "-c", "echo ready; exec sleep 600", **parts))
    container.await_output(b"^ready$")
    return pod, container


@KINDS
def test_exec_is_inside_and_returns_streams_and_exit_code(node: Node, hook: str | None) -> None:
    _, container = sleeper(node, hook)

    with streaming.execute(
        node.pods.client,
        container.id,
        ["sh", "-c", 'echo "$GREETING|$HOOKED|${FLOX_ENV:+env}"; echo problem >&2; exit 3'],
    ) as session:
        session.finish()

    assert session.stdout == f"hello|{'yes' if hook else ''}|env\n".encode()
    assert session.stderr == b"problem\n"
    assert session.exit_code == 3


@KINDS
def test_execs_arguments_arrive_unchanged(node: Node, hook: str | None) -> None:
    _, container = sleeper(node, hook)
    argv = ["sh", "-c", 'for each in "$@"; do printf "<%s>" "$each"; done', "sh", *ODD]

    with streaming.execute(node.pods.client, container.id, argv) as session:
        session.finish()

    assert session.stdout.decode() == "".join(f"<{each}>" for each in ODD)
    assert session.exit_code == 0


@KINDS
def test_execs_stdin_reaches_the_program(node: Node, hook: str | None) -> None:
    _, container = sleeper(node, hook)
    payload = bytes(range(256)) * 1024  # every byte, and more than any pipe holds

    with streaming.execute(
        node.pods.client, container.id, ["head", "-c", str(len(payload))], stdin=True
    ) as session:
        for start in range(0, len(payload), 16384):
            session.send(payload[start : start + 16384])
        session.finish()

    assert session.stdout == payload
    assert session.exit_code == 0


@ON_BOTH_RUNTIMES
@KINDS
def test_exec_with_a_terminal(node: Node, hook: str | None) -> None:
    _, container = sleeper(node, hook)

    with streaming.execute(node.pods.client, container.id, ["sh"], stdin=True, tty=True) as session:
        session.resize(123, 45)
        session.send(b'tty >/dev/null && echo "in a terminal, $GREETING"\n')
        session.await_output(b"in a terminal, hello\r\n")
        session.send(b"until stty size | grep 123; do :; done\n")
        session.await_output(b"45 123\r\n")
        session.send(b"exit 7\n")
        session.finish()

    assert session.exit_code == 7


@KINDS
def test_attach_joins_the_wrapped_program(node: Node, hook: str | None) -> None:
    node.push("web", variables={"GREETING": "hello"}, hook=hook)
    script = 'echo ready; read line; echo "$GREETING, $line"; read line; exit "$line"'
    container = node.pod("acme/web").run(spec("sh", "-c", script, has_stdin=True))
    container.await_output(b"^ready$")

    with streaming.attach(node.pods.client, container.id) as session:
        session.send(b"world\n")
        session.await_output(b"hello, world\n")
        session.send(b"5\n")
        assert container.wait() == 5


@KINDS
def test_a_port_of_the_wrapped_program_is_reached(node: Node, hook: str | None) -> None:
    node.push("web", variables={"GREETING": "hello"}, hook=hook)
    pod = node.pod("acme/web")
    pod.run(spec("sh", "-c", SERVE)).await_output(b"^ready$")

    def answer() -> bytes | None:
        try:
            with streaming.forward(node.pods.client, pod.id, 8080) as port:
                return port.ask(b"world\n") or None
        except AssertionError:
            return None  # it does not listen yet

    assert waiting.until(answer, what="an answer of the port") == b"hello, world\n"


@pytest.fixture(params=critools.VERSIONS)
def crictl(request: pytest.FixtureRequest, node: Node) -> list[str]:
    """The command line of crictl through the proxy."""
    program = critools.program("crictl", request.param)
    if program is None:
        pytest.skip(f"crictl {request.param} is not built: run hack/critools.sh")
    endpoint = f"unix://{node.proxy.socket}"
    config = node.proxy.directory / "crictl.yaml"
    config.write_text("timeout: 60\n")
    return [str(program), "--config", str(config), "--runtime-endpoint", endpoint]


def ran(argv: Sequence[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, input=stdin, capture_output=True, check=False, timeout=120)


@KINDS
def test_crictl_exec(node: Node, crictl: list[str], hook: str | None) -> None:
    _, container = sleeper(node, hook)
    script = 'printf "<%s>" "$GREETING" "$@"; cat; echo problem >&2; exit 3'
    argv = [*crictl, "exec", "-i", container.id, "sh", "-c", script, "sh", *ODD]

    done = ran(argv, b"piped in")

    assert done.stdout.decode() == "".join(f"<{each}>" for each in ["hello", *ODD]) + "piped in"
    assert b"problem\n" in done.stderr
    assert b"exit code 3" in done.stderr or done.returncode == 3, done


@KINDS
def test_crictl_exec_with_a_terminal(node: Node, crictl: list[str], hook: str | None) -> None:
    _, container = sleeper(node, hook)
    argv = [*crictl, "exec", "-it", container.id, "sh", "-c", 'tty; echo "[$GREETING]"']

    seen = in_terminal(argv)

    assert b"/dev/pts/" in seen
    assert b"[hello]\r\n" in seen


def in_terminal(argv: Sequence[str]) -> bytes:
    """Return what a program writes whose streams are a terminal."""
    parent, child = pty.openpty()
    process = subprocess.Popen(argv, stdin=child, stdout=child, stderr=child)
    os.close(child)
    seen = b""
    try:
        while select.select([parent], [], [], 120)[0]:
            try:
                data = os.read(parent, 65536)
            except OSError:  # the other end is closed
                break
            seen += data
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        os.close(parent)
    return seen


@pytest.mark.parametrize("crictl", ["v1.36.0"], indirect=True)  # 1.30 drops its own --transport
@KINDS
def test_crictl_attach(node: Node, crictl: list[str], hook: str | None) -> None:
    node.push("web", variables={"GREETING": "hello"}, hook=hook)
    script = 'echo ready; read line; echo "$GREETING, $line"; read line; exit "$line"'
    container = node.pod("acme/web").run(spec("sh", "-c", script, has_stdin=True))
    container.await_output(b"^ready$")

    with subprocess.Popen(
        [*crictl, "attach", "-i", container.id], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"world\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"hello, world\n"
        process.stdin.write(b"5\n")
        process.stdin.flush()
        assert container.wait() == 5


@KINDS
def test_crictl_port_forward(node: Node, crictl: list[str], hook: str | None) -> None:
    node.push("web", variables={"GREETING": "hello"}, hook=hook)
    pod = node.pod("acme/web")
    pod.run(spec("sh", "-c", SERVE)).await_output(b"^ready$")

    with subprocess.Popen(
        [*crictl, "port-forward", pod.id, ":8080"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline().decode()
            local = re.fullmatch(r"Forwarding from 127\.0\.0\.1:(\d+) -> 8080\n", said)
            assert local, said
            port = int(local[1])
            asked = waiting.until(lambda: asked_of(port), what="an answer of the port")
            assert asked == b"hello, world\n"
        finally:
            process.terminate()


def asked_of(port: int) -> bytes | None:
    """Return what a local port answers, None if it does not yet."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"world\n")
        try:
            return b"".join(iter(lambda: connection.recv(4096), b"")) or None
        except ConnectionError:
            return None
