"""The generated messages: they follow the schema, and lose nothing of what they do not know."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cri_proxy.cri import api_pb2

ROOT = Path(__file__).parents[2]


def test_generated_messages_follow_the_schema() -> None:
    outcome = subprocess.run(
        [ROOT / "hack" / "protos.sh", "--check"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if outcome.returncode == 2 and not os.environ.get("CI"):
        pytest.skip(outcome.stderr.strip())

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_value_of_a_variable_need_not_be_utf8() -> None:
    """Secrets put any bytes into variables; with `string` the whole request could not be read."""
    config = api_pb2.ContainerConfig(envs=[api_pb2.KeyValue(key="SECRET", value=b"\xff\xfe\x00")])

    again = api_pb2.ContainerConfig.FromString(config.SerializeToString())

    assert again.envs[0].value == b"\xff\xfe\x00"


def test_field_of_a_newer_cri_survives_a_change_of_the_message() -> None:
    """At every level: field 999 with the text `new`, in the request and in its container."""
    unknown = b"\xba\x3e\x03new"
    config = api_pb2.ContainerConfig(working_dir="/").SerializeToString() + unknown
    payload = b"\x12" + bytes((len(config),)) + config + unknown

    request = api_pb2.CreateContainerRequest.FromString(payload)
    request.config.args.append("added")
    again = request.SerializeToString()

    assert again.count(unknown) == 2
    assert api_pb2.CreateContainerRequest.FromString(again).config.args == ["added"]
