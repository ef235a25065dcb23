"""`cri-proxy realize REF…`: environments put onto this node, exactly as for a pod.

All references are realized at the same time by one realizer, which shares the store paths that they
have in common. Standard output gets the results in the order asked for, standard error what goes on
meanwhile. One that fails does not stop the others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import assert_never

import uvloop

from cri_proxy import errors, settings
from cri_proxy.cli import (
    arguments,
    display,
    exits,
    numbers,
    screen,
    verbosity,
)
from cri_proxy.model import references
from cri_proxy.model.environments import Environment, Mode
from cri_proxy.model.references import Reference
from cri_proxy.telemetry import logs


def run(options: arguments.Invocation, loaded: settings.Loaded) -> int:
    """Realize what was asked for; the code is that of the worst outcome."""
    asked, problems = _parsed(options.references)
    if problems:
        screen.print_error("\n".join(problems))
        return exits.USAGE
    wanted = verbosity.settings_of(loaded, "error")
    logs.setup(wanted.log)
    found = uvloop.run(_realized(asked, Mode(options.mode), wanted))
    if options.is_json:
        print(json.dumps([_record_of(track) for track in found], indent=2))
    else:
        for track in found:
            _tell(track)
    return exits.of_several(_code_of(track) for track in found)


async def _realized(
    asked: Sequence[Reference], mode: Mode, wanted: settings.Settings
) -> list[display.Track]:
    # Half a second of imports, which somebody who mistyped a reference need not wait for.
    from cri_proxy.daemon import parts
    from cri_proxy.interposer import tokens

    token = tokens.of_node(wanted.floxhub.token_file) if wanted.floxhub.token_file else None
    async with parts.realizer_of(wanted) as realizer:
        found = [
            display.Track(reference, realizer.begin(reference, token=token, mode=mode))
            for reference in asked
        ]
        await display.follow(found)
        return found


def _parsed(texts: Sequence[str]) -> tuple[list[Reference], list[str]]:
    """Return the references, each once, and a sentence for every text that is none."""
    asked: dict[Reference, None] = {}
    problems = []
    for text in texts:
        try:
            asked[references.parse(text)] = None
        except errors.RequestInvalid as error:
            problems.append(str(error))
    return list(asked), problems


def _tell(track: display.Track) -> None:
    """Write the result of one reference: where it is, how large, how it came here."""
    match track.outcome:
        case Environment() as environment:
            directory = str(environment.store.parent)
            facts = ", ".join(
                [
                    numbers.counted(len(environment.closure), "path"),
                    numbers.size(environment.nar_bytes),
                    _origin_of(track),
                    numbers.duration(track.seconds),
                    *(["FloxHub did not answer: last known state"] if environment.is_stale else []),
                ]
            )
            if not screen.is_watched(sys.stdout):
                print(f"{environment.reference}: {directory}: {facts}")
                return
            from rich.text import Text

            console = screen.console(sys.stdout)
            console.print(
                Text.assemble(("✔ ", "bold green"), (str(environment.reference), "bold"), "  "),
                Text(facts),
                sep="",
            )
            console.print(Text(f"  {directory}", "dim"), soft_wrap=True)
        case errors.CriProxyError() as error:
            name, message = str(track.reference), str(error)
            screen.print_error(message if name in message else f"{name}: {message}")
        case None:
            raise AssertionError("a followed track has an outcome")
        case _:
            assert_never(track.outcome)


def _origin_of(track: display.Track) -> str:
    """Return how many store paths were fetched, and how many were here."""
    fetched, present = _counts_of(track)
    if not fetched:
        return "all of it was here"
    return f"{fetched} fetched" + (f" and {present} here before" if present else "")


def _counts_of(track: display.Track) -> tuple[int, int]:
    progress = track.realization.progress
    return progress.paths_done - progress.paths_present, progress.paths_present


def _code_of(track: display.Track) -> int:
    outcome = track.outcome
    return exits.of_error(outcome) if isinstance(outcome, errors.CriProxyError) else exits.OK


def _record_of(track: display.Track) -> dict[str, object]:
    record: dict[str, object] = {"asked": str(track.reference), "seconds": round(track.seconds, 3)}
    match track.outcome:
        case Environment() as environment:
            fetched, present = _counts_of(track)
            return record | {
                "reference": str(environment.reference),
                "mode": str(environment.mode),
                "identity": environment.identity,
                "directory": str(environment.store.parent),
                "flox_env": str(environment.flox_env),
                "lock_digest": environment.lock_digest,
                "is_stale": environment.is_stale,
                "paths": len(environment.closure),
                "paths_fetched": fetched,
                "paths_present": present,
                "bytes": environment.nar_bytes,
            }
        case errors.CriProxyError() as error:
            return record | {"error": errors.to_wire(error)}
        case _:
            raise AssertionError("a followed track has an outcome")
