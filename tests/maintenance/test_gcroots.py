"""What keeps an environment, by the lists of a runtime and the pins."""

from __future__ import annotations

import pytest

from cri_proxy.cri import api_pb2
from cri_proxy.interposer import adjustment
from cri_proxy.maintenance import gcroots
from cri_proxy.model.references import Reference

WEB = Reference("acme", "web")


def pod(
    name: str = "one", state: api_pb2.PodSandboxState = api_pb2.SANDBOX_READY, **annotations: str
) -> api_pb2.PodSandbox:
    return api_pb2.PodSandbox(
        id=name,
        state=state,
        metadata=api_pb2.PodSandboxMetadata(name=name, namespace="shop"),
        annotations={"flox.dev/environment": "acme/web", **annotations},
    )


def container(sandbox: str = "one", asked: str = "acme/web") -> api_pb2.Container:
    return api_pb2.Container(
        pod_sandbox_id=sandbox,
        metadata=api_pb2.ContainerMetadata(name="main"),
        state=api_pb2.CONTAINER_EXITED,
        annotations={
            adjustment.IDENTITY_ANNOTATION: "0-acme-web",
            adjustment.ASKED_ANNOTATION: asked,
        },
    )


def test_a_container_keeps_what_it_records_and_speaks_for_its_pod() -> None:
    found = gcroots.of_lists([container()], [pod()])

    assert found.identities == {"0-acme-web": ["container shop/one/main (exited)"]}
    assert found.references == {}


def test_a_ready_pod_keeps_what_none_of_its_containers_has_been_given_yet() -> None:
    found = gcroots.of_lists([container(asked="acme/other")], [pod()])

    assert found.references == {WEB: ["pod shop/one"]}


def test_a_pod_that_has_ended_or_cannot_be_read_keeps_nothing() -> None:
    ended = pod(state=api_pb2.SANDBOX_NOTREADY)
    odd = pod("odd", **{"flox.dev/environment": "???"})

    assert gcroots.of_lists([], [ended, odd]) == gcroots.GcRoots({}, {})


def test_a_container_whose_pod_is_not_listed_keeps_its_environment_as_well() -> None:
    assert gcroots.of_lists([container()], []).identities == {
        "0-acme-web": ["container main (exited)"]
    }


def test_a_pin_keeps_what_it_was_realized_as_or_else_its_reference() -> None:
    found = gcroots.GcRoots().with_pins({WEB: "0-acme-web", Reference("acme", "new"): None})

    assert found.identities == {"0-acme-web": ["pin acme/web"]}
    assert found.references == {Reference("acme", "new"): ["pin acme/new"]}


def test_the_last_check_sees_roots_that_are_new() -> None:
    before = gcroots.GcRoots({}, {WEB.at(2): ["pod"]})
    unchanged = gcroots.GcRoots({}, {WEB.at(2): ["pod"]})
    newcomer = gcroots.GcRoots({}, {WEB.at(2): ["pod"], WEB: ["another"]})

    assert not unchanged.keep("0-acme-web", "acme/web:1", before)
    assert newcomer.keep("0-acme-web", "acme/web:1", before)
    assert gcroots.GcRoots({"0-acme-web": ["container"]}).keep("0-acme-web", "acme/web:1", before)


@pytest.mark.parametrize(
    ("new", "is_kept"),
    [
        (Reference("acme", "web"), True),
        (Reference("acme", "web", 1), True),
        (Reference("acme", "web", 2), False),
        (Reference("acme", "other"), False),
        (Reference("acme", "other", 1), False),
        (Reference("other", "web"), False),
        (Reference("other", "web", 1), False),
    ],
)
def test_a_new_reference_keeps_only_what_it_can_mean(new: Reference, is_kept: bool) -> None:
    roots = gcroots.GcRoots({}, {new: ["pod"]})

    assert roots.keep("0-acme-web", "acme/web:1", gcroots.GcRoots()) is is_kept
