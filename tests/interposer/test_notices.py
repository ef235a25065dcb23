"""What an environment asks for that no container does."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cri_proxy.cri import api_pb2
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


def sandbox(*keys: str, namespace: str = "default") -> api_pb2.PodSandboxConfig:
    return api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(name="web", namespace=namespace),
        annotations=dict.fromkeys(keys, "x"),
    )


def test_a_mistyped_annotation_is_told_once_for_a_namespace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unknown = notices.Unknown()

    with caplog.at_level(logging.WARNING):
        for namespace in ("default", "default", "other"):
            unknown.tell(sandbox("flox.dev/enviroment", namespace=namespace))

    assert len(caplog.records) == 2
    assert "'flox.dev/enviroment' means nothing" in caplog.text
    assert "did you mean flox.dev/environment?" in caplog.text


def test_annotations_of_others_and_known_ones_are_not_spoken_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    keys = ("environment", "environment.main", "activate-mode", "disable-metrics", "nix-mutable")

    with caplog.at_level(logging.WARNING):
        notices.Unknown().tell(
            sandbox(
                *(f"flox.dev/{key}" for key in keys),
                *("flox.dev/skip-containers", "flox.dev/skip-containers-exec"),
                *("flox.example/enviroment", "floxdev", "io.kubernetes.pod.name"),
            )
        )

    assert caplog.records == []


def test_a_pod_with_very_many_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        notices.Unknown().tell(sandbox(*(f"flox.dev/x{number}" for number in range(1000))))

    assert len(caplog.records) == 10


def test_a_key_is_shown_on_one_line_and_not_whole() -> None:
    text = notices.of_annotation("flox.dev/\n" + "x" * 1000, None)

    assert "\n" not in text
    assert len(text) < 250
    assert "docs/pods.md" in text
