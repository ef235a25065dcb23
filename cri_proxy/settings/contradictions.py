"""Contradictions: settings that are right by themselves and cannot all be meant.

Looked for when every value has been understood, whichever source it came from, and refused
together. Each is a sentence that names the keys and what to do. Pure.
"""

from __future__ import annotations

from cri_proxy.settings.schema import Settings


def of_settings(settings: Settings) -> list[str]:
    """Return a sentence for each pair of settings that cannot both be meant."""
    found = []
    if settings.tracing.endpoint and settings.tracing.exporter == "none":
        found.append('tracing.endpoint is set but tracing.exporter is "none": set it to "otlp"')
    if settings.serve.listen == settings.runtime.endpoint:
        found.append(
            f"serve.listen and runtime.endpoint are both {settings.serve.listen}: "
            "the proxy needs a socket of its own beside the runtime's"
        )
    if settings.store.kind == "nix" and settings.peer.listen:
        found.append(
            'peer.listen is set and store.kind is "nix": other nodes are served from the store of '
            "the proxy's own only, so leave peer.listen empty"
        )
    if settings.peer.listen.endswith(":0"):
        found.append(
            f"peer.listen is {settings.peer.listen}, and other nodes must know the port: name one"
        )
    if settings.garbage.low_percent >= settings.garbage.high_percent:
        found.append(
            f"garbage.low_percent is {settings.garbage.low_percent} and garbage.high_percent "
            f"{settings.garbage.high_percent}: the low one must be below the high one"
        )
    if settings.store.caches and not settings.store.public_keys:
        found.append(
            "store.public_keys is empty, so nothing from store.caches could be trusted: "
            "name the keys that sign there"
        )
    return found
