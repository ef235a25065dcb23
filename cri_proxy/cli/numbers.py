"""Human-readable numbers: sizes, durations, ages, counts."""

from __future__ import annotations


def size(count: float) -> str:
    """Return a size of so many bytes: `999 B`, `1.2 MB`, `12.3 GB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Return a duration: `0.42 s`, `12.3 s`, `3 min 05 s`."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s"


def clock(seconds: float) -> str:
    """Return a duration as on a stopwatch: `0:07`, `12:30`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ago(seconds: float) -> str:
    """Return an age in its largest unit: `just now`, `3 hours ago`."""
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        count = int(seconds // unit)
        if count >= 1:
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: `1 path`, `300 paths`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
