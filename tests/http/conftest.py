"""A site that plays its part, a client for it, and the store's fixtures of servers."""

import contextlib
import socket
import threading

import pytest

from cri_proxy.http.client import Client
from tests.store.conftest import certificate, closed_port, publisher, server

__all__ = ["certificate", "closed_port", "publisher", "server"]

WAIT_SECONDS = 60


class Site:
    """A server that plays what it is told to: a list of answers for each connection in turn."""

    def __init__(self, *plays):
        self.requests = []
        self.connections = 0
        self._plays = plays
        self.listener = socket.create_server(("127.0.0.1", 0))
        self._open = []
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        for play in self._plays:
            try:
                accepted, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(accepted)
            thread = threading.Thread(target=self._serve, args=(accepted, play))
            self._threads.append(thread)
            thread.start()

    def _serve(self, accepted, play):
        with contextlib.suppress(OSError), accepted:
            for answer in play:
                data = b""
                while b"\r\n\r\n" not in data:
                    piece = accepted.recv(65536)
                    if not piece:
                        return
                    data += piece
                self.requests.append(data)
                accepted.sendall(answer() if callable(answer) else answer)

    def await_end(self, number):
        """Wait until the client has closed a connection."""
        self._threads[number + 1].join(WAIT_SECONDS)
        assert not self._threads[number + 1].is_alive()

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for each in self._threads:
            each.join(WAIT_SECONDS)


@pytest.fixture
def site():
    """Makes a site of such plays."""
    with contextlib.ExitStack() as stack:

        def make(*plays):
            made = Site(*plays)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def ours():
    return Client(size=4, silence_seconds=WAIT_SECONDS, is_hedging=True)
