"""Checkpoints happen in the background, after a burst of requests, and survive a failing disk."""

import errno
import threading

from cri_proxy.store.disk import checkpoints
from cri_proxy.telemetry import logs


def test_a_checkpoint_is_made_after_requests_and_again_after_a_failure(monkeypatch, caplog):
    monkeypatch.setattr(checkpoints, "QUIET_SECONDS", 0.0)
    made, outcomes = threading.Semaphore(0), [OSError(errno.EIO, "bad disk"), None]

    def checkpoint():
        made.release()
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    checkpointer = checkpoints.Checkpointer(checkpoint)
    checkpointer.request()
    assert made.acquire(timeout=60)
    checkpointer.request()
    assert made.acquire(timeout=60)

    assert not outcomes
    # Checkpoints of other tests may fail in the background as well: their disks are gone.
    assert any("bad disk" in logs.Text().format(each) for each in caplog.records)
