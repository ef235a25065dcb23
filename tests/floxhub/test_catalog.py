"""Where published packages are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.floxhub import catalog
from cri_proxy.floxhub.catalog import Catalog
from cri_proxy.floxhub.protocol import HubOptions
from cri_proxy.lib import codec
from cri_proxy.model import storepaths
from cri_proxy.model.cachelocations import Location, UnsupportedLogin
from hack.testbed.floxhub import FloxHub
from hack.testbed.web import Reset, Status
from tests.floxhub.conftest import TIMEOUT_SECONDS

APP = storepaths.parse("/nix/store/0v4gz9k1dwxr5wgnfxwh1sjv5jk0m7bp-app-2.0")
LIB = storepaths.parse("/nix/store/1qkr8kyvyf6chmvd8wnr2v9ynf8k0gbz-lib-1.0")
KEY = "acme-1:7F4OyH7ZCnFhcze3fJdfyXYLQw/aV7GEed86nQ7IsOs="
SECRET = "flox_pat_very-secret"


@pytest.fixture
def published(local: FloxHub, tmp_path: Path) -> Catalog:
    return Catalog(HubOptions(tmp_path, local.git_url, local.api_url, TIMEOUT_SECONDS))


def entry(url: str, auth: object = None, keys: object = (KEY,)) -> dict[str, object]:
    return {"url": url, "auth": auth, "catalog": "acme", "package": "app", "public_keys": keys}


def test_locations_are_listed_in_order_with_the_paths_that_they_have(
    local: FloxHub, published: Catalog
) -> None:
    local.publish(str(APP), entry("https://a.example/cache"), entry("https://b.example", None, []))

    found = published.locations([APP, LIB], None)

    assert found == [
        Location("https://a.example/cache", public_keys=(KEY,), paths=(APP.basename,)),
        Location("https://b.example", paths=(APP.basename,)),
    ]
    assert json.loads(local.requests[0].body) == {"outpaths": [str(APP), str(LIB)]}


def test_a_location_of_several_paths_is_listed_once_per_login(
    local: FloxHub, published: Catalog
) -> None:
    envs = {"aws-s3": {"envs": {"AWS_ACCESS_KEY_ID": "id"}}}
    local.publish(str(APP), entry("https://a.example"), entry("s3://bucket", envs))
    local.publish(str(LIB), entry("https://a.example"), entry("s3://bucket"))

    found = published.locations([APP, LIB], None)

    assert [(each.url, each.paths) for each in found] == [
        ("https://a.example", (APP.basename, LIB.basename)),
        ("s3://bucket", (APP.basename,)),
        ("s3://bucket", (LIB.basename,)),
    ]


def test_the_token_is_the_bearers(local: FloxHub, published: Catalog) -> None:
    local.require_catalog_token(SECRET)
    local.publish(str(APP), entry("https://a.example"))

    assert published.locations([APP], f"{SECRET}\n")
    with pytest.raises(errors.AccessDenied, match=r"refuses the token for .* package app-2\.0"):
        published.locations([APP], "another")
    with pytest.raises(
        errors.AccessDenied, match=r"a token for the published package app-2\.0 and 1 more"
    ):
        published.locations([APP, LIB], None)


@pytest.mark.parametrize(
    ("url", "is_given"),
    [
        ("https://publisher.flox.dev/acme", True),
        ("https://experimental-warehouse.production2.flox.dev", True),
        ("{api}/nix", True),
        ("http://publisher.flox.dev/acme", False),
        ("https://publisher.flox.dev.evil.example", False),
        ("https://a.example/publisher.flox.dev", False),
        ("http://127.0.0.1:1/nix", False),
        ("s3://bucket", False),
    ],
)
def test_the_token_goes_to_floxhubs_own_hosts_only(
    local: FloxHub, published: Catalog, url: str, is_given: bool
) -> None:
    local.publish(str(APP), entry(url.format(api=local.api_url)))

    (with_token,) = published.locations([APP], SECRET)
    (without,) = published.locations([APP], None)

    login = ("unused", SECRET) if is_given else (None, None)
    assert (with_token.user, with_token.password) == login
    assert (without.user, without.password) == (None, None)


def test_variables_for_s3_are_handed_on(local: FloxHub, published: Catalog) -> None:
    envs = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "s3cret"}
    local.publish(str(APP), entry("s3://bucket?region=x", {"aws-s3": {"envs": envs}}))

    (location,) = published.locations([APP], SECRET)

    assert location.variables == tuple(envs.items())
    assert location.password is None


@pytest.mark.parametrize("auth", [None, {}, {"other": None}, {"aws-s3": {}}])
def test_what_names_no_login_is_none(local: FloxHub, published: Catalog, auth: object) -> None:
    local.publish(str(APP), entry("https://a.example", auth))

    (location,) = published.locations([APP], SECRET)

    assert (location.user, location.password, location.variables) == (None, None, ())
    assert location.unsupported is None


@pytest.mark.parametrize(
    ("auth", "kind"),
    [
        ({"gcs": {"key": "s3cret"}}, "gcs"),
        ({"gcs": {}, "region": "x"}, "gcs, region"),
        ({"a\nb": 1}, "a?b"),
        ("s3cret", "a text"),
        (["s3cret"], "an array"),
    ],
)
def test_a_login_of_an_unsupported_kind_is_left_out_and_told_by_its_kind_alone(
    local: FloxHub, published: Catalog, auth: object, kind: str
) -> None:
    local.publish(str(APP), entry("https://a.example", auth))

    (location,) = published.locations([APP], SECRET)

    assert (location.user, location.password, location.variables) == (None, None, ())
    assert location.unsupported == UnsupportedLogin("acme", kind)
    assert b"s3cret" not in codec.encode(location)


def test_a_known_login_beside_an_unknown_one_is_used(local: FloxHub, published: Catalog) -> None:
    auth = {"aws-s3": {"envs": {"AWS_ACCESS_KEY_ID": "id"}}, "gcs": {}}
    local.publish(str(APP), entry("s3://bucket", auth))

    (location,) = published.locations([APP], SECRET)

    assert location.variables == (("AWS_ACCESS_KEY_ID", "id"),)
    assert location.unsupported is None


def test_secrets_are_in_no_repr(local: FloxHub, published: Catalog) -> None:
    local.publish(
        str(APP),
        entry("https://publisher.flox.dev"),
        entry("s3://bucket", {"aws-s3": {"envs": {"AWS_SECRET_ACCESS_KEY": "s3cret"}}}),
    )

    found = published.locations([APP], SECRET)

    assert SECRET not in repr(found)
    assert "s3cret" not in repr(found)


def test_many_paths_are_asked_for_in_portions(
    local: FloxHub, published: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "PATHS_AT_ONCE", 3)
    paths = [storepaths.StorePath("a" * 32, f"p{number}") for number in range(7)]
    for path in paths:
        local.publish(str(path), entry(f"https://{path.name}.example"))

    found = published.locations(paths, None)

    assert [each.url for each in found] == [f"https://{path.name}.example" for path in paths]
    assert local.count("POST *") == 3


def test_no_paths_are_no_question(local: FloxHub, published: Catalog) -> None:
    assert published.locations([], None) == []
    assert local.count() == 0


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Status(404), errors.NotFound),
        (Status(500), errors.SourceUnreachable),
        (Reset(), errors.SourceUnreachable),
        (Status(200, b"<html>"), errors.ContentDamaged),
        (Status(200, b"{}"), errors.ContentDamaged),
        (Status(200, b'{"items": []}'), errors.ContentDamaged),
        (Status(200, json.dumps({"items": {str(APP): {}}}).encode()), errors.ContentDamaged),
        (Status(200, json.dumps({"items": {str(APP): [{}]}}).encode()), errors.ContentDamaged),
        (
            Status(200, json.dumps({"items": {str(APP): [entry("x", None, "key")]}}).encode()),
            errors.ContentDamaged,
        ),
    ],
)
def test_faults_are_told_by_what_can_be_done(
    local: FloxHub, published: Catalog, fault: Status | Reset, error: type[errors.CriProxyError]
) -> None:
    local.fail("*", fault)

    with pytest.raises(error) as refusal:
        published.locations([APP], SECRET)
    assert SECRET not in str(refusal.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {}, optional={"url": json_values, "auth": json_values, "public_keys": json_values}
    )
    | json_values
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_answer_is_locations_or_a_refusal(
    local: FloxHub, published: Catalog, said: object
) -> None:
    local.heal()
    local.fail("*", Status(200, json.dumps({"items": {str(APP): [said]}}).encode()))

    try:
        (location,) = published.locations([APP], SECRET)
    except errors.ContentDamaged:
        return

    assert codec.decode(codec.encode(location), Location) == location
