"""The store's values on their way between daemon and worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cri_proxy.errors import ErrorRecord
from cri_proxy.lib import codec
from cri_proxy.model.cachelocations import Location, UnsupportedLogin
from cri_proxy.store import protocol
from cri_proxy.store.protocol import (
    Fact,
    Fetch,
    Fetched,
    FetchFailed,
    FetchFew,
    Found,
    NixOptions,
    PeerOptions,
    StoreOptions,
    Survey,
)

FOUND = Found("https://cache", "StorePath: /nix/store/x\n", 7)
LOCATION = Location(
    "s3://bucket",
    variables=(("AWS_ACCESS_KEY_ID", "s3cret"),),
    public_keys=("k:x",),
    unsupported=UnsupportedLogin("acme", "gcs"),
    paths=("x",),
)
OPTIONS = StoreOptions(
    directory=Path("/store"),
    caches=("https://cache",),
    keys=("k:x",),
    connections=4,
    node_connections=32,
    timeout_seconds=30,
    ca_file=Path("/ca.pem"),
    peers=PeerOptions(("peers",), "10.0.0.1:1"),
    nix=NixOptions(remote="daemon"),
)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (StoreOptions, OPTIONS),
        (protocol.SURVEY.argument, Survey(("x",), 8, (LOCATION,))),
        (protocol.SURVEY.result, [Fact("x", ("x", "y"), 7, FOUND), Fact("y", (), 1)]),
        (protocol.FETCH.argument, Fetch("x", FOUND, (LOCATION,))),
        (protocol.FETCH_FEW.argument, FetchFew((Fetch("x", FOUND),), 8)),
        (
            protocol.FETCH_FEW.result,
            [
                Fetched(Fact("x", (), 7), [("store.unpack", 1, 2)]),
                FetchFailed("y", ErrorRecord("NotFound", "y is nowhere")),
            ],
        ),
    ],
)
def test_value_survives_the_way_to_a_worker_and_back(kind: type, value: object) -> None:
    assert codec.decode(codec.encode(value), kind) == value


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@cache/path/?signature=secret#x", "https://cache/path"),
        ("s3://bucket?region=x", "s3://bucket"),
        ("file:///cache/", "file:///cache"),
    ],
)
def test_url_of_a_location_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert protocol.url_of(Location(url)) == shown


def test_it_loads_neither_http_nor_decompression_nor_cryptography() -> None:
    program = (
        "import sys; import cri_proxy.store.protocol; heavy = ('urllib3', 'ssl', 'nacl', 'lzma', "
        "'zstandard'); print([each for each in heavy if each in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120
    )

    assert done.stdout.strip() == "[]"
