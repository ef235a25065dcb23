"""The house rules that no linter knows: what packages list, unique names, tests found by name.

    python -m hack.house

- **Rooms.** The docstring of a package's `__init__` lists every module and package in it, each on a
  line of its own: its name, two spaces or more, what it is; several names may share a line.
  Nothing else is listed.
- **Names.** A public class name occurs once in cri_proxy, and so does a module name, unless
  `hack/house.toml` says that its modules play the same role.
- **Tests.** `cri_proxy/a/b.py` has `tests/a/test_b.py`, or an entry in `hack/house.toml` with the
  reason. An exception that is no longer needed is a violation as well, so that the list shrinks.

`make verify` runs it. Each violation is one line; the exit status is 1 if there is any.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = "cri_proxy"
EXCEPTIONS: Final = ROOT / "hack" / "house.toml"
_LISTED: Final = re.compile(r"^ *([a-z]\w*(?:, [a-z]\w*)*)  +\S", re.MULTILINE)


def main() -> int:
    """Print every violation; return the exit status."""
    exceptions = tomllib.loads(EXCEPTIONS.read_text())
    violations = [
        *rooms(ROOT),
        *names(ROOT, exceptions["same_role"]),
        *tests(ROOT, exceptions["untested"]),
    ]
    for each in violations:
        print(each)
    return 1 if violations else 0


def rooms(root: Path) -> Iterator[str]:
    """Yield where a package's docstring and its files disagree."""
    for file in sorted((root / PACKAGE).rglob("__init__.py")):
        docstring = ast.get_docstring(ast.parse(file.read_text()), clean=True) or ""
        listed = {name for names in _LISTED.findall(docstring) for name in names.split(", ")}
        present = {_module_of(each) for each in file.parent.iterdir() if _is_module(each)}
        place = file.relative_to(root)
        for name in sorted(present - listed):
            yield f"{place}: does not list {name}"
        for name in sorted(listed - present):
            yield f"{place}: lists {name}, which does not exist"


def names(root: Path, same_role: Mapping[str, str]) -> Iterator[str]:
    """Yield public class names and module names that occur more than once."""
    classes: defaultdict[str, list[str]] = defaultdict(list)
    modules: defaultdict[str, list[str]] = defaultdict(list)
    for file in _sources(root):
        place = str(file.relative_to(root))
        modules[file.stem].append(place)
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].append(place)
    for name, places in sorted(classes.items()):
        if len(places) > 1:
            yield f"class {name} is in {', '.join(places)}: give each a name of its own"
    for name, places in sorted(modules.items()):
        if len(places) > 1 and name not in same_role:
            yield f"module {name} is in {', '.join(places)}: give each a name of its own"
    for name in sorted(same_role):
        if len(modules[name]) < 2:
            yield f"{EXCEPTIONS.name}: same_role.{name} is no longer needed"


def tests(root: Path, untested: Mapping[str, str]) -> Iterator[str]:
    """Yield modules without a test file of their name, and exceptions that are not needed."""
    missing = set()
    for file in _sources(root):
        place = file.relative_to(root / PACKAGE)
        test = root / "tests" / place.with_name(f"test_{place.name}")
        if not test.exists():
            missing.add(str(place))
            if str(place) not in untested:
                yield f"{PACKAGE}/{place} has no {test.relative_to(root)}"
    for name in sorted(untested.keys() - missing):
        yield f"{EXCEPTIONS.name}: untested.{name!r} is no longer needed"


def _sources(root: Path) -> Iterator[Path]:
    """Yield the modules of the package that are written by hand."""
    for file in sorted((root / PACKAGE).rglob("*.py")):
        if _is_module(file):
            yield file


def _is_module(path: Path) -> bool:
    if path.is_dir():
        return (path / "__init__.py").exists()
    return path.suffix == ".py" and not path.stem.startswith("__") and "_pb2" not in path.stem


def _module_of(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


if __name__ == "__main__":
    sys.exit(main())
