"""Which traces are sent, by the words of OpenTelemetry's specification and by our setting."""

from __future__ import annotations

import random

import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from cri_proxy.telemetry import sampling
from cri_proxy.telemetry.spans import Context

LARGE, SMALL = (1 << 64) - 1, 1
SAMPLED = Context(SMALL, 1, is_sampled=True)
UNSAMPLED = Context(SMALL, 1, is_sampled=False)


@pytest.mark.parametrize(
    ("name", "argument", "of_own", "of_sampled", "of_unsampled"),
    [
        ("", "", True, True, False),
        ("always_on", "", True, True, True),
        ("always_off", "", False, False, False),
        ("parentbased_always_on", "", True, True, False),
        ("parentbased_always_off", "", False, True, False),
        ("traceidratio", "0", False, False, False),
        ("traceidratio", "1", True, True, True),
        ("parentbased_traceidratio", "0", False, True, False),
        ("parentbased_traceidratio", "nonsense", True, True, False),
        ("unheard_of", "", True, True, False),
    ],
)
def test_samplers_decide_as_they_are_named(
    name: str, argument: str, *, of_own: bool, of_sampled: bool, of_unsampled: bool
) -> None:
    environment = {sampling.NAME: name, sampling.ARGUMENT: argument}

    sampler = sampling.of_settings(1.0, environment)

    assert sampler(SMALL, None) is of_own
    assert sampler(SMALL, SAMPLED) is of_sampled
    assert sampler(SMALL, UNSAMPLED) is of_unsampled


def test_the_setting_is_a_share_of_what_kubelet_does_not_sample() -> None:
    sampler = sampling.of_settings(0.5, {})

    assert (sampler(SMALL, None), sampler(LARGE, None)) == (True, False)
    assert sampler(LARGE, SAMPLED)


def test_a_share_is_the_same_traces_as_opentelemetrys_own_sdk_takes() -> None:
    numbers = random.Random(7)
    theirs = TraceIdRatioBased(0.3)
    sampler = sampling.of_settings(0.3, {})
    ids = [numbers.getrandbits(128) for _ in range(500)]

    assert [sampler(each, None) for each in ids] == [
        theirs.should_sample(None, each, "x").decision is Decision.RECORD_AND_SAMPLE for each in ids
    ]
