"""The runner of checks: all concurrently, with a common deadline, results in the given order.

Threads are daemon threads: one that hangs, on a dead NFS mount for example, is reported and
abandoned, and does not keep the program from exiting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

from cri_proxy.cli.checks import findings
from cri_proxy.cli.checks.findings import Check, Finding

DEADLINE_SECONDS: Final = 15.0


def run(
    checks: Sequence[Check], *, deadline_seconds: float = DEADLINE_SECONDS
) -> list[tuple[str, Finding]]:
    """Return the name and the finding of every check."""
    end = time.monotonic() + deadline_seconds
    begun = [(check, _begin(check)) for check in checks]
    return [(check.name, _finding_of(answer, end)) for check, answer in begun]


def _begin(check: Check) -> Future[Finding]:
    answer: Future[Finding] = Future()

    def look() -> None:
        try:
            answer.set_result(check.look())
        except OSError as error:
            what = f"{error.filename}: " if error.filename else ""
            answer.set_result(
                findings.fail(
                    f"{what}{error.strerror or error}",
                    "run the check as root" if isinstance(error, PermissionError) else "",
                )
            )
        except BaseException as error:
            answer.set_exception(error)
            raise

    threading.Thread(target=look, name=check.name, daemon=True).start()
    return answer


def _finding_of(answer: Future[Finding], end: float) -> Finding:
    try:
        return answer.result(timeout=max(0.0, end - time.monotonic()))
    except TimeoutError:
        return findings.fail(
            "timed out", "find out what it is waiting for, such as a dead network mount"
        )
