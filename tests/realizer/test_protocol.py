"""The realizer's values on their way between daemon and worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cri_proxy.floxhub.protocol import Resolution
from cri_proxy.lib import codec
from cri_proxy.model.environments import Mode
from cri_proxy.model.references import Reference
from cri_proxy.model.storepaths import StorePath
from cri_proxy.realizer import protocol
from cri_proxy.realizer.protocol import Assembled, Assembly, Ingredients, Requirements

PATH = StorePath("0" * 32, "hello")
INGREDIENTS = Ingredients(
    Resolution(Reference("acme", "web", 3), "0" * 40, "1" * 64, Path("/x/manifest.lock")),
    system="x86_64-linux",
    mode=Mode.DEV,
    shell=f"/nix/store/{PATH.basename}",
    has_shell=True,
    certificates=Path("/etc/ssl/bundle.crt"),
)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (protocol.RECIPE.argument, INGREDIENTS),
        (protocol.RECIPE.result, Requirements("x", (PATH,), (), {str(PATH): "advice"})),
        (protocol.ASSEMBLE.argument, Assembly(INGREDIENTS, (PATH,), 7)),
        (protocol.ASSEMBLE.result, Assembled([("store.link", 1, 2)], needs=PATH)),
    ],
)
def test_value_survives_the_way_to_a_worker_and_back(kind: type, value: object) -> None:
    assert codec.decode(codec.encode(value), kind) == value


def test_the_daemons_side_loads_nothing_that_only_workers_need() -> None:
    program = (
        "import sys; import cri_proxy.realizer.realizer; "
        "heavy = ('dulwich', 'urllib3', 'nacl', 'zstandard', 'cri_proxy.realizer.rendering'); "
        "print([each for each in heavy if each in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120
    )

    assert done.stdout.strip() == "[]"
