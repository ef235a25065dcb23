"""Pins that fail because of a bug in the program; tests/e2e covers what is fetched for them."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest

from cri_proxy import errors
from cri_proxy.floxhub.protocol import Resolution, Resolve
from cri_proxy.maintenance import pins
from cri_proxy.maintenance.prewarming import Prewarming
from cri_proxy.model import references
from cri_proxy.settings import Settings
from cri_proxy.settings.schema import PrewarmSettings

ODD, WEB = references.parse("acme/odd"), references.parse("acme/web")


class Workers:
    """Workers that cannot resolve anything, one reference because of a bug."""

    async def call(self, _: object, argument: Resolve) -> Resolution:
        if argument.reference == ODD:
            raise ZeroDivisionError
        raise errors.SourceUnreachable("FloxHub is away")


async def test_a_fault_is_logged_and_ends_the_one_pin_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(
        prewarm=PrewarmSettings(environments=(ODD, WEB), directory=tmp_path / "none"),
        store=dataclasses.replace(Settings().store, root=tmp_path),
    )
    prewarming = Prewarming(settings, cast("Any", Workers()), cast("Any", None))

    keeping = asyncio.create_task(prewarming.run())
    async with asyncio.timeout(60):
        while WEB not in pins.load(tmp_path) or not pins.load(tmp_path)[WEB].failure:
            await asyncio.sleep(0)
        while "ended until the next start" not in caplog.text:
            await asyncio.sleep(0)

    assert not keeping.done()
    keeping.cancel()
    await asyncio.wait({keeping})
