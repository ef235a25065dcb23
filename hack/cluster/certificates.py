"""Keys, certificates and kubeconfigs of one cluster, generated for each.

    <directory>/ca.crt, ca.key                 the only authority in the cluster
                <name>.crt, <name>.key         servers and clients
                <name>.kubeconfig              a client's access to the API server, in one file
                accounts.key, accounts.pub     the keys for service account tokens

Kubernetes reads a client's user from the common name and its groups from the organizations
(https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates).
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALIDITY: Final = datetime.timedelta(days=30)
_SKEW: Final = datetime.timedelta(hours=1)


class Authority:
    """A certificate authority, and the directory of its certificates."""

    def __init__(self, directory: Path) -> None:
        """Generate the authority's key and certificate, and the key for service accounts."""
        directory.mkdir(mode=0o700, parents=True)
        self.directory: Final = directory
        self.certificate: Final = directory / "ca.crt"
        self._key: Final = _new_key(directory / "ca.key")
        self._name: Final = _name_of("cluster")
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        signed = (
            _builder(self._name, self._name, self._key)
            .add_extension(constraints, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        _write(self.certificate, signed.public_bytes(serialization.Encoding.PEM))
        accounts = _new_key(directory / "accounts.key").public_key()
        _write(directory / "accounts.pub", _public_bytes(accounts))

    def sign(
        self, name: str, user: str, *, groups: Sequence[str] = (), hosts: Sequence[str] = ()
    ) -> tuple[Path, Path]:
        """Return certificate and key for the client `user`, and for a server at `hosts`, if any."""
        certificate, file = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        key = _new_key(file)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = _builder(_name_of(user, groups), self._name, key)
        if hosts:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
            names = [_host(each) for each in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False).sign(
            self._key, hashes.SHA256()
        )
        _write(certificate, signed.public_bytes(serialization.Encoding.PEM))
        return certificate, file

    def kubeconfig(self, name: str, user: str, server: str, groups: Sequence[str] = ()) -> Path:
        """Return a kubeconfig that authenticates as `user` at the API server."""
        certificate, key = self.sign(name, user, groups=groups)
        client = {
            "client-certificate-data": _base64(certificate),
            "client-key-data": _base64(key),
        }
        cluster = {"server": server, "certificate-authority-data": _base64(self.certificate)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": cluster}],
            "users": [{"name": name, "user": client}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": name}}],
            "current-context": "here",
        }
        file = self.directory / f"{name}.kubeconfig"
        _write(file, json.dumps(document).encode())
        return file


def _new_key(file: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.TraditionalOpenSSL
    plain = serialization.NoEncryption()
    _write(file, key.private_bytes(serialization.Encoding.PEM, form, plain))
    return key


def _public_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _VALIDITY)
    )


def _name_of(user: str, groups: Sequence[str] = ()) -> x509.Name:
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def _write(file: Path, content: bytes) -> None:
    file.touch(mode=0o600)
    file.write_bytes(content)
