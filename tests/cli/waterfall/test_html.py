"""The page, as text and as a real browser shows it."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from cri_proxy.cli.waterfall import html
from cri_proxy.model.traces import StoredTrace
from hack.testbed import startups

SECONDS = 120
_CLICK = "<script>document.querySelectorAll('.tools button')[1].click()</script></body>"


@pytest.fixture
def browser() -> str:
    """A browser that runs without a screen."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        reason = "this machine lacks chromium: run hack/prerequisites.sh test"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


def run(browser: str, directory: Path, text: str, *arguments: str) -> str:
    """Open a page and return what the browser writes to standard output."""
    place = directory / "page.html"
    place.write_text(text, encoding="utf-8")
    argv = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    argv += [f"--user-data-dir={directory / 'profile'}", "--window-size=1200,900", *arguments]
    done = subprocess.run(
        [*argv, place.as_uri()], capture_output=True, text=True, timeout=SECONDS, check=True
    )
    return done.stdout


def pixels(browser: str, directory: Path, text: str, *arguments: str) -> set[tuple[int, ...]]:
    """Return the colours of a page's picture."""
    picture = directory / "picture.png"
    run(browser, directory, text, f"--screenshot={picture}", *arguments)
    return _colours(picture.read_bytes())


def bars(document: str) -> list[tuple[float, float]]:
    """Return left and width of every bar, in percent."""
    found = re.findall(r'class="bar"[^>]*style="left: ?([\d.e-]+)%; ?width: ?([\d.e-]+)%', document)
    return [(float(left), float(width)) for left, width in found]


def test_everything_is_in_the_file_and_nothing_is_loaded() -> None:
    text = html.of_traces([startups.startup()])

    assert "shop/web" in text
    assert not re.search(r"(?:src|href)\s*=|@import|url\(|fetch\(|https?://", text)
    assert "default-src 'none'" in text


def test_what_a_span_says_is_text() -> None:
    whole = startups.startup()
    evil = dataclasses.replace(
        whole.spans[2], name="<script>alert(1)</script>", attributes={'"><b>': "</dd><img>"}
    )

    text = html.of_traces([StoredTrace(whole.startup, (*whole.spans[:2], evil, *whole.spans[3:]))])

    assert "<script>alert" not in text
    assert "<img>" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_node_without_startups_has_a_page_too() -> None:
    assert "No startup is recorded on this node yet." in html.of_traces([])


def test_a_browser_shows_every_span_to_scale(browser: str, tmp_path: Path) -> None:
    trace = startups.startup()

    document = run(browser, tmp_path, html.of_traces([trace]), "--dump-dom")

    found = bars(document)
    assert '<body class="script">' in document  # the script has run to its end
    assert document.count('class="tools"') == 1
    assert len(found) == len(trace.spans)
    assert found[0] == (0, 100)
    assert all(0 <= left <= 100 and left + width <= 100.01 for left, width in found)


def test_zooming_in_makes_the_bars_longer(browser: str, tmp_path: Path) -> None:
    text = html.of_traces([startups.startup()]).replace("</body>", _CLICK)

    document = run(browser, tmp_path, text, "--dump-dom")

    assert bars(document)[0] == (-50, 200)


def test_what_is_noted_of_a_bar_never_hides_one(browser: str, tmp_path: Path) -> None:
    document = run(browser, tmp_path, html.of_traces([startups.startup()]), "--dump-dom")

    within = re.findall(r'<span class="note within"[^>]*>([^<]*)', document)
    assert "acme/web:7, fetched 120 of 300 paths, 1.2 GB in total" in within
    (refused,) = re.findall(r'<span class="note"[^>]*style="([^"]*)"[^>]*>UNAVAILABLE', document)
    assert re.search(r"left: [\d.]+%; right: auto", refused)


@pytest.mark.parametrize(
    ("arguments", "paper", "server"),
    [
        ((), (255, 255, 255), (0x0E, 0x74, 0x90)),
        (("--blink-settings=preferredColorScheme=0",), (0x12, 0x16, 0x1C), (0x37, 0xB3, 0xCF)),
    ],
    ids=["light", "dark"],
)
def test_a_browser_shows_it_in_light_and_dark(
    browser: str,
    tmp_path: Path,
    arguments: tuple[str, ...],
    paper: tuple[int, ...],
    server: tuple[int, ...],
) -> None:
    colours = pixels(browser, tmp_path, html.of_traces([startups.startup()]), *arguments)

    assert {paper, server} <= colours


def _colours(png: bytes) -> set[tuple[int, ...]]:
    """Return the colours of an 8-bit RGB or RGBA picture, by its specification (RFC 2083)."""
    at, data, width, channels = 8, b"", 0, 3
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, _, depth, colour = struct.unpack_from(">IIBB", body)
            assert depth == 8
            channels = {2: 3, 6: 4}[colour]
        elif kind == b"IDAT":
            data += body
        at += length + 12
    raw = zlib.decompress(data)
    stride = width * channels
    above = bytearray(stride)
    found: set[tuple[int, ...]] = set()
    for start in range(0, len(raw), stride + 1):
        line = bytearray(raw[start + 1 : start + 1 + stride])
        _unfilter(raw[start], line, above, channels)
        found.update(zip(line[0::channels], line[1::channels], line[2::channels]))
        above = line
    return found


def _unfilter(kind: int, line: bytearray, above: bytearray, step: int) -> None:
    for at in range(len(line)):
        left = line[at - step] if at >= step else 0
        up, corner = above[at], above[at - step] if at >= step else 0
        match kind:
            case 1:
                guess = left
            case 2:
                guess = up
            case 3:
                guess = (left + up) // 2
            case 4:
                near = left + up - corner
                guess = min((left, up, corner), key=lambda each: abs(near - each))
            case _:
                return
        line[at] = (line[at] + guess) & 0xFF
