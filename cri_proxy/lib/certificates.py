"""Certificate authorities: where the node keeps its bundle, and how a server's chain is verified.

Every distribution keeps the bundle somewhere else. A chain must be signed, valid now and for the
server's name, as for kubelet, the runtime, curl and Nix; Python 3.13 and later require more.
"""

from __future__ import annotations

import ssl
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
    """Return the path of the node's PEM bundle, or None if it is in none of the known places."""
    return next((each for each in PLACES if each.is_file()), None)


def context(*, file: Path | None = None, text: str | None = None) -> ssl.SSLContext:
    """Return a context that trusts the authorities in a PEM file or text, by default the system's.

    Python 3.13 began to refuse authorities and certificates without the extensions that RFC 5280
    requires, such as an Authority Key Identifier. Those of EKS clusters created before Kubernetes
    1.17 lack them, as do those of many companies (kubernetes-client/python#2394).
    """
    made = ssl.create_default_context(cafile=file, cadata=text)
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return made
