"""Coroutines of the library are tested under both event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The daemon's loop, and that of programs that have no need of it."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
