"""The command line with a small realizer in the daemon's place: `python stand_in.py ARGUMENTS`.

It counts as the real one does, over store paths that it makes up. What it does depends on the
environment's name: `absent` is not on FloxHub, `away` cannot be asked for now, `stale` is known
from before, `held` never ends, `present` is here already; any other is fetched in a moment.
"""

import asyncio
import contextlib
import sys
import types
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from cri_proxy import errors
from cri_proxy.cli.main import main
from cri_proxy.model import environments, storepaths
from cri_proxy.model.environments import Environment, Mode
from cri_proxy.model.progress import Phase, Progress
from cri_proxy.model.references import Reference
from cri_proxy.settings import Settings
from cri_proxy.telemetry import logs

_PATHS = 300
_PATH_BYTES = 4_000_000
_STEP_SECONDS = 0.005


@dataclass
class Realization:
    """One environment on its way."""

    reference: Reference
    mode: Mode
    settings: Settings
    progress: Progress = field(default_factory=Progress)

    async def wait(self) -> Environment:
        """Go through the phases."""
        progress = self.progress
        await asyncio.sleep(_STEP_SECONDS)
        match self.reference.name:
            case "absent":
                raise errors.NotFound(f"environment {self.reference} is not on FloxHub: push it")
            case "away":
                raise errors.SourceUnreachable("https://hub.flox.dev gave no answer: try later")
            case "present":
                progress.paths_total = progress.paths_done = progress.paths_present = _PATHS
        progress.phase = Phase.FETCHING
        while progress.paths_done < _PATHS or self.reference.name == "held":
            await asyncio.sleep(_STEP_SECONDS)
            if self.reference.name == "held" and progress.paths_done == _PATHS // 3:
                continue
            progress.paths_done += 1
            progress.paths_total = min(_PATHS, progress.paths_done * 2)
            progress.bytes_done += _PATH_BYTES
            progress.bytes_total = progress.paths_total * _PATH_BYTES
        progress.phase = Phase.RENDERING
        await asyncio.sleep(_STEP_SECONDS)
        progress.phase = Phase.READY
        return environment_of(self.reference, self.mode, self.settings)


def environment_of(reference: Reference, mode: Mode, settings: Settings) -> Environment:
    """Return an environment that is nowhere."""
    identity = f"{reference.name:x<32.32}"
    path = storepaths.of_basename("7ik8057hajl6vq9j40h3jracxjn0bb5x-bash-5.3p15")
    return Environment(
        identity=identity,
        reference=reference if reference.is_pinned else reference.at(12),
        revision="0" * 40,
        lock_digest="0" * 64,
        system="x86_64-linux",
        mode=mode,
        flox_env=path,
        shell=None,
        variables=(),
        closure=(path,) * _PATHS,
        nar_bytes=_PATHS * _PATH_BYTES,
        realized_at=1_700_000_000.0,
        store=settings.store.root / "environments" / identity / "store",
        is_stale=reference.name == "stale",
    )


@dataclass
class Realizer:
    """Hands out realizations."""

    settings: Settings

    def begin(
        self, reference: Reference, *, token: str | None = None, mode: Mode = Mode.RUN
    ) -> Realization:
        """Return one."""
        return Realization(reference, mode, self.settings)


@contextlib.asynccontextmanager
async def realizer_of(settings: Settings) -> AsyncIterator[Realizer]:
    """Give a realizer for the length of the body."""
    yield Realizer(settings)


def listed(settings: Settings) -> list[Environment]:
    """Return the environments whose records are below the store's root."""
    found = (environments.load(each) for each in settings.store.root.glob("environments/*"))
    return [each for each in found if each is not None]


async def serve(settings: Settings, *, is_replacing: bool = False) -> None:
    """Say that it serves and end, or refuse to when its socket is called `taken.sock`."""
    if settings.serve.listen.name == "taken.sock":
        raise errors.RequestInvalid(f"{settings.serve.listen} is taken: set serve.listen")
    logs.of("cri_proxy.daemon.main").info(
        "serving",
        listen=settings.serve.listen,
        front=settings.serve.front,
        is_replacing=is_replacing,
    )


if __name__ == "__main__":
    daemon = types.ModuleType("cri_proxy.daemon.main")
    daemon.__dict__["serve"] = serve
    parts = types.ModuleType("cri_proxy.daemon.parts")
    parts.__dict__["realizer_of"] = realizer_of
    inventory = types.ModuleType("cri_proxy.maintenance.inventory")
    inventory.__dict__["environments_of"] = listed
    import cri_proxy.daemon

    sys.modules |= {each.__name__: each for each in (daemon, parts, inventory)}
    cri_proxy.daemon.__dict__.update(main=daemon, parts=parts, inventory=inventory)
    sys.exit(main())
