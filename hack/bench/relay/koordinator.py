"""koordinator's koord-runtime-proxy, which stands where ours does: one more side, if it can be had.

It decodes the CRI's calls and makes them anew, without their metadata, so our runtime is never told
how long an answer is to be: with it in a round, all answers are empty. It makes a directory in
/etc, of a name that cannot be chosen, and gets an /etc of its own for that.

It is built once, in minutes, and kept beside the other programs that tests are made with.
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
    """Return the program, or None, said, if it cannot be built."""
    program = binaries.cache() / "koordinator" / VERSION / NAME
    if program.exists():
        return program
    options.tell(f"building {NAME} {VERSION}, which takes minutes")
    program.parent.mkdir(parents=True, exist_ok=True)
    made = program.with_suffix(f".{os.getpid()}")
    try:
        found = _go("mod", "download", "-json", f"{MODULE}@{VERSION}", cwd=program.parent)
        source = Path(json.loads(found)["Dir"])
        _go("build", "-trimpath", "-ldflags=-s -w", "-o", str(made), f"./cmd/{NAME}", cwd=source)
        made.rename(program)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or getattr(error, "stdout", None) or error
        options.tell(f"{NAME} is missing, it could not be built: {str(said).strip()[-300:]}")
        return None
    return program


def argv(program: Path, socket: Path, runtime: Path) -> list[str]:
    """Return the argument list that makes it serve at `socket`, before a runtime that runs."""
    return [
        *("unshare", "--map-root-user", "--mount", "sh", "-c", _WITH_OWN_ETC, str(program)),
        f"--koord-runtimeproxy-endpoint={socket}",
        f"--remote-runtime-service-endpoint={runtime}",
    ]


def _go(*arguments: str, cwd: Path) -> str:
    """Return what a command of go prints; its module is another's, and used as it is."""
    return subprocess.run(
        ["nice", "go", *arguments],
        cwd=cwd,
        env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"},
        capture_output=True,
        text=True,
        check=True,
        timeout=_LONGEST_SECONDS,
    ).stdout
