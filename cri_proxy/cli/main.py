"""The entry point of the program: from the command line to an exit code.

An expected error is printed in red, one line per problem, without a traceback. A traceback means a
bug in the program and is printed on purpose.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final, cast

from cri_proxy import errors, settings
from cri_proxy.cli import arguments, exits, screen

_PROGRAMS: Final = {
    "worker": "cri_proxy.daemon.worker",
    "peer-server": "cri_proxy.daemon.peerserver",
    "span-exporter": "cri_proxy.telemetry.exporter",
}
"""The daemon's own programs, which get their settings from the daemon that starts them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output, such as `head`, has closed the pipe. Python flushes standard
        # output once more at exit, which must not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return exits.INTERRUPTED
    return code


def _run(argv: Sequence[str]) -> int:
    options = arguments.parse(argv)
    if program := _PROGRAMS.get(options.command):
        return cast("int", importlib.import_module(program).main())
    if options.command == "version":  # works with invalid settings, too
        from cri_proxy.cli import version

        return version.run(options)
    try:
        loaded = settings.load(
            overrides=options.overrides, environment=os.environ, file=options.config
        )
    except errors.RequestInvalid as error:
        screen.print_error(str(error))
        return exits.USAGE
    module = importlib.import_module(f"cri_proxy.cli.{options.command}")
    run = cast("Callable[[arguments.Invocation, settings.Loaded], int]", module.run)
    try:
        return run(options, loaded)
    except errors.CriProxyError as error:
        screen.print_error(str(error))
        return exits.of_error(error)
    except OSError as error:
        if error.filename is None:  # not about a file, so not for the user to fix
            raise
        advice = "; run this command as root" if isinstance(error, PermissionError) else ""
        screen.print_error(f"{error.filename}: {error.strerror}{advice}")
        return exits.FAILED
