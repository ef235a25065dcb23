"""Which releases stay on a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from cri_proxy.node import release
from cri_proxy.node.release import Release

PLACES = [f"{release.DIRECTORY}/releases/{each}" for each in "abc"]


@pytest.mark.parametrize(
    ("current", "previous", "gone"),
    [
        ("c", "releases/b", PLACES[:1]),
        ("a", "releases/c", PLACES[1:2]),
        ("c", "releases/c", []),
        ("c", None, []),
    ],
)
def test_the_one_before_is_kept_to_go_back_to(
    current: str, previous: str | None, gone: list[str]
) -> None:
    others = ["/etc/cri-proxy"]

    found = release.outdated([*others, *PLACES], Release(Path("/tree"), current), previous)

    assert found == gone


def test_a_program_without_a_tarball_stays_where_it_is() -> None:
    found = release.present()

    assert found.tree is None
    assert found.program.endswith(("cri-proxy", "python -m cri_proxy"))
