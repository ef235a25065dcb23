"""A reproducible tar archive: entries are sorted, owned by root, and have one timestamp."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path


def pack(directory: Path, place: Path, *, epoch: int) -> None:
    """Write `directory`, under its own name, to the .tar.gz file `place`."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = epoch
        if not member.issym():
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    with (
        place.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for path in [directory, *sorted(directory.rglob("*"))]:
            name = path.relative_to(directory.parent)
            archive.add(path, arcname=str(name), recursive=False, filter=plain)
