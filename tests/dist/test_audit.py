"""The comparison of pinned packages with what the archive offers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hack.dist import apt, audit
from hack.dist.audit import Superseded

pytestmark = pytest.mark.skipif(shutil.which("dpkg") is None, reason="dpkg compares versions")
SSL = apt.Package("libssl3t64", "3.5.7-1~deb13u3", "0" * 64)


def offer(version: str, *, security: bool = False) -> apt.Offer:
    return apt.Offer(version, security)


def test_a_package_that_is_the_newest_is_not_reported() -> None:
    offers = {"libssl3t64": [offer(SSL.version), offer("3.5.6-1~deb13u1", security=True)]}

    assert audit.compare("x86_64", [SSL], offers) == []


def test_a_newer_version_is_reported_with_where_it_comes_from() -> None:
    offers = {"libssl3t64": [offer(SSL.version), offer("3.5.7-1~deb13u4", security=True)]}

    (found,) = audit.compare("x86_64", [SSL], offers)
    assert found == Superseded("x86_64", SSL, offer("3.5.7-1~deb13u4", security=True))
    assert str(found) == ("SECURITY UPDATE: x86_64: libssl3t64 3.5.7-1~deb13u3 -> 3.5.7-1~deb13u4")


def test_a_security_fix_below_a_point_release_still_counts_as_one() -> None:
    offers = {"libssl3t64": [offer("3.5.9-1~deb13u1"), offer("3.5.7-1~deb13u4", security=True)]}

    (found,) = audit.compare("x86_64", [SSL], offers)
    assert found.newest == offer("3.5.9-1~deb13u1", security=True)


def test_versions_are_compared_as_debian_does() -> None:
    assert audit.is_older("2.41-12+deb13u5", "2.41-12+deb13u10")
    assert audit.is_older("3.5.9~rc1-1", "3.5.9-1")
    assert audit.is_older("9.0-1", "1:1.0-1")


def test_an_audit_that_could_not_run_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(apt, "_SOURCES", tmp_path)

    assert audit.main() == 2
    assert "NOT CHECKED: no Debian archive in" in capsys.readouterr().err
