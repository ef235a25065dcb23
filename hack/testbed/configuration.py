"""The configuration file of a private containerd, as text.

There are two dialects: version 2 for containerd 1.6 and 1.7, where one plugin is the whole CRI, and
version 3 for 2.x, where it is divided into images and runtime. In both, all files are below one
directory, images come from `ctr import` or from the configured registries, and runc is the only
runtime, with any number of handler names.

The module only decides: `containerd` finds out what the machine supports (overlayfs, OOM scores).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The settings that differ between machines and tests."""

    directory: Path
    runc: Path
    cni_plugins: Path
    sandbox_image: str
    snapshotter: str
    handlers: Sequence[str]  # the first one is the default
    is_oom_score_restricted: bool
    registries: Path | None = None  # a directory of containerd's hosts.toml files


def text_of(choices: Choices, *, major: int) -> str:
    """Return the file for containerd `major`.x."""
    return _version_2(choices) if major < 2 else _version_3(choices)


def _version_2(choices: Choices) -> str:
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""\
version = 2
{_common(choices)}
[{cri}]
  sandbox_image = {_quoted(choices.sandbox_image)}
  restrict_oom_score_adj = {_quoted(choices.is_oom_score_restricted)}
  netns_mounts_under_state_dir = true
{_registries(cri, choices)}[{cri}.cni]
  bin_dir = {_quoted(choices.cni_plugins)}
  conf_dir = {_quoted(choices.directory / "cni")}
[{cri}.containerd]
  snapshotter = {_quoted(choices.snapshotter)}
  default_runtime_name = {_quoted(choices.handlers[0])}
{_handlers(cri, choices)}"""


def _version_3(choices: Choices) -> str:
    images = 'plugins."io.containerd.cri.v1.images"'
    runtime = 'plugins."io.containerd.cri.v1.runtime"'
    return f"""\
version = 3
{_common(choices)}
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[{images}]
  snapshotter = {_quoted(choices.snapshotter)}
[{images}.pinned_images]
  sandbox = {_quoted(choices.sandbox_image)}
[{runtime}]
  restrict_oom_score_adj = {_quoted(choices.is_oom_score_restricted)}
  netns_mounts_under_state_dir = true
{_registries(images, choices)}[{runtime}.cni]
  bin_dir = {_quoted(choices.cni_plugins)}
  conf_dir = {_quoted(choices.directory / "cni")}
[{runtime}.containerd]
  default_runtime_name = {_quoted(choices.handlers[0])}
{_handlers(runtime, choices)}"""


def _common(choices: Choices) -> str:
    return f"""\
root = {_quoted(choices.directory / "root")}
state = {_quoted(choices.directory / "state")}
[grpc]
  address = {_quoted(choices.directory / "containerd.sock")}
[plugins."io.containerd.internal.v1.opt"]
  path = {_quoted(choices.directory / "opt")}
"""


def _registries(plugin: str, choices: Choices) -> str:
    if choices.registries is None:
        return ""
    return f"[{plugin}.registry]\n  config_path = {_quoted(choices.registries)}\n"


def _handlers(plugin: str, choices: Choices) -> str:
    return "".join(
        f"""\
[{plugin}.containerd.runtimes.{_quoted(name)}]
  runtime_type = "io.containerd.runc.v2"
[{plugin}.containerd.runtimes.{_quoted(name)}.options]
  BinaryName = {_quoted(choices.runc)}
  Root = {_quoted(choices.directory / "runc")}
"""
        for name in choices.handlers
    )


def _quoted(value: str | Path | bool) -> str:
    """Return a TOML value; JSON's strings and booleans are TOML's, too."""
    return json.dumps(value if isinstance(value, bool) else str(value))
