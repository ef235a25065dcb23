"""The SBOM of a tarball, as CycloneDX 1.6 in JSON.

Every Debian package and every wheel is a component, with the package URL that scanners search for
and the digest of the downloaded file. https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import email.parser
import json
import uuid
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from hack.dist import apt, inputs
from hack.dist.architectures import Architecture

_SPDX: Final = {
    "Apache-2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "MIT": "MIT",
    "MIT License": "MIT",
    "3-Clause BSD License": "BSD-3-Clause",
    "MPL-2.0": "MPL-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
"""SPDX identifiers by what wheels without a license expression have as License or Classifier."""
_NAMESPACE: Final = uuid.UUID("b0b6c1f4-5b2f-4a52-9f5e-3c8a7f0b9d11")


def listing(version: str, architecture: Architecture, *, epoch: int) -> str:
    """Return the document, which depends only on the inputs."""
    used = inputs.load(architecture)
    fetcher = inputs.Fetcher(architecture)
    components = [
        *(_of_debian(each, architecture) for each in used.debian),
        *(_of_wheel(each, fetcher.wheel(each)) for each in used.wheels),
    ]
    subject = {
        "type": "application",
        "bom-ref": "cri-proxy",
        "name": "cri-proxy",
        "version": version,
        "purl": f"pkg:generic/cri-proxy@{version}?arch={architecture.name}",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }
    body: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": subject,
        },
        "components": components,
        "dependencies": [
            {"ref": "cri-proxy", "dependsOn": sorted(each["bom-ref"] for each in components)}
        ],
    }
    serial = uuid.uuid5(_NAMESPACE, json.dumps(body, sort_keys=True))
    return json.dumps({**body, "serialNumber": f"urn:uuid:{serial}"}, indent=1) + "\n"


def _of_debian(package: apt.Package, architecture: Architecture) -> dict[str, Any]:
    where = f"arch={architecture.debian}&distro={inputs.SUITE}"
    purl = f"pkg:deb/debian/{quote(package.name)}@{quote(package.version)}?{where}"
    component = _component(package.name, package.version, purl, package.sha256)
    # a copyright file lists licences by file: too many for one expression
    return {**component, "licenses": [{"license": {"name": f"see licenses/{package.name}"}}]}


def _of_wheel(wheel: inputs.Wheel, file: Path) -> dict[str, Any]:
    name = wheel.project
    component = _component(name, wheel.version, f"pkg:pypi/{name}@{wheel.version}", wheel.sha256)
    licenses = _licenses(file)
    return {**component, "licenses": licenses} if licenses else component


def _component(name: str, version: str, purl: str, sha256: str) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
    }


def _licenses(wheel: Path) -> Sequence[dict[str, Any]]:
    """Return the licences in a wheel's metadata, as SPDX expressions where they are unambiguous."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = email.parser.BytesParser().parsebytes(archive.read(name), headersonly=True)
    if expression := metadata.get("License-Expression"):
        return [{"expression": expression}]
    text = metadata.get("License") or ""
    classifiers = [each.rpartition(" :: ")[2] for each in metadata.get_all("Classifier", [])]
    found = {_SPDX[each] for each in (text, *classifiers) if each in _SPDX}
    if found:
        return [{"license": {"id": each}} for each in sorted(found)]
    return [{"license": {"name": text}}] if text and "\n" not in text else []
