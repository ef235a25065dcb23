"""`cri-proxy realize REF…`: realize environments on this node, exactly as for a pod.

One realizer realizes all references at the same time and shares the store paths that they have in
common. Results go to standard output in the order of the references, progress to standard error.
One that fails does not stop the others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import assert_never

import uvloop

from cri_proxy import errors, settings
from cri_proxy.cli import arguments, display, exits, numbers, screen, verbosity
from cri_proxy.model import references
from cri_proxy.model.environments import Environment, Mode
from cri_proxy.model.references import Reference
from cri_proxy.telemetry import logs


def run(options: arguments.Invocation, loaded: settings.Loaded) -> int:
    """Realize the references; the exit code is that of the worst outcome."""
    asked, problems = _parsed(options.references)
    if problems:
        screen.print_error("\n".join(problems))
        return exits.USAGE
    wanted = verbosity.settings_of(loaded, "error")
    logs.setup(wanted.log)
    attempts = uvloop.run(_realized(asked, Mode(options.mode), wanted))
    if options.is_json:
        print(json.dumps([_record_of(attempt) for attempt in attempts], indent=2))
    else:
        for attempt in attempts:
            _print(attempt)
    return exits.of_several(
        exits.of_error(attempt.outcome)
        if isinstance(attempt.outcome, errors.CriProxyError)
        else exits.OK
        for attempt in attempts
    )


async def _realized(
    asked: Sequence[Reference], mode: Mode, wanted: settings.Settings
) -> list[display.Attempt]:
    # These imports take half a second, which a mistyped reference should not cost.
    from cri_proxy.daemon import parts
    from cri_proxy.interposer import tokens

    token = tokens.of_node(wanted.floxhub.token_file) if wanted.floxhub.token_file else None
    async with parts.realizer_of(wanted) as realizer:
        attempts = [
            display.Attempt(reference, realizer.begin(reference, token=token, mode=mode))
            for reference in asked
        ]
        await display.follow(attempts)
        return attempts


def _parsed(texts: Sequence[str]) -> tuple[list[Reference], list[str]]:
    """Return the references without repetitions, and an error for each text that is not one."""
    asked: dict[Reference, None] = {}
    problems = []
    for text in texts:
        try:
            asked[references.parse(text)] = None
        except errors.RequestInvalid as error:
            problems.append(str(error))
    return list(asked), problems


def _print(attempt: display.Attempt) -> None:
    """Print the result of one reference: directory, size and where its store paths came from."""
    match attempt.outcome:
        case Environment() as environment:
            directory = str(environment.store.parent)
            facts = ", ".join(
                [
                    numbers.counted(len(environment.closure), "path"),
                    numbers.size(environment.nar_bytes),
                    _origin_of(attempt),
                    numbers.duration(attempt.seconds),
                    *(
                        ["FloxHub did not answer: last known generation"]
                        if environment.is_stale
                        else []
                    ),
                ]
            )
            if not screen.is_terminal(sys.stdout):
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
            name, message = str(attempt.reference), str(error)
            screen.print_error(message if name in message else f"{name}: {message}")
        case None:
            raise AssertionError("`follow` returns when every attempt has an outcome")
        case _:
            assert_never(attempt.outcome)


def _origin_of(attempt: display.Attempt) -> str:
    """Return how many store paths were fetched and how many were on the node already."""
    fetched, present = _counts_of(attempt)
    if not fetched:
        return "all already present"
    return f"{fetched} fetched" + (f", {present} already present" if present else "")


def _counts_of(attempt: display.Attempt) -> tuple[int, int]:
    progress = attempt.realization.progress
    return progress.paths_done - progress.paths_present, progress.paths_present


def _record_of(attempt: display.Attempt) -> dict[str, object]:
    record: dict[str, object] = {
        "asked": str(attempt.reference),
        "seconds": round(attempt.seconds, 3),
    }
    match attempt.outcome:
        case Environment() as environment:
            fetched, present = _counts_of(attempt)
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
            return record | {"error": asdict(errors.to_wire(error))}
        case _:
            raise AssertionError("`follow` returns when every attempt has an outcome")
