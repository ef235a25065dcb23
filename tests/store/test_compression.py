"""Every compression of binary caches, whole, in parts and broken."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.store import compression

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS = {
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),
    "gzip": lambda data: gzip.compress(data, 1),
    "bzip2": bz2.compress,
    "none": bytes,
}
REAL = [name for name in compression.NAMES if name != "none"]
SMALL = b"what the archive holds, " * 40
MIXED = os.urandom(300_000) + bytes(700_000) + SMALL * 1000


class Dripping(io.BytesIO):
    """A source that gives a few bytes at a time."""

    def read(self, size=-1):
        return super().read(min(size, 7))


def read(data, name, *, size=65536, source=io.BytesIO):
    """Return all that a reader gives."""
    reader = compression.reader_of(source(data), name, label="/nix/store/x from https://cache")
    pieces = []
    while piece := reader.read(size):
        assert len(piece) <= size
        pieces.append(piece)
    assert reader.read(size) == b""
    return b"".join(pieces)


def refusal(data, name):
    with pytest.raises(errors.ContentDamaged) as caught:
        read(data, name)
    assert "/nix/store/x from https://cache" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", compression.NAMES)
@pytest.mark.parametrize("data", [b"", b"x", SMALL, MIXED], ids=["empty", "byte", "small", "mixed"])
def test_contents_come_back(name, data):
    assert read(COMPRESS[name](data), name) == data


@pytest.mark.parametrize("name", compression.NAMES)
@pytest.mark.parametrize("size", [1, 1000])
def test_contents_come_back_in_pieces_of_any_size(name, size):
    assert read(COMPRESS[name](SMALL), name, size=size) == SMALL


@pytest.mark.parametrize("name", compression.NAMES)
def test_source_may_give_few_bytes_at_a_time(name):
    assert read(COMPRESS[name](SMALL), name, source=Dripping) == SMALL


@pytest.mark.parametrize("name", REAL)
def test_streams_one_after_another_are_one(name):
    """As pxz, pigz, lbzip2 and pzstd write them."""
    parts = [SMALL, b"", MIXED, b"end"]

    assert read(b"".join(map(COMPRESS[name], parts)), name) == b"".join(parts)


@pytest.mark.parametrize("name", REAL)
def test_stream_that_breaks_off_anywhere_is_damaged(name):
    """Also behind the last byte of contents, where only the check sum is missing."""
    data = COMPRESS[name](SMALL)
    for end in range(len(data)):
        refusal(data[:end], name)


@pytest.mark.parametrize("name", REAL)
def test_second_stream_that_breaks_off_is_damaged(name):
    data = COMPRESS[name](SMALL)

    refusal(data + data[:-1], name)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("garbage", [b"x", b"garbage behind the end", b"\0", b"\0" * 5])
def test_garbage_behind_the_end_is_damage(name, garbage):
    refusal(COMPRESS[name](SMALL) + garbage, name)


@pytest.mark.parametrize("name", REAL)
def test_other_bytes_are_damage(name):
    refusal(b"<html>Not found</html>", name)


@pytest.mark.parametrize("name", ["xz", "zstd", "gzip", "bzip2"])
def test_contents_that_do_not_match_the_check_sum_are_damage(name):
    data = bytearray(COMPRESS[name](os.urandom(1000)))
    data[500] ^= 1

    refusal(bytes(data), name)


def test_padding_of_xz_is_passed():
    """Whole groups of four zeros may stand between streams and behind the last."""
    data = lzma.compress(SMALL)

    assert read(data + bytes(8) + data + bytes(4), "xz") == SMALL + SMALL
    assert read(data + bytes(100_000), "xz") == SMALL


def test_skippable_frames_of_zstd_are_passed():
    skippable = b"\x5a\x2a\x4d\x18" + (100_000).to_bytes(4, "little") + bytes(100_000)
    frame = zstd.compress(SMALL)

    assert read(skippable + frame + skippable + frame + skippable, "zstd") == SMALL * 2


@pytest.mark.parametrize("lacking", ["content_size_flag", "checksum_flag"])
def test_zstd_frames_may_lack_what_is_optional(lacking):
    options = {zstd.CompressionParameter[lacking]: 0}

    assert read(zstd.compress(MIXED, options=options), "zstd") == MIXED


def test_zstd_frames_of_unknown_size_are_read():
    """As every compressor writes that does not know the end when it begins."""
    compressor = zstd.ZstdCompressor(level=19)

    assert read(compressor.compress(MIXED) + compressor.flush(), "zstd") == MIXED


def test_unknown_compression_is_refused_by_its_name():
    assert "'br': publish it with one of xz" in refusal(b"", "br")


def test_xz_that_needs_too_much_memory_is_refused():
    """A block's header tells the size of its dictionary in the byte behind 0x21 0x01."""
    data = bytearray(lzma.compress(SMALL))
    data[data.index(b"\x21\x01") + 2] = 34  # 512 MiB
    data[20:24] = zlib.crc32(data[12:20]).to_bytes(4, "little")

    assert "Memory usage limit" in refusal(bytes(data), "xz")


@pytest.mark.parametrize("preset", [6, 9])
def test_xz_of_the_usual_presets_is_read(preset):
    assert read(lzma.compress(SMALL, preset=preset), "xz") == SMALL


def zstd_frame(window_log):
    """A frame that claims a window, with one raw block."""
    window = (window_log - 10 << 3).to_bytes(1, "little")
    return b"\x28\xb5\x2f\xfd" + b"\0" + window + (5 << 3 | 1).to_bytes(3, "little") + b"small"


def test_zstd_that_needs_too_large_a_window_is_refused():
    assert read(zstd_frame(27), "zstd") == b"small"
    assert "memory" in refusal(zstd_frame(28), "zstd")


@pytest.mark.parametrize("name", ["zstd", "gzip", "bzip2", "xz"])
def test_little_that_holds_much_does_not_cost_memory(name):
    """Two hundred megabytes of zeros are read in a process that may not grow by half of that."""
    program = (
        "import io, resource, sys\n"
        "from cri_proxy.store import compression\n"
        "data = sys.stdin.buffer.read()\n"
        f"reader = compression.reader_of(io.BytesIO(data), {name!r}, label='x')\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "bound = pages * resource.getpagesize() + 100_000_000\n"
        "resource.setrlimit(resource.RLIMIT_AS, (bound, bound))\n"
        "size = 0\n"
        "while piece := reader.read(65536):\n"
        "    size += len(piece)\n"
        "print(size)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        input=COMPRESS[name](bytes(200_000_000)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=120,
        check=False,
    )

    assert (finished.stdout, finished.stderr) == (b"200000000\n", b"")


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(REAL), st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_as_damaged(name, data):
    refusal(data, name)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(REAL), st.integers(0, 10_000), st.integers(1, 255))
def test_altered_streams_give_the_contents_or_are_refused_as_damaged(name, position, change):
    data = bytearray(COMPRESS[name](SMALL))
    data[position % len(data)] ^= change
    try:
        plain = read(bytes(data), name)
    except errors.ContentDamaged:
        return

    assert plain == SMALL
