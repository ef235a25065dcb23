"""Writable overlays of views: made completely or not at all, visible to the runtime, removed."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.lib import mounts
from cri_proxy.store.disk.overlays import Overlays

pytestmark = pytest.mark.e2e  # for root only
TOKEN = "0" * 32
MAKE = (
    "import sys; from pathlib import Path; from cri_proxy import errors\n"
    "from cri_proxy.store.disk.overlays import Overlays\n"
    "directory, token, view, runtime = sys.argv[1:]\n"
    "try: Overlays(Path(directory)).make(token, Path(view), Path(runtime))\n"
    "except errors.CriProxyError as error: print(type(error).__name__, error)\n"
)


@pytest.fixture
def overlays(tmp_path: Path) -> Iterator[Overlays]:
    """No overlays yet; the one of TOKEN is unmounted afterwards."""
    overlays = Overlays(tmp_path / "mutable")
    yield overlays
    mounts.detach(overlays.locate(TOKEN) / "store")


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Path]:
    """A socket at which this process listens in place of the runtime."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "runtime.sock"))
        listener.listen()
        yield tmp_path / "runtime.sock"


@pytest.fixture
def view(tmp_path: Path) -> Path:
    """A view of one path."""
    (tmp_path / "view" / "0-package").mkdir(parents=True)
    (tmp_path / "view" / "0-package" / "file").write_text("shared")
    return tmp_path / "view"


def test_any_user_may_write_to_it(overlays: Overlays, view: Path, runtime: Path) -> None:
    overlays.make(TOKEN, view, runtime)

    place = overlays.locate(TOKEN)
    assert (place / "store" / "0-package" / "file").read_text() == "shared"
    assert [(place / each).stat().st_mode & 0o7777 for each in ("store", "nix")] == [0o1777] * 2
    assert overlays.tokens() == {TOKEN}


def test_making_it_twice_starts_over(overlays: Overlays, view: Path, runtime: Path) -> None:
    """A job whose worker died is run again by another worker."""
    overlays.make(TOKEN, view, runtime)
    (overlays.locate(TOKEN) / "store" / "written").touch()

    overlays.make(TOKEN, view, runtime)

    assert [each.name for each in (overlays.locate(TOKEN) / "store").iterdir()] == ["0-package"]


def test_removing_it_leaves_the_view(overlays: Overlays, view: Path, runtime: Path) -> None:
    overlays.make(TOKEN, view, runtime)
    (overlays.locate(TOKEN) / "store" / "0-package" / "file").unlink()
    (overlays.locate(TOKEN) / "store" / "0-package" / "new").touch()

    for _ in range(2):
        overlays.remove(TOKEN)

    assert overlays.tokens() == frozenset()
    assert [each.name for each in (view / "0-package").iterdir()] == ["file"]


def test_a_removed_view_is_reported_as_such_and_nothing_is_left(
    overlays: Overlays, tmp_path: Path, runtime: Path
) -> None:
    with pytest.raises(errors.SourceUnreachable, match="next attempt"):
        overlays.make(TOKEN, tmp_path / "absent", runtime)

    assert overlays.tokens() == frozenset()


def test_an_unsupported_file_system_is_refused(
    overlays: Overlays, view: Path, runtime: Path, tmp_path: Path
) -> None:
    """The usual one is an overlay itself."""
    overlays.make(TOKEN, view, runtime)

    with pytest.raises(errors.RequestInvalid, match=r"store\.root.*nix-mutable"):
        Overlays(overlays.locate(TOKEN) / "store" / "mutable").make("1" * 32, view, runtime)


def test_a_runtime_with_other_mounts_is_refused(
    overlays: Overlays, view: Path, runtime: Path
) -> None:
    """Here the process that mounts has a mount namespace of its own, which is equivalent."""
    made = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", MAKE]
        + [str(each) for each in (overlays.directory, TOKEN, view, runtime)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )

    assert made.stdout.startswith("RequestInvalid")
    assert "mount namespace" in made.stdout
    assert overlays.tokens() == frozenset()


def test_an_overlay_has_one_holder(overlays: Overlays) -> None:
    lock = overlays.hold(TOKEN)
    assert lock is not None

    assert overlays.hold(TOKEN) is None
    assert overlays.tokens() == {TOKEN}
    lock.release()
    assert overlays.tokens() == frozenset()
