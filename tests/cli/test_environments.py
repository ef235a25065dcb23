import dataclasses
import json
import time

import pytest

from cri_proxy.model import environments, references, storepaths
from cri_proxy.model.environments import Environment, Mode


def place(root, reference, *, realized_at):
    """Put the record of an environment where the realizer leaves it."""
    identity = reference.replace("/", "-").replace(":", "-")
    path = storepaths.of_basename("7ik8057hajl6vq9j40h3jracxjn0bb5x-bash-5.3p15")
    directory = root / "environments" / identity
    directory.mkdir(parents=True)
    environment = Environment(
        identity=identity,
        reference=references.parse(reference),
        revision="0" * 40,
        lock_digest="1" * 64,
        system="x86_64-linux",
        mode=Mode.RUN,
        flox_env=path,
        shell=None,
        variables=(),
        closure=(path,) * 3,
        nar_bytes=1_234_567_890,
        realized_at=realized_at,
        store=directory / "store",
    )
    record = environments.to_json(dataclasses.replace(environment))
    (directory / "environment.json").write_text(json.dumps(record))


@pytest.fixture
def root(commands):
    """A store with two environments."""
    place(commands.root, "acme/old:1", realized_at=time.time() - 3 * 86400)
    place(commands.root, "acme/new:12", realized_at=time.time() - 120)
    return commands.root


@pytest.mark.usefixtures("root")
def test_a_pipe_gets_aligned_columns_with_the_latest_first(commands):
    done = commands.in_pipe("environments")

    head, new, old = done.output.splitlines()
    assert done.code == 0
    names = ["REFERENCE", "MODE", "PATHS", "SIZE", "REALIZED", "FLOXHUB", "PIN", "IDENTITY"]
    assert head.split() == names
    assert new.split("  ")[0] == "acme/new:12"
    assert "1.2 GB" in new
    assert "2 minutes ago" in new
    assert "3 days ago" in old
    assert head.index("IDENTITY") == old.index("acme-old-1")


@pytest.mark.usefixtures("root")
def test_a_terminal_gets_a_table_and_the_sum(commands):
    done = commands.at_terminal("environments")

    assert "\x1b[1m" in done.output
    assert "acme/new:12" in done.text
    assert "2 environments, 2.5 GB" in done.text


def test_json_has_all_that_is_known(commands, root):
    done = commands.in_pipe("environments", "--json")

    new, old = json.loads(done.output)
    assert (new["reference"], new["generation"]) == ("acme/new:12", 12)
    assert new["directory"] == f"{root}/environments/acme-new-12"
    assert (new["paths"], new["bytes"], new["lock_digest"]) == (3, 1_234_567_890, "1" * 64)
    assert old["realized_at"].endswith("+00:00")


def test_a_node_without_any_says_how_to_get_one(commands):
    done = commands.in_pipe("environments")

    assert (done.code, done.output) == (0, "")
    assert "cri-proxy realize owner/name" in done.errors


def test_json_of_none_is_an_empty_list(commands):
    assert json.loads(commands.in_pipe("environments", "--json").output) == []


def test_an_unreadable_one_is_reported_and_the_others_are_listed(commands, root):
    (root / "environments" / "acme-old-1" / "environment.json").write_text("{}")

    done = commands.in_pipe("environments")

    assert len(done.output.splitlines()) == 2
    assert "acme-old-1" in done.errors


def test_a_store_that_is_not_a_directory_is_an_error_without_a_traceback(commands):
    commands.root.mkdir()
    (commands.root / "environments").touch()

    done = commands.in_pipe("environments")

    assert done.code == 1
    assert done.errors == f"error: {commands.root}/environments: Not a directory\n"
