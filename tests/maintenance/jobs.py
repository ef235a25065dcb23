"""Worker jobs run in the test's own process, and a runtime's lists."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

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
