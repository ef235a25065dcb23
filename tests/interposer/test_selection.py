"""Which environment the annotations of a pod ask for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.interposer import selection
from cri_proxy.model.environments import Mode
from cri_proxy.model.references import Reference

WEB = Reference("acme", "web")


def test_a_pod_without_our_annotation_selects_nothing() -> None:
    assert selection.of_annotations({"app": "web", "flox.dev/skip-containers": "a"}) is None


def test_every_container_gets_the_pods_environment() -> None:
    wanted = selection.of_annotations({"flox.dev/environment": "acme/web"})

    assert wanted is not None
    assert wanted.of_container("main") == WEB
    assert wanted.mode is Mode.RUN


def test_a_generation_is_pinned() -> None:
    wanted = selection.of_annotations({"flox.dev/environment": "acme/web:12"})

    assert wanted is not None
    assert wanted.of_container("main") == WEB.at(12)


def test_a_skipped_container_gets_none() -> None:
    wanted = selection.of_annotations(
        {"flox.dev/environment": "acme/web", "flox.dev/skip-containers": " proxy , helper,"}
    )

    assert wanted is not None
    assert wanted.of_container("proxy") is None
    assert wanted.of_container("helper") is None
    assert wanted.of_container("main") == WEB


def test_a_container_may_have_an_environment_of_its_own_or_none() -> None:
    wanted = selection.of_annotations(
        {
            "flox.dev/environment": "acme/web",
            "flox.dev/environment.db": "acme/postgres:2",
            "flox.dev/environment.plain": "",
        }
    )

    assert wanted is not None
    assert wanted.of_container("db") == Reference("acme", "postgres", 2)
    assert wanted.of_container("plain") is None
    assert wanted.references == (WEB, Reference("acme", "postgres", 2))


def test_a_container_may_have_the_only_environment_of_the_pod() -> None:
    wanted = selection.of_annotations({"flox.dev/environment.db": "acme/postgres"})

    assert wanted is not None
    assert wanted.of_container("db") == Reference("acme", "postgres")
    assert wanted.of_container("main") is None


@pytest.mark.parametrize(
    "value", ["", " ", "a", "a/b/c", "../x", "a/b@2", "a/b:latest", "a/b:0", "a/b:", "a /b", "ä/b"]
)
def test_a_bad_reference_is_refused_with_the_annotations_name(value: str) -> None:
    with pytest.raises(errors.RequestInvalid, match=r"flox\.dev/environment") as refusal:
        selection.of_annotations({"flox.dev/environment": value})

    assert "owner/name" in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("flox.dev/activate-mode", "build"),
        ("flox.dev/disable-metrics", "yes"),
        ("flox.dev/nix-mutable", "1"),
    ],
)
def test_other_values_are_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(errors.RequestInvalid, match=key):
        selection.of_annotations({"flox.dev/environment": "acme/web", key: value})


def test_all_annotations_are_read() -> None:
    wanted = selection.of_annotations(
        {
            "flox.dev/environment": "acme/web",
            "flox.dev/activate-mode": "dev",
            "flox.dev/disable-metrics": "true",
            "flox.dev/nix-mutable": "true",
            "flox.dev/skip-containers-exec": "main",
        }
    )

    assert wanted == selection.Selection(
        environment=WEB,
        mode=Mode.DEV,
        disable_metrics=True,
        nix_mutable=True,
        skipped_exec=frozenset({"main"}),
    )


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "flox.dev/environment",
                "flox.dev/environment.a",
                "flox.dev/activate-mode",
                "flox.dev/nix-mutable",
                "flox.dev/skip-containers",
                "other",
            ]
        ),
        st.one_of(st.text(max_size=30), st.sampled_from(["a/b", "a/b:1", "run", "true"])),
    )
)
def test_any_annotations_are_read_or_refused(annotations: dict[str, str]) -> None:
    named = any(key.startswith("flox.dev/environment") for key in annotations)

    try:
        wanted = selection.of_annotations(annotations)
    except errors.RequestInvalid:
        wanted = None
        named = False

    assert (wanted is not None) == named


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("a,a, a ,b", {"a", "b"}),
        (",,", set()),
        ("", set()),
        ("\ta\n,\u00a0b", {"a", "b"}),
        (",".join(f"c{number}" for number in range(20_000)), {f"c{n}" for n in range(20_000)}),
    ],
)
def test_names_may_be_repeated_empty_or_many(value: str, names: set[str]) -> None:
    for key in ("flox.dev/skip-containers", "flox.dev/skip-containers-exec"):
        wanted = selection.of_annotations({"flox.dev/environment": "acme/web", key: value})

        assert wanted is not None
        assert (wanted.skipped or wanted.skipped_exec) == names


@pytest.mark.parametrize("value", ["a b", "a;b", "a,b c", "ä", "a\0", "[a, b]", '"a"', "x" * 300])
def test_what_cannot_be_a_name_is_refused_rather_than_ignored(value: str) -> None:
    """Ignored, a container that should be left alone would not be."""
    with pytest.raises(errors.RequestInvalid, match=r"flox\.dev/skip-containers") as refused:
        selection.of_annotations(
            {"flox.dev/environment": "acme/web", "flox.dev/skip-containers": value}
        )

    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("name", ["", " ", "a b", "\0", "a/b", "x" * 300])
def test_an_environment_for_what_cannot_be_a_container_is_refused(name: str) -> None:
    with pytest.raises(errors.RequestInvalid, match=r"flox\.dev/environment") as refused:
        selection.of_annotations({f"flox.dev/environment.{name}": "acme/web"})

    assert len(str(refused.value)) < 600


def test_an_environment_is_realized_with_a_shell_where_exec_stays_outside() -> None:
    wanted = selection.of_annotations(
        {
            "flox.dev/environment": "acme/web",
            "flox.dev/environment.db": "acme/db",
            "flox.dev/environment.none": "",
            "flox.dev/environment.left": "acme/left",
            "flox.dev/skip-containers": "left",
            "flox.dev/skip-containers-exec": "db,none",
        }
    )

    assert wanted is not None
    database = Reference("acme", "db")
    assert wanted.realizations == ((WEB, False), (database, False), (database, True))


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("flox.dev/enviroment", "flox.dev/environment"),
        ("flox.dev/Environment", "flox.dev/environment"),
        ("flox.dev/env", "flox.dev/environment"),
        ("flox.dev/activate_mode", "flox.dev/activate-mode"),
        ("flox.dev/activation-mode", "flox.dev/activate-mode"),
        ("flox.dev/skip-container", "flox.dev/skip-containers"),
        ("flox.dev/mutable", "flox.dev/nix-mutable"),
        ("flox.dev/disable-metric", "flox.dev/disable-metrics"),
        ("flox.dev/zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz", None),
    ],
)
def test_what_a_mistyped_key_likely_means(key: str, meant: str | None) -> None:
    assert selection.unknown({key: "acme/web", "flox.dev/environment": "acme/web"}) == {key: meant}
