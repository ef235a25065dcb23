"""The realizer: the conductor that turns a reference into an environment on this node.

`begin` answers at once with a `Realization`, on which any number of callers wait, each as long as
it likes: the work belongs to nobody and goes on when all of them have gone. Two things are done
once for all who ask at the same time: the resolution of one reference with one token, and the
making of one environment. What is asked, in order:

    floxhub.resolve    which generation, which lockfile            (a worker job)
    realizer.recipe    what that lockfile needs on this system     (a worker job)
    store.closures     every store path of the closure, in place
    realizer.assemble  FLOX_ENV rendered, the view committed       (a worker job)

An environment that is already in place costs the first two only. Resolutions are remembered for
some seconds, so that the containers of a rollout do not ask FloxHub one by one. Nothing here reads
or writes a file but the record of an environment in place.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cachetools

from cri_proxy import errors
from cri_proxy.lib import singleflight
from cri_proxy.model import environments, references, storepaths
from cri_proxy.model.environments import Environment, Mode
from cri_proxy.model.progress import Phase, Progress
from cri_proxy.model.references import Reference
from cri_proxy.store import closures
from cri_proxy.telemetry import logs, spans

_log = logs.of(__name__)
_RESOLUTIONS_REMEMBERED = 1024


class Jobs(Protocol):
    """Who runs worker jobs: `lib.workers.Pool`."""

    async def call(self, job: str, argument: Mapping[str, Any]) -> dict[str, Any]:
        """Run the job and return its result."""
        ...


@dataclass(slots=True)
class Realization:
    """One environment on its way: everybody who wants it waits on the same one.

    `progress` tells of the work that is really done, which other references may share.
    """

    reference: Reference
    progress: Progress = field(default_factory=Progress)
    _task: asyncio.Task[Environment] = field(init=False, repr=False)

    @property
    def is_done(self) -> bool:
        """Whether `wait` would answer at once."""
        return self._task.done()

    @property
    def has_failed(self) -> bool:
        """Whether it ended without an environment, so that it is worth beginning anew."""
        return self._task.done() and (self._task.cancelled() or self._task.exception() is not None)

    async def wait(self, timeout_seconds: float | None = None) -> Environment:
        """Return the environment once it is in place.

        Raises StillRealizing with the progress when it is not there in time, and whatever refusal
        ended the work. Giving up waiting does not stop the work.
        """
        done, _ = await asyncio.wait({self._task}, timeout=timeout_seconds)
        if not done:
            raise errors.StillRealizing(
                f"environment {self.reference} is not on this node yet: {self.progress}; "
                "the work goes on, the next try joins it"
            )
        return self._task.result()


@dataclass(frozen=True, slots=True)
class Options:
    """What the node's settings say about every environment.

    `shell` is the store path of the bash for environments that need one and bring none (None: such
    environments are refused); `certificates` the node's CA bundle for those that bring none.
    """

    system: str
    shell: str | None
    certificates: Path | None
    remember_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class _Resolution:
    """What FloxHub said about a reference."""

    reference: Reference
    revision: str
    lock_digest: str
    lockfile: str
    is_stale: bool


class Realizer:
    """Realizes environments below one root directory, each once however many ask."""

    def __init__(self, root: Path, jobs: Jobs, store: closures.Closures, options: Options) -> None:
        self._environments = root / "environments"
        self._jobs = jobs
        self._store = store
        self._options = options
        self._running: dict[tuple[Reference, str | None, Mode], Realization] = {}
        self._making: singleflight.Flights[str, Environment] = singleflight.Flights()
        self._progress: dict[str, Progress] = {}
        self._resolutions: cachetools.TTLCache[tuple[Reference, str | None], _Resolution] = (
            cachetools.TTLCache(_RESOLUTIONS_REMEMBERED, options.remember_seconds)
        )

    def begin(
        self, reference: Reference, *, token: str | None = None, mode: Mode = Mode.RUN
    ) -> Realization:
        """Return the realization of `reference`, joining one that is under way for the same token.

        `token` is what FloxHub is asked with; two tokens never share an answer.
        """
        key = (reference, token, mode)
        running = self._running.get(key)
        if running is not None:
            return running
        realization = Realization(reference)
        realization._task = asyncio.create_task(
            self._realize(realization, token, mode), name=f"realize {reference}"
        )
        self._running[key] = realization
        realization._task.add_done_callback(lambda _: self._finished(key))
        return realization

    async def load(self, identity: str) -> Environment | None:
        """Return the environment in place under `identity`, None when there is none."""
        return environments.load(self._environments / identity)

    async def aclose(self) -> None:
        """Stop what is under way; what is in place stays, what is half done is thrown away."""
        tasks = [running._task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finished(self, key: tuple[Reference, str | None, Mode]) -> None:
        """Forget a realization that ended, and look at its error so that asyncio need not."""
        realization = self._running.pop(key)
        if not realization._task.cancelled():
            realization._task.exception()

    async def _realize(
        self, realization: Realization, token: str | None, mode: Mode
    ) -> Environment:
        """Do the whole work for one reference, told by one span and one log line."""
        started = time.monotonic()
        reference = realization.reference
        with spans.span(
            "realizer.realize",
            **{"flox.environment.reference": str(reference), "flox.environment.mode": str(mode)},
        ) as span:
            try:
                resolution = await self._resolve(reference, token)
                span.set_attribute("flox.environment.generation", str(resolution.reference))
                span.set_attribute("flox.environment.stale", resolution.is_stale)
                made = await self._make(resolution, mode, realization)
            except errors.CriProxyError as error:
                _log.warning(
                    "environment refused", reference=reference, kind=type(error).__name__, why=error
                )
                raise
        progress = realization.progress
        progress.phase = Phase.READY
        _log.info(
            "environment ready",
            reference=resolution.reference,
            mode=mode,
            seconds=round(time.monotonic() - started, 3),
            paths=len(made.closure),
            fetched=progress.paths_done - progress.paths_present,
            stale=resolution.is_stale,
        )
        return made.resolved_as(
            resolution.reference, resolution.revision, is_stale=resolution.is_stale
        )

    async def _resolve(self, reference: Reference, token: str | None) -> _Resolution:
        """Ask FloxHub what `reference` is, or remember."""
        key = (reference, token)
        known = self._resolutions.get(key)
        if known is not None:
            return known
        with spans.span("floxhub.resolve", **{"flox.environment.reference": str(reference)}):
            answer = await self._jobs.call(
                "floxhub.resolve", {"reference": str(reference), "token": token}
            )
        resolution = _Resolution(
            reference=references.parse(answer["reference"]),
            revision=answer["revision"],
            lock_digest=answer["lock_digest"],
            lockfile=answer["lockfile"],
            is_stale=answer["is_stale"],
        )
        if not resolution.is_stale:
            self._resolutions[key] = resolution
        return resolution

    async def _make(
        self, resolution: _Resolution, mode: Mode, realization: Realization
    ) -> Environment:
        """Return the environment of a resolution, from its place or into it."""
        argument = {
            "reference": str(resolution.reference),
            "revision": resolution.revision,
            "lockfile": resolution.lockfile,
            "lock_digest": resolution.lock_digest,
            "system": self._options.system,
            "mode": str(mode),
            "shell": self._options.shell,
            "certificates": str(self._options.certificates) if self._options.certificates else None,
        }
        recipe = await self._jobs.call("realizer.recipe", argument)
        identity = recipe["identity"]
        present = await self.load(identity)
        if present is not None:
            progress = realization.progress
            progress.paths_total = progress.paths_done = len(present.closure)
            progress.paths_present = progress.paths_total
            return present
        shared = self._progress.setdefault(identity, realization.progress)
        realization.progress = shared
        try:
            return await self._making.fly(
                identity, lambda: self._fetch_and_assemble(argument, recipe, shared)
            )
        finally:
            if self._progress.get(identity) is shared:
                del self._progress[identity]

    async def _fetch_and_assemble(
        self, argument: dict[str, Any], recipe: dict[str, Any], progress: Progress
    ) -> Environment:
        """Bring the closure onto the node and commit the view of it."""
        progress.phase = Phase.FETCHING
        roots = [storepaths.parse(path) for path in recipe["roots"]]
        name = {"flox.environment.reference": argument["reference"]}
        with spans.span("store.fetch", **name):
            closure = await self._store.realize(roots, progress)
        progress.phase = Phase.RENDERING
        with spans.span("realizer.assemble", **name):
            made = await self._assemble(argument, recipe, closure)
            if "needs" in made:
                progress.phase = Phase.FETCHING
                roots += [storepaths.parse(path) for path in made["needs"]]
                closure = await self._store.realize(roots, progress)
                progress.phase = Phase.RENDERING
                made = await self._assemble(argument, recipe, closure)
        environment = await self.load(made["identity"])
        if environment is None:
            raise errors.InternalFault(
                f"environment {argument['reference']} was assembled and is not in place at "
                f"{self._environments / made['identity']}: something else removed it; try again"
            )
        return environment

    async def _assemble(
        self,
        argument: dict[str, Any],
        recipe: dict[str, Any],
        closure: tuple[closures.PathRecord, ...],
    ) -> dict[str, Any]:
        """Render FLOX_ENV and commit the view; the answer may ask for further store paths first."""
        return await self._jobs.call(
            "realizer.assemble",
            {
                **argument,
                "identity": recipe["identity"],
                "closure": [record.path.basename for record in closure],
                "nar_bytes": sum(record.nar_size for record in closure),
            },
        )
