"""The realizer, which coordinates the steps from a reference to an environment on this node.

`begin` returns a `Realization` at once, on which any number of callers wait, each with its own
timeout: the work goes on when all of them have gone. Two things are done once for all concurrent
callers: resolving one reference with one token, and making one environment. The steps, in order:

    floxhub.resolve    which generation, which lockfile            (a worker job)
    realizer.recipe    what that lockfile needs on this system     (a worker job)
    published          where published packages are, if there are  (worker jobs)
    store.closures     every store path of the closure, in place
    realizer.assemble  FLOX_ENV rendered, the view committed       (a worker job)

An environment that is already in place needs the first three only, or the first if it has no
published packages: every start checks that FloxHub gives the environment to this token. Resolutions
are remembered for some seconds, so that the containers of a rollout do not ask FloxHub one by one.
The only file that is read here is the record of an environment in place.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cachetools

from cri_proxy import errors
from cri_proxy.floxhub import protocol as hubprotocol
from cri_proxy.floxhub.protocol import Resolution, Resolve
from cri_proxy.lib import meters, singleflight
from cri_proxy.lib.workers import Pool
from cri_proxy.model import environments
from cri_proxy.model.environments import Environment, Mode
from cri_proxy.model.progress import Phase, Progress
from cri_proxy.model.references import Reference
from cri_proxy.model.storepaths import StorePath
from cri_proxy.realizer import holding, protocol
from cri_proxy.realizer.protocol import Assembled, Assembly, Ingredients, Requirements
from cri_proxy.realizer.published import CatalogAccess, Located
from cri_proxy.store.disk import leases
from cri_proxy.store.fetch import closures
from cri_proxy.telemetry import logs, spans

_log = logs.of(__name__)
_seconds = meters.histogram(
    "cri_proxy_realization_duration_seconds",
    "Realizations by outcome: present on the node, fetched, or the kind of refusal.",
    "cri_proxy_outcome",
)
_RESOLUTIONS_REMEMBERED = 1024
_ENVIRONMENTS_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a caller of `begin` asks for; equal wishes are one realization."""

    reference: Reference
    token: str | None = field(repr=False)
    mode: Mode
    has_shell: bool


@dataclass(slots=True)
class Realization:
    """One environment that is being made, for all callers that want it.

    `progress` is that of the actual work, which other references may share; `span` is the work's
    own, and belongs to the trace of the caller that began it.
    """

    reference: Reference
    progress: Progress = field(default_factory=Progress)
    span: spans.Context | None = None
    _task: asyncio.Task[Environment] = field(init=False, repr=False)

    @property
    def is_done(self) -> bool:
        """Return whether `wait` would return at once."""
        return self._task.done()

    @property
    def has_failed(self) -> bool:
        """Return whether it ended without an environment, so that another attempt makes sense."""
        return self._task.done() and (self._task.cancelled() or self._task.exception() is not None)

    async def wait(self, timeout_seconds: float | None = None) -> Environment:
        """Return the environment once it is in place.

        Raises StillRealizing with the progress when it is not there in time, and whatever refusal
        ended the work. Giving up waiting does not stop the work.
        """
        name = {"flox.environment.reference": str(self.reference)}
        with spans.span("realizer.wait", **name) as span:
            done, _ = await asyncio.wait({self._task}, timeout=timeout_seconds)
            if self.span is not None:
                span.add_link(self.span)
            if not done:
                raise errors.StillRealizing(
                    f"environment {self.reference} is not on this node yet: {self.progress}; "
                    "the work goes on, the next try joins it"
                )
            return self._task.result()


@dataclass(frozen=True, slots=True)
class RealizerOptions:
    """The node's settings for all environments.

    `shell` is the store path of the bash for environments that need one and bring none (None: such
    environments are refused); `certificates` the node's CA bundle for those that bring none.
    """

    system: str
    shell: str | None
    certificates: Path | None
    remember_seconds: float = 10.0


