"""`cri-proxy realize REF…`: realize environments on this node, exactly as for a pod.

One realizer realizes all references at the same time and shares the store paths that they have in
common. Results go to standard output in the order of the references, progress to standard error.
One that fails does not stop the others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict

import uvloop

from cri_proxy import errors, settings
from cri_proxy.cli import arguments, display, exits, numbers, screen, verbosity
from cri_proxy.model import references
from cri_proxy.model.environments import Mode
from cri_proxy.model.references import Reference
from cri_proxy.telemetry import logs


def run(options: arguments.Invocation, loaded: settings.Loaded) -> int:
    """Realize the references; the exit code is that of the worst outcome."""
    asked: dict[Reference, None] = {}  # without repetitions
    problems = []
    for text in options.references:
        try:
            asked[references.parse(text)] = None
        except errors.RequestInvalid as error:
            problems.append(str(error))
    if problems:
        screen.print_error("\n".join(problems))
        return exits.USAGE
    wanted = verbosity.settings_of(loaded, "error")
    logs.setup(wanted.log)
    attempts = uvloop.run(_realized(asked, Mode(options.mode), wanted))
    if options.is_json:
        screen.print_json([_record_of(attempt) for attempt in attempts])
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
    asked: Iterable[Reference], mode: Mode, wanted: settings.Settings
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


def _print(attempt: display.Attempt) -> None:
    """Print the result of one reference: directory, size and where its store paths came from."""
    outcome = attempt.outcome
    if isinstance(outcome, errors.CriProxyError):
        name, message = str(attempt.reference), str(outcome)
        screen.print_error(message if name in message else f"{name}: {message}")
        return
    assert outcome is not None, "`follow` returns when every attempt has an outcome"
    progress = attempt.realization.progress
    present, fetched = progress.paths_present, progress.paths_done - progress.paths_present
    facts = [numbers.counted(len(outcome.closure), "path"), numbers.size(outcome.nar_bytes)]
    if not fetched:
        facts.append("all already present")
    else:
        facts.append(f"{fetched} fetched")
        facts += [f"{present} already present"] if present else []
    facts.append(numbers.duration(attempt.seconds))
    if outcome.is_stale:
        facts.append("FloxHub did not answer: last known generation")
    shown, directory = ", ".join(facts), str(outcome.store.parent)
    if not screen.is_terminal(sys.stdout):
        print(f"{outcome.reference}: {directory}: {shown}")
        return
    from rich.text import Text

    console = screen.console(sys.stdout)
    console.print(
        Text.assemble(("✔ ", "bold green"), (str(outcome.reference), "bold"), "  "),
        Text(shown),
        sep="",
    )
    console.print(Text(f"  {directory}", "dim"), soft_wrap=True)


def _record_of(attempt: display.Attempt) -> dict[str, object]:
    record: dict[str, object] = {
        "asked": str(attempt.reference),
        "seconds": round(attempt.seconds, 3),
    }
    outcome = attempt.outcome
    if isinstance(outcome, errors.CriProxyError):
        return record | {"error": asdict(errors.to_wire(outcome))}
    assert outcome is not None, "`follow` returns when every attempt has an outcome"
    progress = attempt.realization.progress
    return record | {
        "reference": str(outcome.reference),
        "mode": str(outcome.mode),
        "identity": outcome.identity,
        "directory": str(outcome.store.parent),
        "flox_env": str(outcome.flox_env),
        "lock_digest": outcome.lock_digest,
        "is_stale": outcome.is_stale,
        "paths": len(outcome.closure),
        "paths_fetched": progress.paths_done - progress.paths_present,
        "paths_present": progress.paths_present,
        "bytes": outcome.nar_bytes,
    }
