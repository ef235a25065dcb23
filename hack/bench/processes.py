"""Memory and processor time of a process, as the kernel accounts them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


def peak_of(process: int) -> float:
    """Return the peak resident memory of a process, in MiB."""
    return _memory_of(process, "VmHWM")


def memory_of(process: int) -> float:
    """Return the resident memory of a process, in MiB."""
    return _memory_of(process, "VmRSS")


def computed_by(process: int) -> float:
    """Return the processor time of a process and all its threads, in seconds."""
    behind_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(behind_name[11]) + int(behind_name[12])) / _TICKS


def _memory_of(process: int, field: str) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return 0.0
