"""FloxHub's values on their way between daemon and worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cri_proxy.floxhub import protocol
from cri_proxy.floxhub.protocol import CatalogGrant, CatalogQuery, Resolution, Resolve
from cri_proxy.lib import codec
from cri_proxy.model import references, storepaths

WEB = references.parse("alice/web:3")
APP = storepaths.parse("/nix/store/0v4gz9k1dwxr5wgnfxwh1sjv5jk0m7bp-app-2.0")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (protocol.RESOLVE.argument, Resolve(WEB, "secret")),
        (protocol.RESOLVE.result, Resolution(WEB, "0" * 40, "1" * 64, Path("/x"), is_stale=True)),
        (protocol.NOTE_GIVEN.argument, CatalogGrant(CatalogQuery((APP,), None), is_given=True)),
    ],
)
def test_value_survives_the_way_to_a_worker_and_back(kind: type, value: object) -> None:
    assert codec.decode(codec.encode(value), kind) == value


def test_no_token_is_in_a_repr() -> None:
    assert "secret" not in repr(Resolve(WEB, "secret"))
    assert "secret" not in repr(CatalogGrant(CatalogQuery((APP,), "secret"), is_given=True))


def test_the_daemon_can_name_the_jobs_without_loading_git_or_http() -> None:
    program = (
        "import sys; import cri_proxy.floxhub.protocol, cri_proxy.floxhub.outputs; "
        "import cri_proxy.floxhub.variables, cri_proxy.floxhub.lockfile; "
        "print([each for each in ('dulwich', 'urllib3', 'ssl') if each in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120
    )

    assert done.stdout.strip() == "[]"
