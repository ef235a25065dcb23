"""A wire: bytes that the kernel does not take at once, and ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from cri_proxy.router import wire
from cri_proxy.router.wire import Wire

DEADLINE = 30
PIECE = bytes(range(256)) * 256


@dataclass
class Owner:
    """Writes down what it is told."""

    told: list[str] = field(default_factory=list)
    got: bytearray = field(default_factory=bytearray)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    on_data: Callable[[], None] = lambda: None

    def received(self, data: bytes) -> None:
        self.got += data
        self.changed.set()
        self.on_data()

    def lost(self, side: int, wire: Wire, error: OSError | None) -> None:
        self._note(f"lost {side}" if error is None else f"broken {side}")

    def paused(self, side: int) -> None:
        self._note("paused")

    def resumed(self, side: int) -> None:
        self._note("resumed")

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not is_so():
                self.changed.clear()
                await self.changed.wait()

    def _note(self, what: str) -> None:
        self.told.append(what)
        self.changed.set()


def made(side: int = 1) -> tuple[Wire, Owner, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    ours.setblocking(False)
    theirs.setblocking(False)
    owner = Owner()
    return Wire(ours, side, owner, owner.received), owner, theirs


async def test_what_the_kernel_does_not_take_follows_in_order() -> None:
    loop = asyncio.get_running_loop()
    subject, owner, theirs = made()
    with theirs:
        for _ in range(64):
            subject.write(PIECE)
        assert owner.told == ["paused"]

        got = bytearray()
        while len(got) < 64 * len(PIECE):
            got += await asyncio.wait_for(loop.sock_recv(theirs, 1 << 20), DEADLINE)
        await owner.until(lambda: "resumed" in owner.told)

        assert got == PIECE * 64
        assert owner.told == ["paused", "resumed"]
        subject.abort()


async def test_wire_that_is_closed_writes_what_it_was_given() -> None:
    loop = asyncio.get_running_loop()
    subject, owner, theirs = made()
    with theirs:
        for _ in range(16):
            subject.write(PIECE)
        subject.close()
        subject.write(b"too late")
        got = bytearray()
        while data := await asyncio.wait_for(loop.sock_recv(theirs, 1 << 20), DEADLINE):
            got += data

        assert got == PIECE * 16
        await owner.until(lambda: "lost 1" in owner.told)


async def test_wire_that_pauses_leaves_what_arrives() -> None:
    subject, owner, theirs = made()
    with theirs:
        owner.on_data = subject.pause
        theirs.send(b"x" * wire.READ_BYTES)
        theirs.send(b"y")
        subject.read()
        await owner.until(lambda: bool(owner.got))
        assert b"y" not in owner.got

        owner.on_data = lambda: None
        subject.read()
        await owner.until(lambda: b"y" in owner.got)
        subject.abort()


async def test_end_is_told_once_and_not_from_within_a_call() -> None:
    subject, owner, theirs = made(2)
    theirs.close()
    subject.write(b"x")
    subject.write(b"x")
    subject.abort()
    subject.close()
    assert not owner.told

    await owner.until(lambda: bool(owner.told))
    await asyncio.sleep(0)
    assert owner.told == ["broken 2"]


async def test_peer_that_leaves_is_told() -> None:
    subject, owner, theirs = made()
    subject.read()
    theirs.send(b"last words")
    theirs.close()
    await owner.until(lambda: bool(owner.told))

    assert owner.told == ["lost 1"]
    assert owner.got == b"last words"
    assert subject.is_closing
