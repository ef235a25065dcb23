import asyncio
import contextlib
import sys

import pytest

from cri_proxy import errors
from cri_proxy.lib import workers
from cri_proxy.model import storepaths
from cri_proxy.model.cachelocations import Location
from cri_proxy.model.progress import Progress
from cri_proxy.store.nix.closures import NixClosures

ONE = storepaths.of_basename("0" * 32 + "-one")
PLACE = Location("https://cache", user="u", password="p")

FAKE = """
from cri_proxy.lib import worker
from cri_proxy.lib.job import Jobs
from cri_proxy.store import protocol
from cri_proxy.store.protocol import Fact, NixProgress
import sys

def realise(argument, task):
    task.report(NixProgress(total=1))
    task.report(NixProgress(copied=1))
    print("asked", file=sys.stderr, flush=True)
    return [Fact(each, (), 7) for each in argument]

worker.serve(dict, lambda settings: Jobs(protocol.NIX_REALISE.run_by(realise)))
"""


@pytest.fixture
async def ours():
    pool = workers.Pool([sys.executable, "-c", FAKE], size=1, settings={}, nice=0)
    async with contextlib.aclosing(pool), contextlib.aclosing(NixClosures(pool)) as made:
        yield made


async def test_locations_are_refused_for_nixs_store_is_everybodys(ours):
    with pytest.raises(errors.EnvironmentUnsuitable, match="login"):
        await ours.realize([ONE], Progress(), [PLACE])
    with pytest.raises(errors.EnvironmentUnsuitable, match="login"):
        await ours.find([ONE], [PLACE])


async def test_the_same_roots_are_realised_once_for_all_who_ask(ours, capfd):
    first, second = await asyncio.gather(
        ours.realize([ONE], Progress()), ours.realize([ONE], Progress())
    )

    assert first == second
    assert capfd.readouterr().err.count("asked") == 1
