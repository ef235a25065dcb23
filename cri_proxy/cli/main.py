"""The entry of the program: from the command line to an exit code.

A refusal of ours is one line in red for each thing that is wrong, without a traceback; a traceback
means a fault of the program, and is wanted then.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from cri_proxy import errors, settings
from cri_proxy.cli import arguments, exits, screen


class CommandModule(Protocol):
    """A module of this package that is named like a command."""

    def run(self, options: arguments.Invocation, loaded: settings.Loaded) -> int:
        """Do it; return the exit code, raise CriProxyError for a refusal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output, `head` for one, has seen enough. Python's own flush at the end
        # must not fail over it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return exits.INTERRUPTED
    return code


def _run(argv: Sequence[str]) -> int:
    options = arguments.parse(argv)
    match options.command:
        case "worker":  # its settings come from the daemon that started it
            from cri_proxy.daemon import worker

            return worker.main()
        case "share":  # so do its
            from cri_proxy.daemon import peerserver

            return peerserver.main()
        case "sender":  # so do those of the program that sends traces
            from cri_proxy.telemetry import exporting

            return exporting.main()
        case "version":  # told whatever the settings are
            from cri_proxy.cli import version

            return version.run(options)
    try:
        loaded = settings.load(
            overrides=options.overrides, environment=os.environ, file=options.config
        )
    except errors.RequestInvalid as error:
        screen.print_error(str(error))
        return exits.USAGE
    command = cast("CommandModule", importlib.import_module(f"cri_proxy.cli.{options.command}"))
    try:
        return command.run(options, loaded)
    except errors.CriProxyError as error:
        screen.print_error(str(error))
        return exits.of_error(error)
    except OSError as error:
        if error.filename is None:  # not of a file, so nothing that a person could mend
            raise
        advice = "; run this command as root" if isinstance(error, PermissionError) else ""
        screen.print_error(f"{error.filename}: {error.strerror}{advice}")
        return exits.FAILED
