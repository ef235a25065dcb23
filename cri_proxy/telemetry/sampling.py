"""Sampling: which traces are sent, decided once for each, where it begins.

OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG have the meaning of OpenTelemetry's specification
("General SDK Configuration"). Without them a startup within a sampled trace of kubelet's is always
sent, and of the others the share that the settings name. An unsampled context of kubelet's is not
followed, because kubelet sends those when its own tracing is off.
"""

from __future__ import annotations

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
        return _following_parents(_of_share(share))
    own = _of_name(name.removeprefix(_PARENT), environment.get(ARGUMENT, ""))
    if own is None:
        _log.warning(
            "unknown sampler, tracing.share is used",
            variable=f"{NAME}={name}",
            advice="use always_on, always_off, traceidratio, or one of these with parentbased_",
        )
        return _following_parents(_of_share(share))
    return _following_parents(own) if name.startswith(_PARENT) else own


def _of_name(name: str, argument: str) -> Sampler | None:
    match name:
        case "always_on":
            return lambda *_: True
        case "always_off":
            return lambda *_: False
        case "traceidratio":
            try:
                share = float(argument or "1")
            except ValueError:
                share = -1.0
            if 0 <= share <= 1:
                return _of_share(share)
            _log.warning(
                "not a share of traces, all are sent",
                variable=f"{ARGUMENT}={argument}",
                advice="give a number from 0 to 1",
            )
            return _of_share(1.0)
        case _:
            return None


def _of_share(share: float) -> Sampler:
    """Sample by the last 64 bits of the trace id, so that all of OpenTelemetry's SDKs agree."""
    bound = round(share * (1 << _BITS))
    mask = (1 << _BITS) - 1

    def sample(trace_id: int, _: Context | None) -> bool:
        return trace_id & mask < bound

    return sample


def _following_parents(own: Sampler) -> Sampler:
    def sample(trace_id: int, parent: Context | None) -> bool:
        return own(trace_id, None) if parent is None else parent.is_sampled

    return sample
