"""A socket transport: bytes that the kernel does not accept at once, and ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from cri_proxy.router import sockettransport
from cri_proxy.router.sockettransport import SocketTransport

DEADLINE = 30
PIECE = bytes(range(256)) * 256


@dataclass
class Owner:
    """Records what it is notified of."""

    events: list[str] = field(default_factory=list)
    got: bytearray = field(default_factory=bytearray)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    on_data: Callable[[], None] = lambda: None

    def received(self, data: bytes) -> None:
        self.got += data
        self.changed.set()
        self.on_data()

    def lost(self, transport: SocketTransport, error: OSError | None) -> None:
        self.note("lost" if error is None else "broken")

    def note(self, event: str) -> None:
        self.events.append(event)
        self.changed.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not is_so():
                self.changed.clear()
                await self.changed.wait()


def made() -> tuple[SocketTransport, Owner, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    ours.setblocking(False)
    theirs.setblocking(False)
    owner = Owner()
    transport = SocketTransport(
        ours,
        owner.received,
        on_full=lambda: owner.note("paused"),
        on_room=lambda: owner.note("resumed"),
        on_lost=owner.lost,
    )
    return transport, owner, theirs


async def test_what_the_kernel_does_not_accept_at_once_follows_in_order() -> None:
    loop = asyncio.get_running_loop()
    subject, owner, theirs = made()
    with theirs:
        for _ in range(64):
            subject.write(PIECE)
        assert owner.events == ["paused"]

        got = bytearray()
        while len(got) < 64 * len(PIECE):
            got += await asyncio.wait_for(loop.sock_recv(theirs, 1 << 20), DEADLINE)
        await owner.until(lambda: "resumed" in owner.events)

        assert got == PIECE * 64
        assert owner.events == ["paused", "resumed"]
        subject.abort()


async def test_closed_transport_writes_what_is_buffered() -> None:
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
        await owner.until(lambda: "lost" in owner.events)


async def test_paused_transport_does_not_read() -> None:
    subject, owner, theirs = made()
    with theirs:
        owner.on_data = subject.pause
        theirs.send(b"x" * sockettransport.READ_BYTES)
        theirs.send(b"y")
        subject.read()
        await owner.until(lambda: bool(owner.got))
        assert b"y" not in owner.got

        owner.on_data = lambda: None
        subject.read()
        await owner.until(lambda: b"y" in owner.got)
        subject.abort()


async def test_end_is_notified_once_and_not_from_within_a_call() -> None:
    subject, owner, theirs = made()
    theirs.close()
    subject.write(b"x")
    subject.write(b"x")
    subject.abort()
    subject.close()
    assert not owner.events

    await owner.until(lambda: bool(owner.events))
    await asyncio.sleep(0)
    assert owner.events == ["broken"]


async def test_end_by_the_peer_is_notified_after_its_last_bytes() -> None:
    subject, owner, theirs = made()
    subject.read()
    theirs.send(b"last words")
    theirs.close()
    await owner.until(lambda: bool(owner.events))

    assert owner.events == ["lost"]
    assert owner.got == b"last words"
    assert subject.is_closing
