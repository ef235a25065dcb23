"""Container logs in the format that the CRI prescribes.

One line of the file is `<time> <stream> <tags> <content>`: the stream is `stdout` or `stderr`,
the first tag `F` (the line is complete) or `P` (it goes on in the next entry of that stream).
From kubernetes/design-proposals-archive, node/kubelet-cri-logging.md.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Logs:
    """The output of a container by stream; every complete line ends with a newline."""

    stdout: bytes
    stderr: bytes


def parse(content: bytes) -> Logs:
    """Return the two streams of a log file, without an incomplete last entry."""
    streams: dict[bytes, list[bytes]] = {b"stdout": [], b"stderr": []}
    for entry in content.split(b"\n")[:-1]:
        _, stream, tags, text = entry.split(b" ", 3)
        is_whole = tags.split(b":")[0] == b"F"
        streams[stream].append(text + b"\n" * is_whole)
    return Logs(b"".join(streams[b"stdout"]), b"".join(streams[b"stderr"]))
