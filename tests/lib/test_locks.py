"""Two holders exclude each other, in threads and in processes, and a lock ends with its holder."""

import contextlib
import fcntl
import hashlib
import os
import struct
import subprocess
import sys
import threading

import pytest

from cri_proxy.lib import locks


@contextlib.contextmanager
def another_process(statement, path):
    """Run a statement that assigns `lock` in another process; yield what it took, kill it."""
    program = (
        f"import pathlib, sys; from cri_proxy.lib import locks; {statement};"
        "print('excluded' if lock is None else 'held', flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        yield holder.stdout.readline().decode().strip()
        holder.kill()


def most_at_once(tmp_path, takers):
    """Lock and release 200 times in one thread per taker; return how many were inside at once."""
    inside, most = [0], [0]

    def run(take):
        for _ in range(200):
            while (release := take()) is None:
                pass
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            tmp_path.stat()  # lets other threads run
            inside[0] -= 1
            release()

    threads = [threading.Thread(target=run, args=(take,)) for take in takers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return most[0]


def test_file_has_one_holder_and_is_gone_afterwards(tmp_path):
    path = tmp_path / "lock"
    first = locks.file(path)

    assert first is not None
    assert locks.file(path) is None
    first.release()
    assert not path.exists()
    second = locks.file(path)
    assert second is not None
    second.release()


def test_kept_file_stays_and_is_locked_again(tmp_path):
    path = tmp_path / "lock"
    for _ in range(2):
        lock = locks.file(path, is_kept=True)
        assert lock is not None
        lock.release()
        assert path.exists()


@pytest.mark.parametrize("is_kept", [True, False])
def test_waiting_ends_with_the_release(tmp_path, is_kept):
    path, got_it = tmp_path / "lock", threading.Event()

    def wait():
        lock = locks.file(path, is_waiting=True, is_kept=is_kept)
        got_it.set()
        lock.release()

    first = locks.file(path, is_kept=is_kept)
    waiter = threading.Thread(target=wait)
    waiter.start()
    assert not got_it.is_set()
    first.release()

    assert got_it.wait(60)
    waiter.join(60)


def test_file_excludes_through_all_its_removals(tmp_path):
    """Each release removes the file; the lock of a removed one must never count."""
    path = tmp_path / "lock"

    def take():
        lock = locks.file(path)
        return None if lock is None else lock.release

    assert most_at_once(tmp_path, [take] * 4) == 1
    assert not path.exists()


def test_file_is_free_after_its_holder_was_killed(tmp_path):
    path = tmp_path / "lock"
    with another_process("lock = locks.file(sys.argv[1])", path) as found:
        assert found == "held"
        assert locks.file(path) is None

    lock = locks.file(path)
    assert lock is not None
    lock.release()


def test_release_frees_a_file_that_a_child_has_inherited(tmp_path):
    """Between fork and exec a child has all descriptors of its parent."""
    path = tmp_path / "lock"
    lock = locks.file(path, is_kept=True)
    copies = [os.dup(each) for each in descriptors_of(path)]
    lock.release()

    assert len(copies) == 1
    again = locks.file(path)
    assert again is not None
    again.release()
    os.close(copies[0])


def descriptors_of(path):
    """Return this process's open descriptors of a file."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{name}") == str(path):
                found.append(int(name))
    return found


def test_file_excludes_a_daemon_of_another_release(tmp_path):
    """Two releases run side by side during an upgrade: flock(2) on this very file is their pact."""
    path = tmp_path / "lock"
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert locks.file(path) is None
        path.unlink()  # as a release does, before it closes the file
    lock = locks.file(path)

    assert lock is not None
    with path.open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock.release()


def test_directory_is_shared_or_exclusive(tmp_path):
    shared = [locks.directory(tmp_path, is_shared=True) for _ in range(2)]

    assert None not in shared
    shared[0].release()
    assert locks.directory(tmp_path, is_shared=False) is None
    shared[1].release()
    alone = locks.directory(tmp_path, is_shared=False)
    assert alone is not None
    assert locks.directory(tmp_path, is_shared=True) is None
    alone.release()
    assert list(tmp_path.iterdir()) == []


def test_directory_that_is_absent_cannot_be_locked(tmp_path):
    with pytest.raises(FileNotFoundError):
        locks.directory(tmp_path / "absent", is_shared=True)


def test_directory_that_was_replaced_is_locked_at_its_place(tmp_path, monkeypatch):
    """The lock of a directory that has been renamed away would exclude no one."""
    place = tmp_path / "place"
    place.mkdir()
    flock = fcntl.flock

    def replace_first(descriptor, operation):
        if not (tmp_path / "gone").exists():
            place.rename(tmp_path / "gone")
            place.mkdir()
        flock(descriptor, operation)

    monkeypatch.setattr(locks.fcntl, "flock", replace_first)
    lock = locks.directory(place, is_shared=True)

    assert locks.directory(place, is_shared=False) is None
    assert locks.directory(tmp_path / "gone", is_shared=False) is not None
    lock.release()


def test_names_are_each_held_by_one(tmp_path):
    ours, others = locks.Names(tmp_path / "locks"), locks.Names(tmp_path / "locks")
    first = ours.acquire("first")

    assert first is not None
    assert ours.acquire("first") is None  # of the same thread
    assert others.acquire("first") is None  # as if of another process
    second = others.acquire("second")
    assert second is not None
    assert ours.acquire("second") is None

    ours.release(first)
    again = others.acquire("first")
    assert again is not None
    assert ours.acquire("first") is None
    others.release(second)
    assert ours.acquire("first") is None
    others.release(again)


def test_nothing_is_open_while_no_name_is_locked(tmp_path):
    names = locks.Names(tmp_path / "locks")
    before = set(os.listdir("/proc/self/fd"))
    for name in ("one", "two"):
        held = names.acquire(name)
        assert len(os.listdir("/proc/self/fd")) == len(before) + 1
        names.release(held)

    assert set(os.listdir("/proc/self/fd")) == before


def test_names_exclude_threads(tmp_path):
    def taker(names):
        def take():
            held = names.acquire("name")
            return None if held is None else lambda: names.release(held)

        return take

    shared = [taker(locks.Names(tmp_path / "locks")) for _ in range(2)]

    assert most_at_once(tmp_path, shared * 2) == 1


def test_name_is_free_after_its_holder_was_killed(tmp_path):
    path = tmp_path / "locks"
    names = locks.Names(path)
    statement = "names = locks.Names(sys.argv[1]); lock = names.acquire('name')"
    with another_process(statement, path) as found:
        assert found == "held"
        assert names.acquire("name") is None

    held = names.acquire("name")
    assert held is not None
    names.release(held)


def test_name_excludes_a_daemon_of_another_release(tmp_path):
    """The byte that stands for a name is the same in every release."""
    path = tmp_path / "locks"
    digest = hashlib.blake2b(b"name", digest_size=8).digest()
    byte = struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, int.from_bytes(digest) >> 2, 1, 0)
    names = locks.Names(path)
    with path.open("w") as other:
        fcntl.fcntl(other, fcntl.F_OFD_SETLK, byte)
        assert names.acquire("name") is None
    held = names.acquire("name")

    assert held is not None
    with path.open("w") as other, pytest.raises(BlockingIOError):
        fcntl.fcntl(other, fcntl.F_OFD_SETLK, byte)
    names.release(held)
