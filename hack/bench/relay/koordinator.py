"""koordinator's koord-runtime-proxy, a CRI proxy as ours is: one more side, if it can be built.

It decodes CRI calls and makes new ones without their metadata, so that the runtime does not learn
the requested size of an answer: in its rounds, all answers are empty. It creates a directory in
/etc under a fixed name, and so runs with an /etc of its own.

It is built once, which takes minutes, and kept with the other programs that tests use.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Final

from hack.bench.figures import Options
from hack.testbed import binaries

NAME: Final = "koord-runtime-proxy"
MODULE: Final = "github.com/koordinator-sh/koordinator"
VERSION: Final = "v1.6.0"
_LONGEST_SECONDS: Final = 3600
_WITH_OWN_ETC: Final = 'mount -t tmpfs tmpfs /etc && exec "$0" "$@"'


def built(options: Options) -> Path | None:
    """Return the program; log why and return None if it cannot be built."""
    program = binaries.cache() / "koordinator" / VERSION / NAME
    if program.exists():
        return program
    options.log(f"building {NAME} {VERSION} (takes minutes)")
    program.parent.mkdir(parents=True, exist_ok=True)
    made = program.with_suffix(f".{os.getpid()}")
    try:
        found = _go("mod", "download", "-json", f"{MODULE}@{VERSION}", cwd=program.parent)
        source = Path(json.loads(found)["Dir"])
        _go("build", "-trimpath", "-ldflags=-s -w", "-o", str(made), f"./cmd/{NAME}", cwd=source)
        made.rename(program)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or getattr(error, "stdout", None) or error
        options.log(f"skipping {NAME}, which could not be built: {str(reason).strip()[-300:]}")
        return None
    return program


def argv(program: Path, socket: Path, runtime: Path) -> list[str]:
    """Return the argument list for serving at `socket`, in front of a running runtime."""
    return [
        *("unshare", "--map-root-user", "--mount", "sh", "-c", _WITH_OWN_ETC, str(program)),
        f"--koord-runtimeproxy-endpoint={socket}",
        f"--remote-runtime-service-endpoint={runtime}",
    ]


def _go(*arguments: str, cwd: Path) -> str:
    """Return the output of a go command; the module is used without changes."""
    return subprocess.run(
        ["nice", "go", *arguments],
        cwd=cwd,
        env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"},
        capture_output=True,
        text=True,
        check=True,
        timeout=_LONGEST_SECONDS,
    ).stdout
