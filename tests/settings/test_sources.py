from pathlib import Path

import pytest

from cri_proxy import errors, settings


@pytest.fixture
def file(tmp_path):
    """A settings file to write; `load` reads it."""
    return tmp_path / "config.toml"


def load(file: Path | None = None, environment: dict[str, str] | None = None, *overrides: str):
    return settings.load(
        overrides=overrides, environment=environment or {}, file=str(file) if file else None
    )


def refusal(file: Path | None = None, environment: dict[str, str] | None = None, *overrides: str):
    with pytest.raises(errors.RequestInvalid) as caught:
        load(file, environment, *overrides)
    return str(caught.value)


def origin_of(loaded, name):
    return next(origin for origin in loaded.origins if str(origin.key) == name)


def test_nothing_given_is_all_defaults():
    loaded = load()

    assert loaded.settings == settings.Settings()
    assert all(origin.is_default for origin in loaded.origins)


def test_an_override_wins_over_the_environment_over_the_file_over_the_default(file):
    file.write_text("[store]\nworkers = 1\nconnections = 1\ntimeout_seconds = 1\n")
    environment = {"CRI_PROXY_STORE_WORKERS": "2", "CRI_PROXY_STORE_CONNECTIONS": "2"}

    loaded = load(file, environment, "store.workers=3")

    store = loaded.settings.store
    assert (store.workers, store.connections, store.timeout_seconds) == (3, 2, 1.0)
    assert store.root == settings.Settings().store.root
    assert origin_of(loaded, "store.workers").source == "--set"
    assert origin_of(loaded, "store.connections").source == "CRI_PROXY_STORE_CONNECTIONS"
    assert origin_of(loaded, "store.timeout_seconds").source == str(file)
    assert origin_of(loaded, "store.root").is_default


def test_the_variable_names_the_file_and_the_option_another(file, tmp_path):
    file.write_text('[log]\nlevel = "debug"\n')
    other = tmp_path / "other.toml"
    other.write_text('[log]\nlevel = "error"\n')
    environment = {"CRI_PROXY_CONFIG": str(file)}

    assert load(environment=environment).settings.log.level == "debug"
    assert load(other, environment).settings.log.level == "error"


def test_a_file_that_was_named_must_be_there(tmp_path):
    assert "no.toml cannot be read: No such file" in refusal(tmp_path / "no.toml")


def test_a_file_that_cannot_be_read_is_told_with_the_reason(tmp_path):
    assert f"{tmp_path} cannot be read: Is a directory" in refusal(tmp_path)


