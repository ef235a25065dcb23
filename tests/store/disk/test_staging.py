import threading

import pytest

from cri_proxy.store.disk import staging
from tests.store.disk.nodes import GivenUp, give_up, names_in


@pytest.fixture
def area(tmp_path):
    area = staging.Area(tmp_path)
    area.make()
    return area


def make(tree):
    """Create a tree, read-only like what gets staged."""
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "file").write_text("x")
    (tree / "inner").chmod(0o555)
    tree.chmod(0o555)


def test_name_is_held_by_one_at_a_time(area):
    with area.hold("name", give_up) as tree:
        make(tree)
        with area.try_hold("name") as is_held:
            assert not is_held
        with pytest.raises(GivenUp), area.hold("name", give_up):
            pass
        with area.try_hold("other") as is_held:
            assert is_held
    with area.try_hold("name") as is_held:
        assert is_held


def test_waiting_ends_when_the_name_is_free(area):
    is_waiting, got_it = threading.Event(), threading.Event()

    def wait():
        with area.hold("name", is_waiting.set):
            got_it.set()

    with area.hold("name", give_up):
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert is_waiting.wait(60)
        assert not got_it.is_set()

    assert got_it.wait(60)
    waiter.join(60)


def test_tree_is_placed_or_removed(area, tmp_path):
    with area.hold("placed", give_up) as tree:
        make(tree)
        area.place("placed")
    with area.hold("dropped", give_up) as tree:
        make(tree)

    assert (tmp_path / "placed" / "inner" / "file").exists()
    assert not (tmp_path / "dropped").exists()
    assert area.names() == set()


def test_what_a_crash_left_is_gone_when_the_name_is_held_again(area, tmp_path):
    make(tmp_path / ".stage" / "name.tree")
    with area.hold("name", give_up) as tree:
        assert not tree.exists()


def test_removal_deletes_what_is_in_place_if_anything(area, tmp_path):
    make(tmp_path / "name")
    make(tmp_path / ".stage" / "name.gone")
    with area.try_hold("name"):
        area.remove("name")
        area.remove("name")

    assert names_in(tmp_path) == [".locks", ".stage"]
    assert area.names() == set()


def test_names_are_those_with_entries(area, tmp_path):
    for entry in ("a.gone", "a.tree", "b.gone", "c.d.tree"):
        (tmp_path / ".stage" / entry).touch()

    assert area.names() == {"a", "b", "c.d"}
