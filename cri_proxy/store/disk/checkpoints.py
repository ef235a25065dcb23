"""Checkpoints: syncing in the background what was committed without waiting for the disk.

The usual order is write, sync, rename. For large trees it would make every cold pod wait for the
slowest disk of the node, and syncfs(2) for whatever else is dirty there (an image being pulled). So
`local` and `views` commit in another order:

1. the tree is renamed into place, with a mark whose name holds the boot id;
2. later, a checkpoint syncs the file system and gives the mark its lasting name.

A crash of the process keeps the page cache, so what was renamed is whole. A crash of the machine
changes the boot id, so what was never synced is recognized by its mark and dropped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from cri_proxy.telemetry import logs

QUIET_SECONDS: Final = 5.0
DELAY_LIMIT_SECONDS: Final = 60.0
_log = logs.of(__name__)


class Checkpointer:
    """Calls `checkpoint` in a background thread, once requests have ceased for QUIET_SECONDS.

    It waits because a journaling file system creates no file while a syncfs is under way. If the
    process ends first, the next one's recovery does the work, so `checkpoint` must find out by
    itself what there is to sync.
    """

    def __init__(self, checkpoint: Callable[[], None]) -> None:
        self._checkpoint = checkpoint
        self._requested = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def request(self) -> None:
        """Request a checkpoint; returns at once."""
        self._requested.set()
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._requested.wait()
            latest = time.monotonic() + DELAY_LIMIT_SECONDS
            while self._requested.is_set() and time.monotonic() < latest:
                self._requested.clear()
                time.sleep(QUIET_SECONDS)
            try:
                self._checkpoint()
            except OSError as error:
                _log.error("checkpoint failed, committed data is not on disk yet", why=error)
