"""Token audit: after a private node's day, tokens are nowhere but in the Secrets that hold them.

The canaries: of a pod's Secret, of the node's file, of a pod that is refused, and of the logins
that the catalog gives, for a cache and for a bucket. Everything that others may come to see is then
searched for them.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest

from cri_proxy.cri import api_pb2
from cri_proxy.interposer.tokens import FILE
from hack.testbed import waiting
from hack.testbed.binary_cache import Publisher
from hack.testbed.bucket import Bucket, Login
from hack.testbed.collector import Collector
from hack.testbed.environments import Package
from hack.testbed.pods import Container
from hack.testbed.private import create, output, refusal, renew, run_pod, unavailable
from hack.testbed.web import FileServer, Status
from tests.e2e.conftest import Node

MOUNTED = "flox_pat_canary-of-the-secret-0123456789"
OF_NODE = "eyJhbGciOiJSUzI1NiJ9.eyJjYW5hcnkiOiJub2RlIn0.canary-of-the-node-0123456789"
REFUSED = "flox_pat_canary-of-the-refused-0123456789"
LOGIN = "canary-of-the-login-0123456789"
OF_S3 = Login("ASIACANARY-OF-THE-KEY", "canary/of-the-secret-0123", "canary/of-the-session==")
CANARIES = (MOUNTED, OF_NODE, REFUSED, LOGIN, *OF_S3.variables.values())
USERS = ("oauth", "unused", "reader")


def forms_of(token: str) -> set[bytes]:
    """Return a token as it may be written: plain, quoted, in hexadecimal, as logins encode it."""
    logins = {base64.b64encode(f"{user}:{token}".encode()) for user in USERS}
    plain = token.encode()
    return {plain, quote(token).encode(), plain.hex().encode(), base64.b64encode(plain), *logins}


FORMS = frozenset().union(*map(forms_of, CANARIES))


def assert_clean(what: str, content: bytes) -> None:
    """Hold something to having no canary in it."""
    found = [form for form in FORMS if form in content]
    assert not found, f"{what} holds {found}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Where the proxy sends its traces."""
    with Collector() as running:
        yield running


@pytest.fixture
def node_settings(tmp_path: Path, collector: Collector) -> dict[str, dict[str, Any]]:
    (tmp_path / "node-token").write_text(OF_NODE)
    return {
        "floxhub": {"token_file": str(tmp_path / "node-token")},
        "tracing": {"exporter": "otlp", "endpoint": collector.url},
    }


@pytest.fixture
def tool(node: Node, tmp_path: Path) -> Iterator[tuple[Package, Bucket]]:
    """A package of acme's catalog that is in a bucket, and the bucket, which wants signatures."""
    acme = Publisher(tmp_path / "acme-in-s3")
    path = acme.add("tool", {"share/tool": b"tool"})
    with Bucket(acme.directory, "acme-packages", login=OF_S3) as server:
        auth = {"aws-s3": {"envs": OF_S3.variables}}
        node.hub.publish(
            str(path), {"url": server.s3_url, "auth": auth, "public_keys": [acme.public_key]}
        )
        yield Package("tool", path, catalog="acme"), server


@pytest.fixture
def bucket(node: Node, tmp_path: Path, tool: tuple[Package, Bucket]) -> Iterator[FileServer]:
    """The cache of acme's catalog, which wants a login; acme/web has packages of both."""
    acme = Publisher(tmp_path / "acme")
    path = acme.add("app", {"share/app": b"app"})
    node.push(
        "web",
        Package("app", path, catalog="acme"),
        tool[0],
        node.published.bash,
        hook="export HOOKED=yes",
    )
    node.hub.require_token("acme", MOUNTED, OF_NODE)
    node.hub.require_catalog_token(MOUNTED, OF_NODE)
    with FileServer(acme.directory) as server:
        server.authorization = f"Basic {base64.b64encode(f'reader:{LOGIN}'.encode()).decode()}"
        url = server.url.replace("//", f"//reader:{LOGIN}@")
        node.hub.publish(str(path), {"url": url, "auth": None, "public_keys": [acme.public_key]})
        yield server


