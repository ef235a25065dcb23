"""Sampling: which traces are sent, decided once for each, where it begins.

OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG have the meaning of OpenTelemetry's specification
("General SDK Configuration"). Without them a startup within a sampled trace of kubelet's is always
sent, and of the others the share that the settings name. An unsampled context of kubelet's is not
followed, because kubelet sends those when its own tracing is off.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Final

from cri_proxy.telemetry import logs
from cri_proxy.telemetry.spans import Context, Sampler

NAME: Final = "OTEL_TRACES_SAMPLER"
ARGUMENT: Final = "OTEL_TRACES_SAMPLER_ARG"
_PARENT: Final = "parentbased_"
_BITS: Final = 64
_log = logs.of(__name__)


def of_settings(share: float, environment: Mapping[str, str]) -> Sampler:
    """Return the sampler of OpenTelemetry's variables, else that of tracing.share."""
    name = environment.get(NAME, "").strip()
    if not name:
        return _sampler(share, follows_parents=True)
    own = _share_of(name.removeprefix(_PARENT), environment.get(ARGUMENT, ""))
    if own is None:
        _log.warning(
            "unknown sampler, tracing.share is used",
            variable=f"{NAME}={name}",
            advice="use always_on, always_off, traceidratio, or one of these with parentbased_",
        )
        return _sampler(share, follows_parents=True)
    return _sampler(own, follows_parents=name.startswith(_PARENT))


def _share_of(name: str, argument: str) -> float | None:
    """Return the share of traces that a sampler takes; None if there is no such sampler."""
    if name != "traceidratio":
        return {"always_on": 1.0, "always_off": 0.0}.get(name)
    with contextlib.suppress(ValueError):
        if 0 <= (share := float(argument or "1")) <= 1:
            return share
    _log.warning(
        "not a share of traces, all are sent",
        variable=f"{ARGUMENT}={argument}",
        advice="give a number from 0 to 1",
    )
    return 1.0


def _sampler(share: float, *, follows_parents: bool) -> Sampler:
    """Sample by the last 64 bits of the trace id, so that all of OpenTelemetry's SDKs agree."""
    bound = round(share * (1 << _BITS))
    mask = (1 << _BITS) - 1

    def sample(trace_id: int, parent: Context | None) -> bool:
        if follows_parents and parent is not None:
            return parent.is_sampled
        return trace_id & mask < bound

    return sample
