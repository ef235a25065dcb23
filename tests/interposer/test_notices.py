"""Warnings about parts of environments that do not run, and about unknown annotations."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cri_proxy.cri import api_pb2
from cri_proxy.interposer import notices
from cri_proxy.model.environments import Environment, Mode
from cri_proxy.model.references import Reference
from cri_proxy.model.storepaths import StorePath
from cri_proxy.telemetry import logs


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


def reported(caplog: pytest.LogCaptureFixture, environment: Environment) -> list[str]:
    """Return the lines that the log shows when containers start in an environment."""
    unsupported = notices.UnsupportedParts()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            unsupported.report(environment)
    return [logs.Text(has_time=False).format(record) for record in caplog.records]


def test_an_environment_without_either_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert reported(caplog, environment_of()) == []


def test_services_are_reported_once_by_name(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = reported(caplog, environment_of(("db", "queue")))

    assert "services of an environment are not started in pods" in line
    assert 'environment=acme/web:3 services="db, queue"' in line


def test_many_services_are_counted() -> None:
    assert notices.shown(tuple(map(str, range(99)))).endswith("9 and 89 more")


def test_profile_scripts_are_reported_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = reported(caplog, environment_of(has_profile=True))

    assert "[vars]" in line


def sandbox(*keys: str, namespace: str = "default") -> api_pb2.PodSandboxConfig:
    return api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(name="web", namespace=namespace),
        annotations=dict.fromkeys(keys, "x"),
    )


def test_a_mistyped_annotation_is_reported_once_for_a_namespace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unknown = notices.UnknownAnnotations()

    with caplog.at_level(logging.WARNING):
        for namespace in ("default", "default", "other"):
            unknown.report(sandbox("flox.dev/enviroment", namespace=namespace))

    assert len(caplog.records) == 2
    for record, namespace in zip(caplog.records, ("default", "other")):
        assert logs.Text(has_time=False).format(record) == (
            f"warning interposer.notices: unknown annotation pod={namespace}/web "
            "annotation=flox.dev/enviroment did_you_mean=flox.dev/environment"
        )


def test_annotations_of_others_and_known_ones_are_not_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    keys = ("environment", "environment.main", "activate-mode", "disable-metrics", "nix-mutable")

    with caplog.at_level(logging.WARNING):
        notices.UnknownAnnotations().report(
            sandbox(
                *(f"flox.dev/{key}" for key in keys),
                *("flox.dev/skip-containers", "flox.dev/skip-containers-exec"),
                *("flox.example/enviroment", "floxdev", "io.kubernetes.pod.name"),
            )
        )

    assert caplog.records == []


def test_a_pod_with_very_many_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        notices.UnknownAnnotations().report(
            sandbox(*(f"flox.dev/x{number}" for number in range(1000)))
        )

    assert len(caplog.records) == 10


def test_a_key_is_shown_on_one_line_and_not_whole(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        notices.UnknownAnnotations().report(sandbox("flox.dev/\n" + "x" * 1000))

    (record,) = caplog.records
    line = logs.Text(has_time=False).format(record)
    assert "\n" not in line
    assert len(line) < 250
    assert "docs/pods.md" in line
