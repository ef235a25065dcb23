"""Edits to other programs' files: one flag, key or variable is set, all other bytes stay the same.

These are not parsers of YAML, TOML or shell: they find one line, in the few forms that programs and
people write it, and leave alone a file that has it in another form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable


def flag_of(words: Iterable[str], flag: str) -> str | None:
    """Return the value of the last `--flag` in a command line, None if there is none."""
    value = None
    is_next = False
    for word in words:
        if is_next:
            value, is_next = word, False
        elif word == f"--{flag}":
            is_next = True
        elif word.startswith(f"--{flag}="):
            value = word.partition("=")[2]
    return value


def with_flag(text: str, flag: str, value: str) -> str | None:
    """Return `text` with every `--flag` in it set to `value`, None if it has none."""
    pattern = re.compile(rf"(?<![\w-])(--{re.escape(flag)}(?:=|[ \t]+))([\"']?)([^\s\"']+)\2")
    changed, count = pattern.subn(rf"\g<1>\g<2>{value}\g<2>", text)
    return changed if count else None


def yaml_value(text: str, key: str) -> str | None:
    """Return the value of a top-level key of a YAML file, None if it is absent or empty."""
    found = re.search(rf"^{key}:[ \t]*([\"']?)([^\s\"'#]*)\1", text, re.MULTILINE)
    return found[2] or None if found else None


def with_yaml_value(text: str, key: str, value: str) -> str:
    """Return a YAML file with a top-level key set, in its line or else in a new last line."""
    pattern = re.compile(rf"^({key}:)[ \t]*([\"']?)[^\s\"'#]*\2", re.MULTILINE)
    changed, count = pattern.subn(rf"\g<1> {value}", text)
    return changed if count else _with_line(text, f"{key}: {value}")


def json_value(text: str, key: str) -> str | None:
    """Return the value of a top-level key of a JSON file, None if it is absent or empty."""
    value = json.loads(text).get(key)
    return value if isinstance(value, str) and value else None


def with_json_value(text: str, key: str, value: str) -> str:
    """Return a JSON file with a top-level key set; its other bytes stay as they are.

    Raises ValueError if the key is there in a form that cannot be changed.
    """
    wanted = {**json.loads(text), key: value}
    quoted = json.dumps(value)
    for match in re.finditer(rf'("{key}"\s*:\s*)"(?:[^"\\]|\\.)*"', text):
        changed = text[: match.start()] + match[1] + quoted + text[match.end() :]
        if json.loads(changed) == wanted:
            return changed
    head = re.match(r"\s*\{(\s*)", text)
    assert head is not None, "a JSON object begins with a brace"
    rest = text[head.end() :]
    comma = "" if rest.startswith("}") else ","
    changed = f'{text[: head.end()]}"{key}": {quoted}{comma}{head[1]}{rest}'
    if json.loads(changed) != wanted:
        raise ValueError(f"{key} has a form that cannot be edited")
    return changed


def with_toml_value(text: str, table: str, key: str, value: str) -> str:
    """Return a TOML file with a string added to a table, which must not have the key yet."""
    line = f"{key} = {json.dumps(value)}\n"
    header = re.compile(rf"^\[{table}\][^\n]*\n", re.MULTILINE)
    if match := header.search(text):
        return text[: match.end()] + line + text[match.end() :]
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return f"{text}{gap}[{table}]\n{line}"


def with_words(text: str, variable: str, words: str) -> str:
    """Return a file of shell assignments with `words` appended to a variable's value."""
    pattern = re.compile(rf"^({variable}=)(?:\"([^\"\n]*)\"|'([^'\n]*)'|([^\s\"']*))[ \t]*$", re.M)
    *_, last = [None, *pattern.finditer(text)]
    if last is None:
        return _with_line(text, f'{variable}="{words}"')
    old = next((each for each in last.groups()[1:] if each), "")
    longer = f"{old} {words}" if old else words
    return f'{text[: last.start()]}{last[1]}"{longer}"{text[last.end() :]}'


def _with_line(text: str, line: str) -> str:
    """Return a file with a line added at its end."""
    gap = "\n" if text and not text.endswith("\n") else ""
    return f"{text}{gap}{line}\n"
