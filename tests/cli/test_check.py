"""`check` as a whole: on this machine, with sources that are here or are not."""

import json

import pytest

KEY = "a-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@pytest.fixture
def flags(tmp_path):
    """Settings without servers on the network."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "nix-cache-info").write_text("StoreDir: /nix/store\nPriority: 7\n")
    return [
        f"--set=store.caches={cache.as_uri()}",
        f"--set=store.public_keys={KEY}",
        f"--set=runtime.endpoint={tmp_path}/none.sock",
        f"--set=serve.listen={tmp_path}/p.sock",
        "--set=floxhub.url=http://127.0.0.1:1",
    ]


def test_a_pipe_gets_a_line_per_check_and_one_of_advice(commands, flags, tmp_path):
    done = commands.in_pipe("check", *flags)

    assert done.code == 1
    assert "\x1b" not in done.output
    assert "ok    trusted keys: a-1" in done.output
    assert ", priority 7" in done.output
    assert f"fail  runtime: {tmp_path}/none.sock does not exist" in done.output
    assert "\n      start the container runtime, or set runtime.endpoint" in done.output
    assert done.output.splitlines()[-1].startswith("this node is not ready: ")


def test_a_pipe_gets_changed_settings_with_their_sources(commands, flags):
    done = commands.in_pipe("check", *flags, CRI_PROXY_LOG_LEVEL="debug")

    assert 'set   log.level = "debug" (CRI_PROXY_LOG_LEVEL)' in done.output
    assert 'set   floxhub.url = "http://127.0.0.1:1" (--set)' in done.output
    assert "log.format" not in done.output


def test_a_terminal_gets_marks_and_arrows(commands, flags):
    done = commands.at_terminal("check", *flags)

    assert done.code == 1
    assert "✔" in done.output
    assert "✘" in done.output
    assert "→ start the container runtime" in done.text
    assert "settings that differ from the default" in done.text


def test_json_has_every_check_and_every_setting(commands, flags):
    done = commands.in_pipe("check", "--json", *flags)

    record = json.loads(done.output)
    checks = {check["name"]: check for check in record["checks"]}
    origins = {each["key"]: each["source"] for each in record["settings"]}
    assert done.code == 1
    assert record["is_ready"] is False
    assert checks["runtime"]["status"] == "fail"
    assert checks["trusted keys"]["status"] == "ok"
    assert origins["floxhub.url"] == "--set"
    assert origins["store.root"] == "CRI_PROXY_STORE_ROOT"
    assert origins["log.format"] == "default"


def test_nothing_is_left_behind(commands, flags, tmp_path):
    before = sorted(tmp_path.iterdir())

    commands.in_pipe("check", *flags)

    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.e2e
def test_a_node_with_everything_in_place_is_ready(commands, flags, containerd, site):
    done = commands.in_pipe(
        "check",
        *flags,
        f"--set=runtime.endpoint={containerd.socket}",
        f"--set=floxhub.url={site.url}",
    )

    assert "fail" not in done.output
    assert "ok    runtime: containerd " in done.output
    assert "ok    clock: correct within 30 s" in done.output
    assert done.output.splitlines()[-1].startswith("this node is ready")
    assert done.code == 0
