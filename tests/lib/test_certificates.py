import http.client
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri_proxy.lib import certificates
from hack.cluster.certificates import Authority
from hack.testbed.sites import Site


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority as older EKS clusters have it: without key identifiers, nor in what it signs."""
    return Authority(tmp_path / "authority")


@pytest.fixture
def server(authority: Authority) -> Iterator[Site]:
    """A web server with a certificate of that authority for 127.0.0.1."""
    with Site() as site:
        site.speak_tls(*authority.sign("server", "server", hosts=["127.0.0.1"]))
        yield site


def status_of(server: Site, context: ssl.SSLContext, host: str = "127.0.0.1") -> int:
    port = int(server.url.rpartition(":")[2])
    connection = http.client.HTTPSConnection(host, port, context=context, timeout=20)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_bundle_is_a_file_in_a_known_place_or_none():
    bundle = certificates.bundle()

    assert bundle is None or (bundle in certificates.PLACES and bundle.is_file())


def test_an_authority_without_key_identifiers_is_trusted(authority: Authority, server: Site):
    """Of itself, Python refuses it from 3.13 on."""
    assert status_of(server, certificates.context(file=authority.certificate)) == 200
    assert status_of(server, certificates.context(text=authority.certificate.read_text())) == 200


def test_a_server_that_no_authority_vouches_for_is_refused(server: Site):
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        status_of(server, certificates.context())


def test_a_server_of_another_name_is_refused(authority: Authority, server: Site):
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        status_of(server, certificates.context(file=authority.certificate), "localhost")
