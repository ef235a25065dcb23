"""What an environment asks for that no container does."""

from __future__ import annotations

from pathlib import Path

from cri_proxy.interposer import notices
from cri_proxy.model.environments import Environment, Mode
from cri_proxy.model.references import Reference
from cri_proxy.model.storepaths import StorePath


def environment_of(services: tuple[str, ...] = (), *, has_profile: bool = False) -> Environment:
    return Environment(
        identity="x",
        reference=Reference("acme", "web", 3),
        revision="r",
        lock_digest="d",
        system="x86_64-linux",
        mode=Mode.RUN,
        flox_env=StorePath("0" * 32, "environment-run"),
        shell=None,
        variables=(),
        closure=(),
        nar_bytes=0,
        realized_at=0.0,
        store=Path("/nowhere"),
        services=services,
        has_profile=has_profile,
    )


def test_an_environment_without_either_is_not_spoken_of() -> None:
    assert notices.of_environment(environment_of()) == []


def test_services_are_named() -> None:
    (text,) = notices.of_environment(environment_of(("db", "queue")))

    assert "(db, queue)" in text


def test_many_services_are_counted() -> None:
    (text,) = notices.of_environment(environment_of(tuple(map(str, range(99)))))

    assert "9 and 89 more" in text


def test_profile_scripts_are_spoken_of_with_what_to_do() -> None:
    (text,) = notices.of_environment(environment_of(has_profile=True))

    assert "[vars]" in text
