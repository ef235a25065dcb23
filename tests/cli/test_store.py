"""`cri-proxy store verify` where there is little to verify; the rest is in `e2e/test_verifying`."""


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
