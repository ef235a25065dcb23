"""What spans may say about a call, and what they never do."""

from __future__ import annotations

import pytest

from cri_proxy.cri import api_pb2, methods
from cri_proxy.tracing import subjects

POD = api_pb2.PodSandboxConfig(
    metadata=api_pb2.PodSandboxMetadata(uid="u", name="web", namespace="shop", attempt=2),
    annotations={"flox.dev/environment.main": "acme/web"},
)


def test_a_pull_has_its_image_and_not_its_credentials() -> None:
    request = api_pb2.PullImageRequest(
        image=api_pb2.ImageSpec(image="shop/web:1"),
        auth=api_pb2.AuthConfig(username="me", password="do-not-tell"),
        sandbox_config=POD,
    )

    subject = subjects.of_call(subjects.PULL_IMAGE, request.SerializeToString())

    assert subject is not None
    assert subject.image == "shop/web:1"
    assert "do-not-tell" not in repr(subject)


def test_a_container_has_name_attempt_and_the_image_as_the_pod_names_it() -> None:
    request = api_pb2.CreateContainerRequest(
        pod_sandbox_id="s",
        config=api_pb2.ContainerConfig(
            metadata=api_pb2.ContainerMetadata(name="main", attempt=3),
            image=api_pb2.ImageSpec(image="sha256:1", user_specified_image="shop/web:1"),
            envs=[api_pb2.KeyValue(key="PASSWORD", value=b"do-not-tell")],
        ),
        sandbox_config=POD,
    )

    subject = subjects.of_call(subjects.CREATE_CONTAINER, request.SerializeToString())

    assert subject is not None
    assert subject.attributes == {
        "k8s.container.name": "main",
        "k8s.container.restart_count": 3,
        "container.image.name": "shop/web:1",
        "cri_proxy.sandbox.id": "s",
    }
    assert subject.pod is not None
    assert (subject.pod.key, subject.pod.is_annotated) == (("u", 2), True)


@pytest.mark.parametrize("path", sorted(subjects.BEGINNING | subjects.ENDING))
def test_what_cannot_be_decoded_has_no_subject(path: str) -> None:
    assert subjects.of_call(path, b"\x0a\xff\xff\xff not protobuf") is None


@pytest.mark.parametrize("path", sorted(subjects.BEGINNING | subjects.ENDING))
def test_an_empty_message_is_of_no_pod(path: str) -> None:
    subject = subjects.of_call(path, b"")

    assert subject is not None
    assert subject.pod is None


def test_a_response_has_the_id_of_what_was_created() -> None:
    answer = api_pb2.CreateContainerResponse(container_id="c").SerializeToString()

    assert subjects.of_answer(subjects.CREATE_CONTAINER, answer).container_id == "c"
    assert subjects.of_answer(subjects.CREATE_CONTAINER, b"\xff").container_id == ""


def test_polling_is_not_traced() -> None:
    polled = ("ListContainers", "ListPodSandbox", "Status", "ContainerStatus", "ImageStatus")

    assert not (subjects.BEGINNING | subjects.ENDING) & {methods.path_of(name) for name in polled}
