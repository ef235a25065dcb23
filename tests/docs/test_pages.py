"""The pages agree with the program: links, samples, error codes, commands and floors."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from cri_proxy import errors, settings
from cri_proxy.cli import commands, exits
from cri_proxy.interposer import status

REPOSITORY = Path(__file__).parents[2]
OPERATIONS = REPOSITORY / "docs" / "operations.md"
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])
FLOORS = re.compile(r"^\d  ([a-z_|· ]+?)(?:  .*)?$", re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that a page's headings have, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_to_pages_and_headings_that_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page

        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_samples_of_settings_are_accepted(page: Path, tmp_path: Path) -> None:
    for sample in re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        file = tmp_path / "config.toml"
        file.write_text(sample)

        assert tomllib.loads(sample)
        assert settings.load(environment={}, file=str(file)).settings


def test_the_status_code_of_every_error_is_documented() -> None:
    told = {
        error: code
        for code, error in re.findall(r"^\| ([A-Z_]+) \| (\w+) \|", OPERATIONS.read_text(), re.M)
    }
    every = {error.__name__: error for error in errors.CriProxyError.__subclasses__()}

    assert told == {name: status.code_of(error("because")).name for name, error in every.items()}


def test_every_exit_code_is_documented() -> None:
    sentence = OPERATIONS.read_text().partition("**Exit codes**")[2].partition("\n\n")[0]

    assert set(map(int, re.findall(r"\b\d+\b", sentence))) == exits.MEANINGS.keys()


def test_commands_on_the_pages_exist() -> None:
    known = {command.name for command in commands.COMMANDS}
    for page in PAGES:
        for word in re.findall(
            r"(?:^# |`)(?:\S*/)?cri-proxy ([a-z][a-z-]*)", page.read_text(), re.M
        ):
            assert word in known, f"{page.name}: cri-proxy {word}"


def test_files_that_the_pages_name_exist() -> None:
    """Those of the package may be named without it; decisions name files of their time."""
    roots = (REPOSITORY, REPOSITORY / "cri_proxy")
    for page in PAGES:
        if page.parent.name == "decisions":
            continue
        for name in re.findall(r"`((?:\w+/)+\w+\.(?:py|sh|json|txt|toml))`", page.read_text()):
            assert any((root / name).exists() for root in roots), f"{page.name}: {name}"


def test_the_architecture_has_the_floors_that_are_checked() -> None:
    """Those of the package, then those of the rooms of store and http."""
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    shown = [re.findall(r"[a-z]+", floor) for floor in FLOORS.findall(page)]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    contracts = [
        each for each in project["tool"]["importlinter"]["contracts"] if each["type"] == "layers"
    ]
    layers = [layer for contract in contracts for layer in contract["layers"]]

    assert len(contracts) == 3
    assert shown == [re.findall(r"(?:cri_proxy\.)?(\w+)", layer) for layer in layers]
