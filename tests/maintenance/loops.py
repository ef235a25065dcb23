"""What tests of maintenance share: jobs in this process, a runtime's lists, a running loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from types import ModuleType
from typing import Any, TypeVar

import pytest

from cri_proxy.cri import api_pb2
from cri_proxy.interposer import adjustment
from cri_proxy.lib import codec
from cri_proxy.lib.job import Job, Jobs, Task

A = TypeVar("A")
P = TypeVar("P")
R = TypeVar("R")


class InProcess:
    """Runs the jobs of a table; what they carry is encoded as on the way to a worker.

    A call raises `failure` instead, if there is one.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self.failure: Exception | None = None

    async def call(
        self, job: Job[A, P, R], argument: A, *, on_progress: Callable[[P], None] | None = None
    ) -> R:
        if self.failure is not None:
            raise self.failure
        received = codec.decode(codec.encode(argument), job.argument)
        result = self._jobs[job](received, Task(on_progress or (lambda report: None)))
        return codec.decode(codec.encode(result), job.result)


class Runtime:
    """A runtime's lists; one of `on_list` runs each time containers are listed."""

    def __init__(self) -> None:
        self.listed: list[api_pb2.Container] = []
        self.on_list: list[Callable[[], Awaitable[None]]] = []

    async def containers(self) -> Sequence[api_pb2.Container]:
        if self.on_list:
            await self.on_list.pop(0)()
        return list(self.listed)

    async def sandboxes(self) -> Sequence[api_pb2.PodSandbox]:
        return []

    def create(self, identity: str) -> None:
        """Create a container of an environment."""
        self.listed.append(
            api_pb2.Container(annotations={adjustment.IDENTITY_ANNOTATION: identity})
        )


@contextlib.asynccontextmanager
async def running(loop: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a maintenance loop until the body is done, which has a minute."""
    task = asyncio.create_task(loop)
    try:
        async with asyncio.timeout(60):
            yield
    finally:
        task.cancel()
        await asyncio.wait({task})


def logged(
    caplog: pytest.LogCaptureFixture, module: ModuleType, event: str
) -> list[dict[str, Any]]:
    """Return the fields of a module's log lines of an event."""
    return [
        each.__dict__["cri_proxy_fields"]
        for each in caplog.records
        if each.name == module.__name__ and each.getMessage() == event
    ]