def live(node: Node, bucket: FileServer, s3: Bucket) -> tuple[list[str], Container]:
    """Let happen what happens on a node; return the refusals, and a container that still runs."""
    refusals = []
    bucket.fail("*.narinfo", Status(500))
    broken = run_pod(node.pods, "acme/web", MOUNTED)
    refusals.append(refusal(broken, grpc.StatusCode.UNAVAILABLE))
    bucket.heal()
    s3.fail("*.narinfo", Status(400, b"<Code>ExpiredToken</Code>"))
    refusals.append(refusal(broken, grpc.StatusCode.UNAVAILABLE, "ExpiredToken"))
    s3.heal()
    container = create(run_pod(node.pods, "acme/web", MOUNTED), "sleep", "600")
    container.start()
    assert container.exec_sync(["sh", "-c", "echo $HOOKED"]).stdout == b"yes\n"
    assert container.exec_sync(["sh", "-c", "cat $FLOX_ENV/share/tool"]).stdout == b"tool"
    assert output(run_pod(node.pods, "acme/web", None), "true") == b""
    denied = run_pod(node.pods, "acme/web", REFUSED)
    refusals.append(refusal(denied, grpc.StatusCode.PERMISSION_DENIED))
    two = run_pod(node.pods, "acme/web", f"{REFUSED} {REFUSED}")
    refusals.append(refusal(two, grpc.StatusCode.INVALID_ARGUMENT))
    with unavailable(node.hub):
        assert output(run_pod(node.pods, "acme/web", MOUNTED), "true") == b""
        refusals.append(refusal(denied, grpc.StatusCode.UNAVAILABLE))
    node.proxy.kill()
    node.proxy.start()
    renew(denied, MOUNTED)
    assert output(denied, "true", attempt=1) == b""
    node.proxy.run("realize", "acme/web")
    return refusals, container


def test_tokens_are_only_in_the_secrets_that_contain_them(
    node: Node,
    collector: Collector,
    bucket: FileServer,
    tool: tuple[Package, Bucket],
    tmp_path: Path,
) -> None:
    refusals, container = live(node, bucket, tool[1])

    for said in refusals:
        assert_clean("a refusal", said.encode())
    assert_no_process_shows_one()
    assert_no_container_shows_one(node, container)
    node.proxy.stop()  # sends the spans that are left
    assert waiting.until(lambda: collector.bodies, what="spans")
    assert any(b"realizer.realize" in body for body in collector.bodies)
    for body in collector.bodies:
        assert_clean("a span", body)
    node.proxy.start()
    assert "environment ready" in node.proxy.log_text()
    searched = assert_no_file_has_one(
        [tmp_path, node.pods.directory, node.containerd.directory], tmp_path
    )
    assert node.proxy.log in searched
    assert any(each.name == "environment.json" for each in searched)
    assert any("heads" in each.parts for each in searched)


def assert_no_process_shows_one() -> None:
    """Hold every process of the machine to arguments and variables without a canary."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            for name in ("cmdline", "environ"):
                try:
                    content = (process / name).read_bytes()
                except OSError:
                    continue  # it has ended
                assert_clean(f"{process}/{name}", content)


def assert_no_container_shows_one(node: Node, container: Container) -> None:
    """Assert that the runtime's description of a container contains no canary."""
    status = node.pods.client.call(
        "ContainerStatus",
        api_pb2.ContainerStatusRequest(container_id=container.id, verbose=True),
        api_pb2.ContainerStatusResponse,
    )
    assert_clean("the container's status", status.SerializeToString())
    info = node.containerd.ctr("containers", "info", container.id)
    assert "FLOX_ENV" in json.dumps(json.loads(info))
    assert_clean("the container's configuration", info.encode())


def assert_no_file_has_one(places: list[Path], tmp_path: Path) -> set[Path]:
    """Hold all files to having no canary, save Secrets and the node's token; return the files."""
    searched = set()
    for place in places:
        for directory, _, names in os.walk(place):
            for name in names:
                file = Path(directory, name)
                is_secret = name == FILE and "kubernetes.io~secret" in file.parts
                if is_secret or file == tmp_path / "node-token" or not file.is_file():
                    continue
                if file.is_symlink() or "netns" in file.parts:
                    continue  # the file itself is met, too; a network namespace has no bytes
                try:
                    content = file.read_bytes()
                except FileNotFoundError:
                    continue  # the runtime has just removed it
                assert_clean(str(file), content)
                searched.add(file)
    return searched
