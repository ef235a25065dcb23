"""A pod keeps what it was given, and the runtime remembers it across a restart of the proxy."""

from __future__ import annotations

from collections.abc import Sequence

from cri_proxy.cri import api_pb2
from cri_proxy.interposer import adjustment
from cri_proxy.interposer.generations import KeptGeneration, KeptGenerations
from cri_proxy.model.environments import Mode
from cri_proxy.model.references import Reference

WEB = Reference("acme", "web")
ONE = KeptGeneration("0-acme-web", WEB.at(1))
TWO = KeptGeneration("1-acme-web", WEB.at(2))


def container(
    *, uid: str = "pod", sandbox: str = "s", pin: KeptGeneration = ONE, created_at: int = 1
) -> api_pb2.Container:
    return api_pb2.Container(
        pod_sandbox_id=sandbox,
        created_at=created_at,
        labels={"io.kubernetes.pod.uid": uid},
        annotations={
            adjustment.ASKED_ANNOTATION: "acme/web",
            adjustment.REFERENCE_ANNOTATION: str(pin.reference),
            adjustment.IDENTITY_ANNOTATION: pin.identity,
            adjustment.MODE_ANNOTATION: "run",
        },
    )


def pins_of(*containers: api_pb2.Container) -> KeptGenerations:
    async def listed() -> Sequence[api_pb2.Container]:
        return containers

    return KeptGenerations(listed)


async def test_a_pods_first_container_finds_nothing() -> None:
    assert await pins_of().find("pod", "s", WEB, Mode.RUN) is None


async def test_what_a_pod_was_given_is_found_by_its_uid_in_a_new_sandbox() -> None:
    pins = pins_of()
    pins.remember("pod", "s", WEB, Mode.RUN, ONE)

    assert await pins.find("pod", "another", WEB, Mode.RUN) == ONE
    assert await pins.find("other", "other", WEB, Mode.RUN) is None


async def test_a_pod_without_uid_is_known_by_its_sandbox() -> None:
    pins = pins_of()
    pins.remember("", "s", WEB, Mode.RUN, ONE)

    assert await pins.find("", "s", WEB, Mode.RUN) == ONE
    assert await pins.find("", "other", WEB, Mode.RUN) is None


async def test_another_reference_or_mode_is_another_pin() -> None:
    pins = pins_of()
    pins.remember("pod", "s", WEB, Mode.RUN, ONE)

    assert await pins.find("pod", "s", WEB.at(7), Mode.RUN) is None
    assert await pins.find("pod", "s", WEB, Mode.DEV) is None


async def test_the_first_thing_given_counts() -> None:
    pins = pins_of()
    pins.remember("pod", "s", WEB, Mode.RUN, ONE)
    pins.remember("pod", "s", WEB, Mode.RUN, TWO)

    assert await pins.find("pod", "s", WEB, Mode.RUN) == ONE


async def test_the_runtimes_containers_tell_what_was_given_before_the_start_oldest_first() -> None:
    pins = pins_of(container(pin=TWO, created_at=2), container(pin=ONE, created_at=1))

    assert await pins.find("pod", "s", WEB, Mode.RUN) == ONE


async def test_containers_that_are_not_ours_or_cannot_be_read_are_passed_over() -> None:
    odd = container()
    odd.annotations[adjustment.REFERENCE_ANNOTATION] = "not a reference"
    pins = pins_of(api_pb2.Container(labels={"io.kubernetes.pod.uid": "pod"}), odd)

    assert await pins.find("pod", "s", WEB, Mode.RUN) is None