@pytest.mark.parametrize("data", [b"[store\n", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_file_that_is_no_toml_is_told_with_its_name(file, data):
    file.write_bytes(data)

    assert f"{file} is not a TOML file" in refusal(file)


def test_an_unknown_section_is_refused_with_the_one_that_was_meant(file):
    file.write_text("[stroe]\nroot = '/x'\n")

    assert refusal(file) == f"{file}: unknown section [stroe]; did you mean [store]?"


def test_an_unknown_key_is_refused_with_the_one_that_was_meant(file):
    file.write_text("[store]\ncache = []\n")

    assert refusal(file) == f"{file}: unknown key store.cache; did you mean store.caches?"


def test_a_key_outside_of_its_section_is_told_where_it_belongs(file):
    file.write_text("drain_seconds = 3\n")

    assert "unknown key drain_seconds; did you mean serve.drain_seconds?" in refusal(file)


def test_a_section_that_is_a_value_is_refused(file):
    file.write_text("store = 3\n")

    assert "store must be a section: write [store]" in refusal(file)


def test_an_unknown_variable_is_refused_with_the_one_that_was_meant():
    message = refusal(environment={"CRI_PROXY_LOG_LEVL": "debug"})

    assert message == "unknown variable CRI_PROXY_LOG_LEVL; did you mean CRI_PROXY_LOG_LEVEL?"


def test_a_name_like_no_other_is_refused_with_where_to_look(file):
    file.write_text("[zzzz]\n")

    assert "--help-settings lists every setting" in refusal(file)


def test_other_peoples_variables_are_none_of_our_business():
    load(environment={"PATH": "/bin", "CRI_PROXYMITY": "1", "cri_proxy_log_level": "x"})


def test_the_variables_that_kubernetes_sets_for_a_service_named_cri_proxy_are_let_pass():
    """Pods of a namespace get them for every Service in it, wanted or not."""
    load(
        environment={
            "CRI_PROXY_SERVICE_HOST": "10.0.0.1",
            "CRI_PROXY_SERVICE_PORT": "9090",
            "CRI_PROXY_SERVICE_PORT_METRICS": "9090",
            "CRI_PROXY_PORT": "tcp://10.0.0.1:9090",
            "CRI_PROXY_PORT_9090_TCP": "tcp://10.0.0.1:9090",
            "CRI_PROXY_PORT_9090_TCP_ADDR": "10.0.0.1",
        }
    )


def test_a_wrong_value_is_told_with_its_place_and_what_is_accepted(file):
    file.write_text("[store]\nworkers = 'many'\n")

    assert refusal(
        file, {"CRI_PROXY_LOG_LEVEL": "loud"}, "serve.drain_seconds=-1"
    ).splitlines() == [
        '--set serve.drain_seconds must be a number of seconds from 0 to 3600, not "-1"',
        f'{file}: store.workers must be a whole number from 0 to 64, not "many"',
        'CRI_PROXY_LOG_LEVEL must be one of debug, info, warning, error, not "loud"',
    ]


def test_every_problem_is_told_at_once(file):
    file.write_text("[serv]\n[store]\nroots = '/x'\nworkers = -1\n")

    assert len(refusal(file, {"CRI_PROXY_X": "1"}).splitlines()) == 4


def test_an_unknown_key_of_set_is_refused_with_the_one_that_was_meant():
    message = refusal(None, None, "stroe.root=/x")

    assert message == "--set: unknown key stroe.root; did you mean store.root?"


def test_set_without_a_value_is_refused_with_how_to_write_it():
    message = refusal(None, None, "store.root")

    assert message == "--set store.root has no value: write --set store.root=VALUE"


def test_a_value_of_set_may_contain_an_equals_sign():
    loaded = load(None, None, "store.root=/a=b")

    assert loaded.settings.store.root == Path("/a=b")


def test_a_list_that_is_set_repeatedly_is_joined():
    caches = ("https://a.example", "https://b.example", "https://c.example")
    loaded = load(None, None, f"store.caches={caches[0]},{caches[1]}", f"store.caches={caches[2]}")

    assert loaded.settings.store.caches == caches


def test_a_table_that_is_set_repeatedly_is_joined():
    loaded = load(None, None, "runtime.handlers=flox=runc", "runtime.handlers=gpu=nvidia")

    assert loaded.settings.runtime.handlers == {"flox": "runc", "gpu": "nvidia"}


def test_the_last_of_repeated_values_wins():
    assert load(None, None, "store.workers=1", "store.workers=2").settings.store.workers == 2


def test_an_empty_value_of_set_is_a_value():
    assert load(None, None, "metrics.listen=").settings.metrics.listen == ""


def test_a_date_where_none_is_accepted_is_told_like_any_wrong_value(file):
    file.write_text("[store]\nroot = 2026-01-01\n")

    assert "store.root must be an absolute path, not 2026-01-01" in refusal(file)


def test_credentials_in_a_url_are_shown_to_nobody(file):
    file.write_text("[store]\ncaches = ['https://me:hush@cache.example']\n")
    loaded = load(file)

    assert loaded.settings.store.caches == ("https://me:hush@cache.example",)
    assert "hush" not in origin_of(loaded, "store.caches").shown
    file.write_text("[store]\ncaches = ['s3://me:hush@cache.example']\n")
    assert "hush" not in refusal(file)


def test_contradictions_are_told_once_everything_else_is_right():
    message = refusal(None, None, "tracing.endpoint=http://localhost:4318")

    assert 'tracing.exporter is "none"' in message


def test_a_key_in_a_file_may_be_a_table_of_its_own(file):
    file.write_text('[runtime.handlers]\nflox = "runc"\n')

    assert load(file).settings.runtime.handlers == {"flox": "runc"}
