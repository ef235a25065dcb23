"""Structured loggers: an event in a few words, and fields.

`telemetry.logs` formats the lines of a process that has set it up.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

FIELDS: Final = "cri_proxy_fields"
"""The attribute of a log record that has the fields."""


class Log:
    """The logger of one module."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, /, **fields: object) -> None:
        """Log what helps to find a fault, and nothing else."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Log what an operator would tell a colleague."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Log what an operator should look into when there is time."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, *, fault: BaseException | None = None, **fields: object) -> None:
        """Log a failure; `fault` is an unexpected exception, whose traceback is added."""
        self._write(logging.ERROR, event, fields, fault)

    def _write(
        self,
        level: int,
        event: str,
        fields: Mapping[str, object],
        fault: BaseException | None = None,
    ) -> None:
        if self._logger.isEnabledFor(level):
            # Passed as an argument, because an event may contain percent signs.
            self._logger.log(
                level, "%s", event, extra={FIELDS: fields}, exc_info=fault, stacklevel=3
            )


def of(module: str) -> Log:
    """Return the logger of a module, given its `__name__`."""
    return Log(logging.getLogger(module))
