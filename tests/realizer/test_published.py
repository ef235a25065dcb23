"""Published packages: who may have them, while the catalog answers and while it does not."""

from __future__ import annotations

import pytest

from cri_proxy import errors
from cri_proxy.model import references
from cri_proxy.model.cachelocations import Location, UnsupportedLogin
from cri_proxy.model.environments import Environment
from cri_proxy.realizer.published import Located
from cri_proxy.realizer.realizer import Realizer
from hack.testbed.binary_cache import Publisher
from hack.testbed.environments import Package
from hack.testbed.web import Status
from tests.realizer.conftest import Node

WEB = references.parse("acme/web")
SECRET = "flox_pat_secret"
DEADLINE_SECONDS = 120


@pytest.fixture
def app(node: Node) -> Package:
    """A package of acme's own catalog, in FloxHub's own cache for those with the token."""
    acme = Publisher(node.root.parent / "acme")
    package = Package("app", acme.add("app", {"bin/app": b"app"}), catalog="acme")
    node.hub.keep_packages(acme.directory, SECRET)
    node.hub.require_catalog_token(SECRET)
    login = {"url": node.hub.packages_url, "auth": None, "public_keys": [acme.public_key]}
    node.hub.publish(str(package.path), {**login, "catalog": "acme"})
    node.push("web", package)
    return package


async def realized(node: Node, token: str | None) -> Environment:
    """Realize with a realizer that remembers nothing but what is on disk."""
    async with node.realizer() as realizer:
        return await realizer.begin(WEB, token=token).wait(DEADLINE_SECONDS)


async def test_package_comes_from_where_the_catalog_says(node: Node, app: Package) -> None:
    made = await realized(node, SECRET)

    assert (made.store / app.path.basename / "bin" / "app").read_bytes() == b"app"


@pytest.mark.parametrize("token", [None, "another"])
async def test_package_on_this_node_is_refused_to_who_may_not_have_it(
    node: Node, app: Package, token: str | None
) -> None:
    await realized(node, SECRET)

    with pytest.raises(errors.AccessDenied):
        await realized(node, token)


async def test_last_answer_stands_in_for_the_same_caller_while_the_catalog_is_unavailable(
    node: Node, app: Package
) -> None:
    await realized(node, SECRET)
    node.hub.fail("*catalog/store*", Status(500))

    assert await realized(node, SECRET)


async def test_unavailable_catalog_refuses_a_caller_that_it_never_answered(
    node: Node, app: Package
) -> None:
    node.hub.fail("*catalog/store*", Status(500))

    with pytest.raises(errors.SourceUnreachable):
        await realized(node, SECRET)


async def test_package_that_the_catalog_does_not_list_may_be_in_a_configured_cache(
    node: Node, realizer: Realizer
) -> None:
    app = node.package("app", catalog="acme")
    node.push("web", app)

    made = await realizer.begin(WEB).wait(DEADLINE_SECONDS)

    assert app.path in made.closure


async def test_package_that_nothing_has_is_refused_with_what_to_do(
    node: Node, realizer: Realizer
) -> None:
    app = node.package("app", catalog="acme")
    node.publisher.remove(app.path)
    node.push("web", app)

    with pytest.raises(errors.NotFound, match=r"names no place .* a pod without a token"):
        await realizer.begin(WEB).wait(DEADLINE_SECONDS)


def test_refusal_names_the_logins_that_are_not_supported() -> None:
    place = Location("https://a.example/x?y", unsupported=UnsupportedLogin("acme", "gcs"))
    located = Located((place, Location("https://b.example")))

    explained = located.explain(errors.NotFound("it is in no cache"))

    assert type(explained) is errors.NotFound
    assert "it is in no cache; " in str(explained)
    assert "https://a.example/x is behind a login of the kind 'gcs'" in str(explained)
    assert "b.example" not in str(explained)


def test_refusal_without_such_logins_stays_as_it_is() -> None:
    error = errors.NotFound("it is in no cache")

    assert Located((Location("https://b.example"),)).explain(error) is error
