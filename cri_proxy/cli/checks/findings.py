"""Findings: the results of checks, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class CheckStatus(StrEnum):
    """The outcome of a check; only with `fail` do pods with environments not start."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and the advice how to fix it unless it is ok.

    `clock_skew` is by how many seconds the clock of the server that answered is ahead of ours.
    """

    status: CheckStatus
    found: str
    advice: str = ""
    clock_skew: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """A named check; `look` may block and runs in its own thread."""

    name: str
    look: Callable[[], Finding]


def ok(found: str, *, clock_skew: float | None = None) -> Finding:
    """Return a finding that needs no attention."""
    return Finding(CheckStatus.OK, found, clock_skew=clock_skew)


def warn(found: str, advice: str) -> Finding:
    """Return a finding that needs attention but does not keep pods from starting."""
    return Finding(CheckStatus.WARN, found, advice)


def fail(found: str, advice: str) -> Finding:
    """Return a finding that keeps pods with environments from starting."""
    return Finding(CheckStatus.FAIL, found, advice)
