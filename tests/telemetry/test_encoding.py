"""Span records: everything that a span has, and nothing that is secret."""

from __future__ import annotations

import json

from cri_proxy.lib import redaction
from cri_proxy.model import traces
from cri_proxy.telemetry import encoding
from cri_proxy.telemetry.spans import Context, Span, Value

LINKED = Context(0xC, 0xD, is_sampled=True)


def made(**attributes: Value) -> Span:
    context = Context(0xA, 0xB, is_sampled=True)
    span = Span("call", context, 0xE, kind="server", start=5, attributes=attributes)
    span.end = 9
    return span


def test_a_record_is_read_as_the_span_that_it_was_made_of() -> None:
    span = made(**{"rpc.method": "Status", "cri_proxy.paths": 300, "cri_proxy.rewritten": True})
    span.add_link(LINKED)
    span.fail("broke off")

    read = traces.span_of(json.loads(encoding.text_of(encoding.of_span(span))))

    assert (read.name, read.span_id, read.parent_id) == ("call", f"{0xB:016x}", f"{0xE:016x}")
    assert (read.kind, read.start, read.end) == ("server", 5, 9)
    assert (read.status, read.message) == ("error", "broke off")
    assert read.attributes == span.attributes


def test_a_record_is_one_line() -> None:
    assert "\n" not in encoding.text_of(encoding.of_span(made(text="one\ntwo")))


def test_values_that_are_named_like_secrets_are_hidden() -> None:
    record = encoding.of_span(made(**{"floxhub.token": "do-not-tell"}))

    assert record["attributes"] == {"floxhub.token": redaction.HIDDEN}


def test_passwords_in_urls_are_hidden() -> None:
    span = made(url="https://user:do-not-tell@example.org/x")
    span.fail("GET https://user:do-not-tell@example.org/x failed")

    assert "do-not-tell" not in encoding.text_of(encoding.of_span(span))


def test_long_texts_are_cut() -> None:
    span = made(text="x" * 10_000)
    span.fail("y" * 10_000)

    record = encoding.of_span(span)

    assert len(record["attributes"]["text"]) == len(record["message"]) == 2001
    assert record["message"].endswith("y…")
