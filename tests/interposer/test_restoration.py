"""RestorePod: forwarded unchanged, or refused for pods with environments."""

from __future__ import annotations

import pytest

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.interposer.handlers import Handlers
from cri_proxy.interposer.restoration import RestorePod
from tests.interposer.conftest import RecordedCall

RESTORE = RestorePod(Handlers({"flox": ""}))


def request_of(annotations: dict[str, str], *, handler: str = "") -> bytes:
    request = api_pb2.RestorePodRequest(
        config=api_pb2.PodSandboxConfig(
            metadata=api_pb2.PodSandboxMetadata(name="web", namespace="shop"),
            annotations=annotations,
        ),
        runtime_handler=handler,
    )
    return request.SerializeToString() + b"\xfa\x3f\x03new"


@pytest.mark.parametrize("annotations", [{}, {"note": "about flox.dev/environment"}])
async def test_a_pod_without_an_environment_is_forwarded_unchanged(
    call: RecordedCall, annotations: dict[str, str]
) -> None:
    payload = request_of(annotations, handler="runsc")

    assert await RESTORE(payload, call) == b"response"
    assert call.forwarded[0] is payload


@pytest.mark.parametrize(
    ("annotations", "handler", "words"),
    [
        ({"flox.dev/environment": "acme/web"}, "", "shop/web cannot be restored.*acme/web"),
        ({"flox.dev/environment.main": ""}, "", r"\(none\)"),
        ({"flox.dev/environment": "acme"}, "", "owner/name"),
        ({}, "flox", "shop/web has none"),
    ],
)
async def test_a_pod_with_an_environment_is_refused(
    call: RecordedCall, annotations: dict[str, str], handler: str, words: str
) -> None:
    with pytest.raises(errors.RequestInvalid, match=words):
        await RESTORE(request_of(annotations, handler=handler), call)

    assert call.forwarded == []


async def test_what_cannot_be_decoded_is_refused_only_with_our_annotation_in_it(
    call: RecordedCall,
) -> None:
    other = b"\x0a\xff\xff\xff"
    assert await RESTORE(other, call) == b"response"

    broken = request_of({"flox.dev/environment": "acme/web"}).replace(b"acme", b"\xff\xfe\xfd\xfc")
    with pytest.raises(errors.RequestInvalid, match="cannot be decoded"):
        await RESTORE(broken, call)
