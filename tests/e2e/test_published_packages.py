"""Environments with packages from an organization's own catalog, in caches that want a login."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from hack.testbed import environments
from hack.testbed.binary_cache import Publisher
from hack.testbed.bucket import Bucket, Login
from hack.testbed.environments import Package
from hack.testbed.private import output, refusal, run_pod, unavailable
from hack.testbed.web import FileServer
from tests.e2e.conftest import Node

PERSONAL = "flox_pat_0123456789abcdefghijABCDEFGHIJ"
OTHER = "flox_pat_of-somebody-with-another-catalog"


@pytest.fixture
def acme(tmp_path: Path) -> Publisher:
    """The publisher of acme's catalog, with a key of its own."""
    return Publisher(tmp_path / "acme")


@pytest.fixture
def app(node: Node, acme: Publisher) -> Package:
    """A published package with a dependency that only its publisher has.

    The environment that uses it, acme/web, is public: only the package is not.
    """
    library = acme.add("library", {"share/answer": b"42"})
    path = acme.add("app", {"share/app": f"{library}\n".encode()}, [library])
    app = Package("app", path, catalog="acme")
    node.push("web", app)
    node.hub.publish(
        str(path),
        {"url": node.hub.packages_url, "auth": None, "public_keys": [acme.public_key]},
    )
    node.hub.require_catalog_token(PERSONAL)
    node.hub.keep_packages(acme.directory, PERSONAL)
    return app


def answer_of(node: Node, token: str | None) -> bytes:
    """Return what a pod with the token reads from the package's dependency."""
    script = 'cat "$(cat $FLOX_ENV/share/app)/share/answer"'
    return output(run_pod(node.pods, "acme/web", token), "sh", "-c", script)


def assert_denied(node: Node, token: str | None) -> None:
    """Hold a pod with the token to being refused the package."""
    refusal(
        run_pod(node.pods, "acme/web", token),
        grpc.StatusCode.PERMISSION_DENIED,
        "acme/web",
        "published package app",
        "flox auth token" if token else "floxhub-token",
    )


@pytest.mark.usefixtures("app")
def test_a_published_package_is_fetched_with_the_pods_token(node: Node) -> None:
    assert answer_of(node, PERSONAL) == b"42"


@pytest.mark.usefixtures("app")
def test_a_pod_that_may_see_the_environment_may_not_have_its_packages(node: Node) -> None:
    assert_denied(node, None)
    assert answer_of(node, PERSONAL) == b"42"

    assert_denied(node, None)
    assert_denied(node, OTHER)


def test_naming_a_published_package_in_another_environment_does_not_give_access_to_it(
    node: Node, app: Package
) -> None:
    assert answer_of(node, PERSONAL) == b"42"
    lock = environments.lockfile(node.published.tools, Package("app", app.path))
    node.hub.push("mallory", "loot", lock)

    details = refusal(
        run_pod(node.pods, "mallory/loot", OTHER), grpc.StatusCode.NOT_FOUND, "mallory/loot"
    )

    assert str(app.path) in details


@pytest.fixture
def bucket(node: Node, acme: Publisher, app: Package) -> Iterator[FileServer]:
    """The package's only location: a cache with a login that the catalog's answer has."""
    login = "reader:pass-word"
    with FileServer(acme.directory) as server:
        server.authorization = f"Basic {base64.b64encode(login.encode()).decode()}"
        node.hub.publish(
            str(app.path),
            {
                "url": server.url.replace("//", f"//{login}@"),
                "auth": None,
                "public_keys": [acme.public_key],
            },
        )
        yield server


@pytest.mark.usefixtures("bucket")
def test_a_login_in_the_locations_url_is_used_and_never_shown(node: Node) -> None:
    assert answer_of(node, PERSONAL) == b"42"

    assert "pass-word" not in node.proxy.log_text()


def test_a_location_that_fails_is_named_without_its_login(node: Node, bucket: FileServer) -> None:
    bucket.stop()

    details = refusal(
        run_pod(node.pods, "acme/web", PERSONAL), grpc.StatusCode.UNAVAILABLE, bucket.url
    )

    assert "pass-word" not in details
    assert "pass-word" not in node.proxy.log_text()
    bucket.start()
    assert answer_of(node, PERSONAL) == b"42"


def test_what_the_catalog_does_not_locate_comes_from_the_configured_caches(
    node: Node, acme: Publisher, app: Package
) -> None:
    node.hub.publish(str(app.path))
    refusal(
        run_pod(node.pods, "acme/web", PERSONAL),
        grpc.StatusCode.NOT_FOUND,
        "names no place of a published package",
    )
    caches = [node.cache.url, acme.url]
    keys = [node.published.publisher.public_key, acme.public_key]
    node.proxy.configure({"store": {"caches": caches, "public_keys": keys}})
    node.proxy.restart()

    assert answer_of(node, PERSONAL) == b"42"
    assert answer_of(node, None) == b"42"


