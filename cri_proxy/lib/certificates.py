"""The node's bundle of certificate authorities, which every distribution keeps somewhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PLACES: Final = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Ubuntu, Alpine, Arch, Flatcar, NixOS
    Path("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),  # Fedora, RHEL, Amazon Linux
    Path("/etc/ssl/ca-bundle.pem"),  # SUSE
    Path("/etc/pki/tls/cacert.pem"),  # Bottlerocket
    Path("/etc/ssl/cert.pem"),  # Talos and others
)


def bundle() -> Path | None:
    """Return the path of the node's PEM bundle, or None when it is in no known place."""
    return next((each for each in PLACES if each.is_file()), None)
