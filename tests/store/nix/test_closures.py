import asyncio
import contextlib
import sys

import pytest

from cri_proxy import errors
from cri_proxy.lib import workers
from cri_proxy.model import storepaths
from cri_proxy.model.progress import Progress
from cri_proxy.store.nix.closures import NixClosures

ONE = storepaths.of_basename("0" * 32 + "-one")
PLACE = {"url": "https://cache", "user": "u", "password": "p", "public_keys": [], "variables": {}}

FAKE = """
from cri_proxy.lib import worker
import sys

def realise(argument, task):
    task.report({"total": 1})
    task.report({"copied": 1})
    facts = [{"path": each, "references": [], "nar_size": 7} for each in argument["roots"]]
    print("asked", file=sys.stderr, flush=True)
    return {"facts": facts}

worker.serve(lambda greeting: {"store.nix.realise": realise})
"""


@pytest.fixture
async def ours():
    pool = workers.Pool([sys.executable, "-c", FAKE], size=1, greeting={}, nice=0)
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