class Realizer:
    """Realizes environments below one root directory, each once for all callers."""

    def __init__(
        self, root: Path, pool: Pool, store: closures.ClosureSource, options: RealizerOptions
    ) -> None:
        self._environments = root / "environments"
        self._pool = pool
        self._store = store
        self._options = options
        self._running: dict[_Wish, Realization] = {}
        self._making: singleflight.Flights[str, Environment] = singleflight.Flights()
        self._progress: dict[str, Progress] = {}
        self._resolutions: cachetools.TTLCache[Resolve, Resolution] = cachetools.TTLCache(
            _RESOLUTIONS_REMEMBERED, options.remember_seconds
        )
        self._loaded: cachetools.LRUCache[str, Environment] = cachetools.LRUCache(
            _ENVIRONMENTS_REMEMBERED
        )
        self._recipes: cachetools.LRUCache[tuple[Reference, str, Mode, bool], _Known] = (
            cachetools.LRUCache(_RESOLUTIONS_REMEMBERED)
        )
        self._met: cachetools.LRUCache[Reference, bool] = cachetools.LRUCache(
            _RESOLUTIONS_REMEMBERED
        )
        self._published = CatalogAccess(pool, store, remember_seconds=options.remember_seconds)
        self._leases = leases.Realizations(root / "store")

    def begin(
        self,
        reference: Reference,
        *,
        token: str | None = None,
        mode: Mode = Mode.RUN,
        has_shell: bool = False,
    ) -> Realization:
        """Return the realization of `reference`, joining one that is under way for the same token.

        `token` is what FloxHub is asked with; two tokens never share an answer. `has_shell` asks
        for a shell in the environment even if nothing has to run before its programs.
        """
        wish = _Wish(reference, token, mode, has_shell)
        running = self._running.get(wish)
        if running is not None:
            return running

        def forget(task: asyncio.Task[Environment]) -> None:
            del self._running[wish]
            if not task.cancelled():
                task.exception()  # retrieved, else asyncio would log it

        realization = self._running[wish] = Realization(reference)
        realization._task = asyncio.create_task(
            self._realize(realization, wish), name=f"realize {reference}"
        )
        realization._task.add_done_callback(forget)
        return realization

    async def load(self, identity: str) -> Environment | None:
        """Return the environment in place under `identity`; None for none, or a damaged one.

        The record of a large closure takes a while to read, so that is done in a thread, and once:
        a record never changes, only its place can be gone.
        """
        place = self._environments / identity
        if (place / ".damaged").exists():
            return None
        known = self._loaded.get(identity)
        if known is not None and known.store.is_dir() and (not known.mounted or known.is_in_place):
            return known
        found = await asyncio.to_thread(environments.load, place)
        if found is not None and found.mounted and not found.is_in_place:
            return None  # Nix has collected some of it: it is realized again
        if found is not None:
            self._loaded[identity] = found
        return found

    async def aclose(self) -> None:
        """Cancel what is under way; environments in place stay, unfinished ones are discarded."""
        tasks = [running._task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _realize(self, realization: Realization, wish: _Wish) -> Environment:
        """Do the whole work for one reference, with one span and one log line."""
        started = time.monotonic()
        reference, mode = wish.reference, wish.mode
        with spans.span(
            "realizer.realize",
            **{"flox.environment.reference": str(reference), "flox.environment.mode": str(mode)},
        ) as span:
            realization.span = span.context
            try:
                resolution = await self._resolve(reference, wish.token)
                span.set_attribute("flox.environment.generation", str(resolution.reference))
                span.set_attribute("flox.environment.stale", resolution.is_stale)
                if resolution.is_stale:
                    _log.warning(
                        "floxhub unavailable, last known generation used",
                        reference=resolution.reference,
                    )
                made = await self._make(resolution, wish, realization)
            except errors.CriProxyError as error:
                # A caller that waits refuses its call with this error, which is logged there. One
                # without callers was begun early, perhaps without the token to come.
                refusal = _naming(reference, error)
                _log.debug("environment not realized", reference=reference, why=refusal)
                _seconds.record(time.monotonic() - started, type(refusal).__name__)
                raise refusal from error
            progress = realization.progress
            span.set_attributes(
                {
                    "cri_proxy.paths": len(made.closure),
                    "cri_proxy.paths.fetched": progress.paths_done - progress.paths_present,
                    "cri_proxy.bytes": made.nar_bytes,
                }
            )
        self._met[reference] = True
        progress.phase = Phase.READY
        is_present = progress.paths_present == progress.paths_total
        _seconds.record(time.monotonic() - started, "present" if is_present else "fetched")
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

    async def _resolve(self, reference: Reference, token: str | None) -> Resolution:
        asked = Resolve(reference, token)
        known = self._resolutions.get(asked)
        if known is not None:
            return known
        if reference not in self._met:
            self._store.prepare()  # perhaps nothing of it is here: workers start meanwhile
        with spans.span("floxhub.resolve", **{"flox.environment.reference": str(reference)}):
            resolution = await self._pool.call(hubprotocol.RESOLVE, asked)
        if not resolution.is_stale:
            self._resolutions[asked] = resolution
        return resolution

    async def _make(
        self, resolution: Resolution, wish: _Wish, realization: Realization
    ) -> Environment:
        """Return the environment of a resolution; make it unless it is in place."""
        ingredients = Ingredients(
            resolution,
            system=self._options.system,
            mode=wish.mode,
            shell=self._options.shell,
            has_shell=wish.has_shell,
            certificates=self._options.certificates,
        )
        key = (resolution.reference, resolution.lock_digest, wish.mode, wish.has_shell)
        known = self._recipes.get(key)
        if known is None or (present := await self.load(known.identity)) is None:
            with spans.span("realizer.recipe"):
                required = await self._pool.call(protocol.RECIPE, ingredients)
            known = self._recipes[key] = _Known(required.identity, required.published)
            present = await self.load(known.identity)
        located = await self._published.locate(known.published, wish.token)
        if present is not None:
            progress, total = realization.progress, len(present.closure)
            progress.paths_total = progress.paths_done = progress.paths_present = total
            return present
        identity = known.identity
        shared = self._progress.setdefault(identity, realization.progress)
        realization.progress = shared
        try:
            return await self._making.fly(
                identity, lambda: self._fetch_and_assemble(ingredients, required, located, shared)
            )
        finally:
            if self._progress.get(identity) is shared:
                del self._progress[identity]

    async def _fetch_and_assemble(
        self, ingredients: Ingredients, required: Requirements, located: Located, progress: Progress
    ) -> Environment:
        """Fetch the closure and commit the view of it, or repair a damaged one."""
        reference, identity = ingredients.resolution.reference, required.identity
        async with holding.realization(self._leases):
            roots = list(required.roots)
            name = {"flox.environment.reference": str(reference)}
            with spans.span("store.fetch", **name):
                closure = await self._fetch(roots, located, required.advice, progress)
            with spans.span("realizer.assemble", **name):
                made = await self._assemble(ingredients, closure)
                if made.needs is not None:
                    roots.append(made.needs)
                    closure = await self._fetch(roots, located, required.advice, progress)
                    await self._assemble(ingredients, closure)
            environment = await self.load(identity)
            if environment is None:
                raise errors.InternalFault(
                    f"environment {reference} was assembled and is not in place at "
                    f"{self._environments / identity}: something else removed it; try again"
                )
            return environment

    async def _fetch(
        self,
        roots: list[StorePath],
        located: Located,
        advice: Mapping[str, str],
        progress: Progress,
    ) -> tuple[closures.PathRecord, ...]:
        """Bring the closure of `roots` onto the node, leaving `progress` at the next phase."""
        try:
            closure = await self._store.realize(roots, progress, located.places)
        except errors.NotFound as error:
            if located.refusal is None:
                raise located.explain(_advised(advice, error)) from error
            raise located.refusal from error  # it would be where the catalog refused to say
        except errors.SourceUnreachable as error:
            raise located.explain(error) from error
        progress.phase = Phase.RENDERING
        return closure

    async def _assemble(
        self, ingredients: Ingredients, closure: tuple[closures.PathRecord, ...]
    ) -> Assembled:
        """Render FLOX_ENV and commit the view; the result may ask for a store path first."""
        paths = tuple(record.path for record in closure)
        nar_bytes = sum(record.nar_size for record in closure)
        made = await self._pool.call(protocol.ASSEMBLE, Assembly(ingredients, paths, nar_bytes))
        spans.replay(made.timings)
        return made


@dataclass(frozen=True, slots=True)
class _Known:
    """The part of a recipe that is needed for an environment in place."""

    identity: str
    published: tuple[StorePath, ...]


def _advised(advice: Mapping[str, str], error: errors.NotFound) -> errors.NotFound:
    """Return the error with advice about the package whose store path it names."""
    for path, text in advice.items():
        if path in str(error):
            return errors.NotFound(f"{error}; {text}")
    return error


def _naming(reference: Reference, error: errors.CriProxyError) -> errors.CriProxyError:
    """Return the error with the reference in it, which errors of store paths lack."""
    name = f"{reference.owner}/{reference.name}"
    return error if name in str(error) else type(error)(f"environment {reference}: {error}")
