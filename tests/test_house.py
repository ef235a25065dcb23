"""The rules of hack/house.py find what breaks them, and this repository keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hack import house


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A package with one room, which keeps every rule."""
    write(tmp_path / "cri_proxy/__init__.py", '"""A package.\n\n    room  a room\n"""\n')
    write(tmp_path / "cri_proxy/room/__init__.py", '"""A room.\n\none, two  two modules\n"""\n')
    write(tmp_path / "cri_proxy/room/one.py", "class One:\n    pass\n")
    write(tmp_path / "cri_proxy/room/two.py", "class _One:\n    pass\n")
    write(tmp_path / "tests/room/test_one.py", "")
    write(tmp_path / "tests/room/test_two.py", "")
    return tmp_path


def write(file: Path, text: str) -> None:
    """Write a file, and its directories."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_tree_that_keeps_the_rules_has_no_violations(root: Path) -> None:
    assert not [*house.rooms(root), *house.names(root, {}), *house.tests(root, {})]


def test_a_module_that_its_package_does_not_list_is_found(root: Path) -> None:
    write(root / "cri_proxy/room/three.py", "")

    assert list(house.rooms(root)) == ["cri_proxy/room/__init__.py: does not list three"]


def test_a_listed_module_that_does_not_exist_is_found(root: Path) -> None:
    (root / "cri_proxy/room/one.py").unlink()

    assert list(house.rooms(root)) == [
        "cri_proxy/room/__init__.py: lists one, which does not exist"
    ]


def test_generated_modules_need_neither_entry_nor_test(root: Path) -> None:
    write(root / "cri_proxy/room/api_pb2.py", "class One:\n    pass\n")

    assert not [*house.rooms(root), *house.names(root, {}), *house.tests(root, {})]


def test_a_public_class_name_that_occurs_twice_is_found(root: Path) -> None:
    write(root / "cri_proxy/room/two.py", "class One:\n    pass\n")

    (violation,) = house.names(root, {})

    assert "class One is in cri_proxy/room/one.py, cri_proxy/room/two.py" in violation


def test_a_module_name_that_occurs_twice_is_found_unless_the_role_is_the_same(root: Path) -> None:
    write(root / "cri_proxy/one.py", "")

    (violation,) = house.names(root, {})

    assert "module one is in cri_proxy/one.py, cri_proxy/room/one.py" in violation
    assert not list(house.names(root, {"one": "the same role"}))


def test_a_module_without_a_test_file_is_found_unless_there_is_a_reason(root: Path) -> None:
    (root / "tests/room/test_two.py").unlink()

    (violation,) = house.tests(root, {})

    assert violation == "cri_proxy/room/two.py has no tests/room/test_two.py"
    assert not list(house.tests(root, {"room/two.py": "values only"}))


def test_an_exception_that_is_no_longer_needed_is_found(root: Path) -> None:
    assert list(house.tests(root, {"room/two.py": "values only"}))
    assert list(house.names(root, {"one": "the same role"}))
