"""Structured loggers by themselves: what the records of the standard library carry."""

from __future__ import annotations

import logging

import pytest

from cri_proxy.lib import logger
from cri_proxy.lib.logger import FIELDS


@pytest.fixture(autouse=True)
def _everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def test_a_record_has_event_level_and_fields(caplog: pytest.LogCaptureFixture) -> None:
    log = logger.of("cri_proxy.lib.workers")
    for write in (log.debug, log.info, log.warning, log.error):
        write("worker died", job="store.fetch", attempt=1)

    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR]
    for record in caplog.records:
        assert (record.name, record.getMessage()) == ("cri_proxy.lib.workers", "worker died")
        assert getattr(record, FIELDS) == {"job": "store.fetch", "attempt": 1}
        assert record.filename == "test_logger.py"


def test_an_event_may_have_percent_signs(caplog: pytest.LogCaptureFixture) -> None:
    logger.of("x").info("100 %s of it", s=1)

    assert caplog.records[0].getMessage() == "100 %s of it"


def test_a_fault_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise LookupError("lost")
    except LookupError as error:
        logger.of("x").error("job failed", fault=error)

    assert "LookupError: lost" in caplog.text
