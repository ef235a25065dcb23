"""The lower bound for any store: decompression, hashing and writing alone.

    python hack/bench/store/bare.py JSON
        {"shares": [[[archive, bytes unpacked], ...], ...], "target", "files": of each archive}

Each process gets a share of the zstd archives: it decompresses them with the library that we use,
hashes the output, and writes it in pieces below `target`. Nothing is parsed, verified or moved into
place. The output is the seconds that this took.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Final

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CHUNK_BYTES: Final = 512 * 1024
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def main() -> None:
    """Run once."""
    request = json.loads(sys.argv[1])
    begun = time.perf_counter()
    children = [
        _started(share, Path(request["target"]), request["files"]) for share in request["shares"]
    ]
    failed = [child for child in children if os.waitpid(child, 0)[1]]
    print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
    sys.exit(bool(failed))


def _started(share: list[tuple[str, int]], target: Path, files: int) -> int:
    """Start a process for a share; return its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for archive, size in share:
                _unpack(Path(archive), target / Path(archive).name, max(1, size // files))
            status = 0
        finally:
            os._exit(status)
    return child


def _unpack(archive: Path, directory: Path, size: int) -> None:
    """Write the content of an archive, in files of the given size."""
    directory.mkdir()
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with archive.open("rb") as file:
        number, room, opened = 0, 0, -1
        reader = zstd.ZstdFile(file)
        while count := reader.readinto(buffer):
            digest.update(buffer[:count])
            rest = buffer[:count]
            while rest:
                if not room:
                    _finish(opened)
                    opened = os.open(f"{number}", _CREATE, 0o444, dir_fd=place)
                    number, room = number + 1, size
                written = os.write(opened, rest[:room])
                rest, room = rest[written:], room - written
    _finish(opened)
    os.close(place)


def _finish(opened: int) -> None:
    """Close a file, if one is open."""
    if opened >= 0:
        os.utime(opened, ns=(1, 1))
        os.close(opened)


if __name__ == "__main__":
    main()
