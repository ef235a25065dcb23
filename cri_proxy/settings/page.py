"""The settings as text: docs/settings.md and the answer to --help-settings.

Both are written from the table, so they cannot lag behind it. The page is committed and a test
compares it; write it anew with

    python -m cri_proxy.settings.page > docs/settings.md
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from typing import Final

from cri_proxy.settings import keys

_WIDTH: Final = 100
_HEAD: Final = """\
# Settings

<!-- Written by `python -m cri_proxy.settings.page` from cri_proxy/settings/schema.py. -->

A value comes from the first of these that has one:

1. the command line: key `drain_seconds` of section `serve` is `--set serve.drain_seconds=...`
2. the environment: the same key is `CRI_PROXY_SERVE_DRAIN_SECONDS`
3. the file: `drain_seconds` below `[serve]` in `/etc/cri-proxy/config.toml`, or in the file that
   `--config` or `CRI_PROXY_CONFIG` names, which must exist then
4. the default

In the environment and after `--set` the elements of a list stand between commas or spaces, and
those of a table are written `name=value`. `--set` may be repeated: lists and tables are joined, of
other values the last one counts. Unknown sections, keys and variables and invalid values are
refused: `cri-proxy check` reports all of them at once, and where each value came from.
"""


def markdown() -> str:
    """Return docs/settings.md: a table per section, then a whole file with the defaults."""
    return "\n".join([_HEAD, *_tables(), "## A file with every default", "", *_file(), ""])


def listing() -> str:
    """Return every setting for a terminal, four lines or more each."""
    lines = []
    for section, table in keys.SECTIONS.items():
        lines += [f"[{section}]  {_doc_of(table)}", ""]
        for key in _keys_of(section):
            lines.append(f"  {key}   {key.variable}")
            lines += _wrapped(key.about, 6)
            lines += _wrapped(f"accepts {key.kind.accepted}", 6)
            lines += [*_wrapped(f"default {keys.toml_of(key.default)}", 6), ""]
    return "\n".join(lines[:-1])


def _tables() -> Iterator[str]:
    for section, table in keys.SECTIONS.items():
        yield f"## [{section}]\n\n{_doc_of(table)}\n"
        yield "| key | meaning | accepts | default |\n| --- | --- | --- | --- |"
        for key in _keys_of(section):
            cells = (f"`{key.name}`", key.about, key.kind.accepted, _default_of(key))
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
        yield ""


def _file() -> Iterator[str]:
    yield "```toml"
    for section in keys.SECTIONS:
        yield f"[{section}]"
        for key in _keys_of(section):
            yield f"{key.name} = {keys.toml_of(key.default)}"
        yield ""
    yield "```"


def _default_of(key: keys.Key) -> str:
    """Return a default for a table's cell, each element of a list on a line of its own."""
    match key.default:
        case list() as elements:
            return "<br>".join(f"`{keys.toml_of(each)}`" for each in elements)
        case dict() as table:
            return "<br>".join(f"`{name} = {keys.toml_of(each)}`" for name, each in table.items())
        case value:
            return f"`{keys.toml_of(value)}`"


def _keys_of(section: str) -> list[keys.Key]:
    return [key for key in keys.KEYS if key.section == section]


def _doc_of(table: type) -> str:
    return (table.__doc__ or "").strip()


def _wrapped(text: str, indent: int) -> list[str]:
    """Return `text` in lines of the page's width; a long word, such as a key, stays whole."""
    margin = " " * indent
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=margin,
        subsequent_indent=margin + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


if __name__ == "__main__":
    sys.stdout.write(markdown())
