"""Checks of what else store paths may come from: the node's own Nix, and other nodes."""

from __future__ import annotations

import os
from functools import partial
from typing import Final

from cri_proxy import errors
from cri_proxy.cli.checks import findings
from cri_proxy.cli.checks.findings import Check, Finding
from cri_proxy.daemon import parts
from cri_proxy.settings import schema
from cri_proxy.store.nix import jobs as nixjobs
from cri_proxy.store.nix.programs import Programs
from cri_proxy.store.peers.addresses import Addresses

_ANY: Final = "/nix/store/" + "0" * 32 + "-cri-proxy-check"


def checks_of(settings: schema.Settings) -> list[Check]:
    """Return the checks of this group, none unless the settings ask for such things."""
    found = []
    if settings.store.kind == "nix":
        greeting = parts.greeting_of(settings, 1)["store"]
        found.append(Check("nix", partial(nix, nixjobs.programs_of(settings.store.root, greeting))))
    if settings.peer.names:
        known = Addresses(settings.peer.names, settings.peer.listen)
        found.append(Check("peers", partial(peers, known, is_listening=bool(settings.peer.listen))))
    return found


def nix(programs: Programs) -> Finding:
    """See that there is a Nix, new enough, that answers and lets us keep its paths."""
    try:
        program = programs.find()
        programs.query("--check-validity", "--print-invalid", paths=[_ANY])
    except errors.CriProxyError as error:
        return findings.fail(str(error), "mend that, or set store.kind to own")
    if not programs.state.is_dir():
        return findings.fail(f"there is no {programs.state}", "start Nix once on this node")
    if not os.access(programs.state, os.W_OK):
        return findings.fail(f"{programs.state} cannot be written to", "run as root")
    return findings.ok(f"{program}, store {programs.store}")


def peers(known: Addresses, *, is_listening: bool) -> Finding:
    """See that the names lead somewhere, and to this node as well if it serves."""
    addresses = known.all
    if not addresses:
        return findings.warn(
            "peer.names lead nowhere", "see that this node's resolver knows them: caches are asked"
        )
    found = f"{len(addresses)} address{'es' if len(addresses) > 1 else ''}"
    if is_listening and known.own is None:
        return findings.warn(
            f"{found}, none of them this node's",
            "have peer.names lead to every node: what is here is not found by others",
        )
    return findings.ok(found)
