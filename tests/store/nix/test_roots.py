"""Roots of the node's Nix: made before the paths come, and removed when nothing needs them."""

import pytest

from cri_proxy import errors
from cri_proxy.model import storepaths
from cri_proxy.store.nix import roots


@pytest.fixture
def pair():
    """Two store paths, which need not exist."""
    return tuple(storepaths.of_basename(f"{digit * 32}-path") for digit in "01")


def test_where_nix_has_no_state_nothing_is_made(tmp_path, pair):
    with pytest.raises(errors.RequestInvalid, match="there is no Nix"):
        roots.Roots(tmp_path / "nix/var/nix").add(pair)

    assert not (tmp_path / "nix").exists()


def test_roots_that_no_environment_needs_go_after_a_while(tmp_path, pair, monkeypatch):
    (tmp_path / "gcroots").mkdir()
    ours = roots.Roots(tmp_path)
    ours.add(pair)
    assert ours.tidy(set()) == []

    monkeypatch.setattr(roots, "GRACE_SECONDS", -1.0)

    assert ours.tidy({pair[0].basename}) == [pair[1].basename]
    assert [each.name for each in ours.directory.iterdir()] == [pair[0].basename]


def test_root_that_is_added_again_stays_once(tmp_path, pair, monkeypatch):
    (tmp_path / "gcroots").mkdir()
    ours = roots.Roots(tmp_path)
    ours.add(pair)
    ours.add(pair[:1])

    assert {each.name: str(each.readlink()) for each in ours.directory.iterdir()} == {
        each.basename: str(each) for each in pair
    }