@pytest.mark.usefixtures("app")
def test_a_key_that_the_catalog_does_not_give_is_not_trusted(node: Node, acme: Publisher) -> None:
    alone = Package("alone", acme.add("alone", {"share/alone": b"x"}), catalog="acme")
    node.push("web", alone)
    node.hub.publish(
        str(alone.path),
        {
            "url": node.hub.packages_url,
            "auth": None,
            "public_keys": [node.published.publisher.public_key],
        },
    )

    refusal(
        run_pod(node.pods, "acme/web", PERSONAL),
        grpc.StatusCode.FAILED_PRECONDITION,
        str(alone.path),
        "not signed by a trusted key",
    )


@pytest.fixture
def s3(node: Node, acme: Publisher, app: Package) -> Iterator[Bucket]:
    """The package's only location: a bucket, for who has the login of the catalog's answer."""
    login = Login("ASIA0123456789", "secret/pass-word", "session/pass-word")
    with Bucket(acme.directory, "acme-packages", login=login, region="eu-central-1") as server:
        locate_in(node, app, acme, server, login)
        yield server


def locate_in(
    node: Node, app: Package, acme: Publisher, bucket: Bucket, login: Login | None
) -> None:
    """Locate the package in the bucket, according to the catalog."""
    auth = {"aws-s3": {"envs": login.variables}} if login else None
    node.hub.publish(
        str(app.path), {"url": bucket.s3_url, "auth": auth, "public_keys": [acme.public_key]}
    )


@pytest.mark.usefixtures("s3")
def test_a_location_in_s3_is_read_with_the_catalogs_login(node: Node) -> None:
    assert answer_of(node, PERSONAL) == b"42"

    assert "pass-word" not in node.proxy.log_text()
    assert_denied(node, None)


def test_a_login_that_s3_refuses_is_reported_without_showing_it(
    node: Node, app: Package, acme: Publisher, s3: Bucket
) -> None:
    locate_in(node, app, acme, s3, Login("ASIA0123456789", "pass-word-that-was", "session"))

    details = refusal(
        run_pod(node.pods, "acme/web", PERSONAL),
        grpc.StatusCode.UNAVAILABLE,
        "s3://acme-packages: answered 400 Bad Request (InvalidToken)",
    )

    assert "pass-word" not in details
    assert "pass-word" not in node.proxy.log_text()
    assert s3.login is not None
    locate_in(node, app, acme, s3, s3.login)
    assert answer_of(node, PERSONAL) == b"42"


def test_a_location_of_another_kind_is_refused_with_an_explanation(
    node: Node, app: Package
) -> None:
    node.hub.publish(
        str(app.path),
        {"url": "gs://acme-packages", "auth": None, "public_keys": []},
    )

    refusal(
        run_pod(node.pods, "acme/web", PERSONAL),
        grpc.StatusCode.NOT_FOUND,
        "gs://acme-packages: FloxHub keeps it there",
        "store.caches",
    )


def test_a_login_of_an_unsupported_kind_is_logged_once_and_named_in_the_refusal(
    node: Node, app: Package, bucket: FileServer
) -> None:
    """The location requires a login, which the catalog gives in an unsupported form."""
    node.hub.publish(
        str(app.path),
        {"url": bucket.url, "auth": {"vault": {"key": "hush"}}, "catalog": "acme"},
    )

    for _ in range(2):
        refusal(
            run_pod(node.pods, "acme/web", PERSONAL),
            grpc.StatusCode.NOT_FOUND,
            f"{bucket.url} is behind a login of the kind 'vault'",
            "store.caches",
        )

    (warning,) = [line for line in node.proxy.log_text().splitlines() if "unsupported kind" in line]
    assert " warning " in warning
    assert "catalog=acme" in warning
    assert "kind=vault" in warning
    assert "hush" not in node.proxy.log_text()


@pytest.mark.usefixtures("app")
def test_without_floxhub_a_package_that_a_pod_was_given_is_still_available_to_it(
    node: Node,
) -> None:
    assert answer_of(node, PERSONAL) == b"42"

    with unavailable(node.hub):
        assert answer_of(node, PERSONAL) == b"42"
        refusal(run_pod(node.pods, "acme/web", OTHER), grpc.StatusCode.UNAVAILABLE)
        refusal(run_pod(node.pods, "acme/web", None), grpc.StatusCode.UNAVAILABLE)

    node.hub.require_catalog_token()
    assert_denied(node, PERSONAL)
    with unavailable(node.hub):
        refusal(run_pod(node.pods, "acme/web", PERSONAL), grpc.StatusCode.UNAVAILABLE)
