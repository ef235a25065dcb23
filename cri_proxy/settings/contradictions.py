"""Contradictions: settings that are valid by themselves and exclude each other.

They are checked after every value has been parsed, and all of them are reported together. Each is
a sentence that names the keys and says what to change. Pure.
"""

from __future__ import annotations

from cri_proxy.settings.schema import Settings


def of_settings(settings: Settings) -> list[str]:
    """Return a sentence for each pair of settings that exclude each other."""
    found = []
    if settings.tracing.endpoint and settings.tracing.exporter == "none":
        found.append('tracing.endpoint is set but tracing.exporter is "none": set it to "otlp"')
    if settings.serve.listen == settings.runtime.endpoint:
        found.append(
            f"serve.listen and runtime.endpoint are both {settings.serve.listen}: "
            "the proxy needs a socket of its own"
        )
    if settings.store.kind == "nix" and settings.peer.listen:
        found.append(
            'peer.listen is set and store.kind is "nix": only store.kind "own" can serve other '
            "nodes, so leave peer.listen empty"
        )
    if settings.peer.listen.endswith(":0"):
        found.append(
            f"peer.listen is {settings.peer.listen}, and other nodes must know the port: set one"
        )
    if settings.garbage.low_percent >= settings.garbage.high_percent:
        found.append(
            f"garbage.low_percent is {settings.garbage.low_percent} and garbage.high_percent "
            f"{settings.garbage.high_percent}: low_percent must be the smaller one"
        )
    if settings.store.caches and not settings.store.public_keys:
        found.append(
            "store.public_keys is empty, so nothing from store.caches could be verified: "
            "list the keys that these caches sign with"
        )
    return found
