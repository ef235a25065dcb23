"""A web site with a single answer, for tests of programs that make HTTP and TLS requests.

    with Site() as site:
        site.status = 503
        ...
        assert site.asked == [("/nix-cache-info", None)]

It answers as a binary cache does, until `body` is changed.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Final

from hack.testbed.web import Request, Server, Status

CACHE: Final = b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n"


class Site(Server):
    """A site on 127.0.0.1 with one answer; its clock is off by `skew` seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 200
        self.body = CACHE
        self.skew = 0.0

    @property
    def asked(self) -> list[tuple[str, str | None]]:
        """The paths of all requests, each with the Authorization header that came with it."""
        return [(each.path, each.headers.get("authorization")) for each in self.requests]

    def answer(self, request: Request) -> Status:
        """Return the one answer."""
        date = formatdate(time.time() + self.skew, usegmt=True)
        return Status(self.status, self.body, {"Date": date})
