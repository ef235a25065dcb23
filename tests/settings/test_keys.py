import tomllib

from cri_proxy.settings import keys


def test_every_name_of_a_key_follows_from_its_section_and_name():
    key = next(key for key in keys.KEYS if str(key) == "serve.drain_seconds")

    assert key.variable == "CRI_PROXY_SERVE_DRAIN_SECONDS"


def test_no_two_keys_share_a_name():
    assert len({str(key) for key in keys.KEYS}) == len(keys.KEYS)
    assert len({key.variable for key in keys.KEYS}) == len(keys.KEYS)


def test_every_key_has_a_line_of_help_and_a_default_that_it_accepts():
    for key in keys.KEYS:
        assert key.about
        assert not key.about.endswith(".")
        key.kind.of_toml(key.default)


def test_a_default_written_as_toml_reads_back():
    for key in keys.KEYS:
        assert tomllib.loads(f"x = {keys.toml_of(key.default)}")["x"] == key.default


def test_a_name_that_toml_does_not_take_bare_is_quoted():
    assert keys.toml_of({"a.b": ""}) == '{ "a.b" = "" }'
