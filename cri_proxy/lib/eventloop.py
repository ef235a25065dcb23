"""An asyncio event loop in a thread of its own, for programs whose other work is in threads.

Coroutines are submitted from any thread. The thread starts with the first of them, so that a
program that waits for nothing has none, and ends with the last reference to its `Loop`.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Loop:
    """An event loop (uvloop) and its thread; safe for threads."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_started(self) -> bool:
        """Whether a coroutine has been submitted."""
        return self._loop is not None

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the loop's thread; the future has its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.get())

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop's thread and return its result."""
        return self.submit(coroutine).result()

    def get(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, started if this is the first use."""
        with self._starting:
            if self._loop is None:
                import uvloop

                self._loop = uvloop.new_event_loop()
                threading.Thread(
                    target=_serve, args=(self._loop,), name="eventloop", daemon=True
                ).start()
                stop = weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)
                stop.atexit = False
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(asyncio.sleep(0))  # for transports that have just been closed
    loop.close()
