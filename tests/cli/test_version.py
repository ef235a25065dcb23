"""`cri-proxy version`."""

import json
import platform

import cri_proxy


def test_the_version_is_printed_even_if_the_settings_are_wrong(commands):
    done = commands.in_pipe("version", CRI_PROXY_STORE_WORKERS="many")

    assert done.code == 0
    assert f"cri-proxy  {cri_proxy.__version__}" in done.output
    assert "grpcio" in done.output


def test_json_has_the_same_versions(commands):
    text = commands.in_pipe("version").output
    record = json.loads(commands.in_pipe("version", "--json").output)

    assert dict(line.split(maxsplit=1) for line in text.splitlines()) == record
    assert record["cri"] == "runtime.v1"
    assert record["python"] == platform.python_version()
