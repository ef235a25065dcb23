"""A finding: what one check says, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Whether what was found will do; only `fail` keeps pods from starting."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and what to do about it when that is not well.

    `clock_skew` is by how many seconds the clock of who answered was ahead of ours.
    """

    status: Verdict
    found: str
    advice: str = ""
    clock_skew: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at; `look` may block and runs in a thread of its own."""

    name: str
    look: Callable[[], Finding]


def ok(found: str, *, clock_skew: float | None = None) -> Finding:
    """Return the finding of something that is as it should be."""
    return Finding(Verdict.OK, found, clock_skew=clock_skew)


def warn(found: str, advice: str) -> Finding:
    """Return the finding of something that works and should be looked at."""
    return Finding(Verdict.WARN, found, advice)


def fail(found: str, advice: str) -> Finding:
    """Return the finding of something without which pods with environments do not start."""
    return Finding(Verdict.FAIL, found, advice)
