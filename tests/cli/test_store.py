"""`cri-proxy store verify`: its output; real damage is in `e2e/test_verifying`."""

from cri_proxy.cli import store
from cri_proxy.maintenance.verification import Verified
from cri_proxy.store.disk.integrity import Damage


def test_a_store_that_is_not_there_is_not_called_whole(commands):
    ended = commands.in_pipe("store", "verify")

    assert ended.code == 1
    assert f"there is no store at {commands.root}" in ended.errors
    assert ended.output == ""
    assert not commands.root.exists()


def test_an_empty_store_is_whole(commands):
    commands.root.mkdir()
    done = commands.in_pipe("store", "verify")

    assert done.code == 0, done.errors
    assert done.output == "0 store paths, 0 B, and 0 environments verified: none damaged\n"


def test_the_action_is_required(commands):
    done = commands.in_pipe("store")

    assert done.code == 2
    assert "action" in done.errors


IN_USE = Damage("aaaa-bash", "its content has changed", ["one", "two"])
UNUSED = Damage("bbbb-jq", "it is not complete", [])


def printed(capsys, verified, *, was_repaired):
    store._print(verified, was_repaired=was_repaired)
    return capsys.readouterr().out.splitlines()


def test_damage_is_listed_with_its_environments_and_how_to_repair_it(capsys):
    verified = Verified(paths=300, bytes=1_200_000_000, environments=2, findings=[IN_USE, UNUSED])

    assert printed(capsys, verified, was_repaired=False) == [
        "aaaa-bash: its content has changed; quarantined",
        "    in one",
        "    in two",
        "bbbb-jq: it is not complete; quarantined",
        "300 store paths, 1.2 GB, and 2 environments verified: 2 damaged",
        "to fetch damaged paths again, run cri-proxy store verify --repair",
    ]


def test_each_damaged_path_is_listed_with_the_outcome_of_its_repair(capsys):
    verified = Verified(
        paths=1, bytes=999, environments=1, findings=[IN_USE, UNUSED], repaired=["aaaa-bash"]
    )
    verified.failed["bbbb-jq"] = "no cache has it"

    assert printed(capsys, verified, was_repaired=True) == [
        "aaaa-bash: its content has changed; repaired",
        "    in one",
        "    in two",
        "bbbb-jq: it is not complete; not repaired: no cache has it",
        "1 store path, 999 B, and 1 environment verified: 2 damaged, 1 repaired",
    ]


def test_json_has_all_that_was_verified_and_found():
    verified = Verified(paths=1, bytes=999, environments=1, findings=[IN_USE, UNUSED])
    verified.repaired.append("aaaa-bash")
    verified.failed["bbbb-jq"] = "no cache has it"

    record = store._record_of(verified)

    assert (record["paths"], record["bytes"], record["environments"]) == (1, 999, 1)
    assert record["damaged"] == [
        {
            "path": "aaaa-bash",
            "why": "its content has changed",
            "environments": ["one", "two"],
            "repaired": True,
            "error": None,
        },
        {
            "path": "bbbb-jq",
            "why": "it is not complete",
            "environments": [],
            "repaired": False,
            "error": "no cache has it",
        },
    ]
    assert record["repaired_environments"] == []


def test_a_terminal_shows_how_far_the_verification_is(commands):
    commands.root.mkdir()

    done = commands.at_terminal("store", "verify")

    assert "verifying" in done.text
    assert done.text.rstrip().endswith("0 environments verified: none damaged")
