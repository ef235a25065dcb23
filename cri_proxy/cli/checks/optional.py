"""Checks of optional sources of store paths: the node's own Nix, and peers."""

from __future__ import annotations

import os
from functools import partial
from typing import Final

from cri_proxy import errors
from cri_proxy.cli.checks import findings
from cri_proxy.cli.checks.findings import Check, Finding
from cri_proxy.daemon import parts
from cri_proxy.settings import schema
from cri_proxy.store.nix.programs import Programs
from cri_proxy.store.peers.addresses import Addresses

_ANY: Final = "/nix/store/" + "0" * 32 + "-cri-proxy-check"


def checks_of(settings: schema.Settings) -> list[Check]:
    """Return the checks of this group, none if the settings use neither."""
    found = []
    if settings.store.kind == "nix":
        programs = Programs(settings.store.root / "nix", parts.store_options_of(settings, 1))
        found.append(Check("nix", partial(nix, programs)))
    if settings.peer.names:
        known = Addresses(settings.peer.names, settings.peer.listen)
        found.append(Check("peers", partial(peers, known, is_listening=bool(settings.peer.listen))))
    return found


def nix(programs: Programs) -> Finding:
    """Check that Nix is installed, recent enough, answers, and lets us keep its paths."""
    try:
        program = programs.find()
        programs.query("--check-validity", "--print-invalid", paths=[_ANY])
    except errors.CriProxyError as error:
        return findings.fail(str(error), "fix this, or set store.kind to own")
    if not programs.state.is_dir():
        return findings.fail(f"{programs.state} does not exist", "run Nix once on this node")
    if not os.access(programs.state, os.W_OK):
        return findings.fail(f"{programs.state} is not writable", "run the check as root")
    return findings.ok(f"{program}, store {programs.store}")


def peers(known: Addresses, *, is_listening: bool) -> Finding:
    """Check that peer.names resolve, and to this node as well if it serves peers."""
    addresses = known.all
    if not addresses:
        return findings.warn(
            "peer.names do not resolve, so only caches are used",
            "check the names and this node's DNS resolver",
        )
    found = f"{len(addresses)} address{'es' if len(addresses) > 1 else ''}"
    if is_listening and known.own is None:
        return findings.warn(
            f"{found}, none of them of this node, so peers cannot fetch from it",
            "make peer.names resolve to every node",
        )
    return findings.ok(found)
