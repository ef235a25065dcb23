"""The two supported architectures, with the names that other projects use for them."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture; `name` is the kernel's."""

    name: str
    debian: str
    multiarch: str
    loader: str
    """The dynamic loader's file in Debian's libc6."""
    compiler: str
    """The name used by the launcher's compiler."""


ALL: Final = {
    each.name: each
    for each in (
        Architecture(
            "x86_64",
            debian="amd64",
            multiarch="x86_64-linux-gnu",
            loader="ld-linux-x86-64.so.2",
            compiler="x86_64-freestanding-none",
        ),
        Architecture(
            "aarch64",
            debian="arm64",
            multiarch="aarch64-linux-gnu",
            loader="ld-linux-aarch64.so.1",
            compiler="aarch64-freestanding-none",
        ),
    )
}


def host() -> Architecture:
    """Return this machine's architecture; raise KeyError if it is not supported."""
    return ALL[platform.machine()]
