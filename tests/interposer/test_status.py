"""Status: codes and messages of our own refusals."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from cri_proxy import errors
from cri_proxy.interposer import status


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.RequestInvalid, StatusCode.INVALID_ARGUMENT),
        (errors.NotFound, StatusCode.NOT_FOUND),
        (errors.AccessDenied, StatusCode.PERMISSION_DENIED),
        (errors.EnvironmentUnsuitable, StatusCode.FAILED_PRECONDITION),
        (errors.SignatureUntrusted, StatusCode.FAILED_PRECONDITION),
        (errors.ContentDamaged, StatusCode.DATA_LOSS),
        (errors.SourceUnreachable, StatusCode.UNAVAILABLE),
        (errors.StillRealizing, StatusCode.UNAVAILABLE),
        (errors.NodeExhausted, StatusCode.RESOURCE_EXHAUSTED),
        (errors.InternalFault, StatusCode.INTERNAL),
    ],
)
def test_each_kind_of_error_has_its_code(
    kind: type[errors.CriProxyError], code: StatusCode
) -> None:
    assert status.code_of(kind("sentence")) is code


def test_every_kind_of_error_is_listed() -> None:
    for kind in errors.CriProxyError.__subclasses__():
        assert kind in status._CODES


def test_error_of_a_finer_class_has_the_code_of_its_kind() -> None:
    class Finer(errors.NotFound):
        pass

    assert status.code_of(Finer("sentence")) is StatusCode.NOT_FOUND
    assert status.code_of(errors.CriProxyError("sentence")) is StatusCode.INTERNAL


def test_sentence_of_ordinary_length_is_kept() -> None:
    sentence = "é" * (status.MESSAGE_BYTES // 2)

    assert status.message_of(errors.NotFound(sentence)) == sentence


@pytest.mark.parametrize("letter", ["x", "é", "€", "𝄞"])
def test_sentence_that_is_too_long_keeps_its_beginning_and_its_end(letter: str) -> None:
    sentence = f"begin {letter * 100_000} end"

    message = status.message_of(errors.NotFound(sentence))

    assert len(message.encode()) <= status.MESSAGE_BYTES
    assert message.startswith(f"begin {letter}")
    assert message.endswith(f"{letter} end")
    assert f"{letter} [...] {letter}" in message


def test_error_in_nested_groups_is_found() -> None:
    error = errors.NotFound("sentence")
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [error]), KeyError()])

    assert status.cause_of(group) is error
    assert status.cause_of(error) is error
