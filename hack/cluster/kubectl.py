"""kubectl, as an administrator of the cluster uses it: text in, text or JSON out."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hack.testbed import waiting

Object = Mapping[str, Any]


class Failed(AssertionError):
    """kubectl failed; the message has its output."""


class Kubectl:
    """One user's kubectl in one namespace; without a namespace, manifests give it."""

    def __init__(self, program: Path, kubeconfig: Path, namespace: str | None = None) -> None:
        self.kubeconfig: Final = kubeconfig
        self.namespace: Final = namespace
        self._program: Final = program

    def within(self, namespace: str) -> Kubectl:
        """Return the same user's kubectl in another namespace."""
        return Kubectl(self._program, self.kubeconfig, namespace)

    def argv(self, *arguments: str) -> list[str]:
        """Return the argument list of a command."""
        options = ["--kubeconfig", str(self.kubeconfig)]
        if self.namespace is not None:
            options += ["--namespace", self.namespace]
        return [str(self._program), *options, *arguments]

    def __call__(
        self, *arguments: str, text: str | None = None, seconds: float = waiting.DEADLINE_SECONDS
    ) -> str:
        """Return the output of a command; `text` is its standard input."""
        done = subprocess.run(
            self.argv(*arguments),
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            env={**os.environ, "HOME": str(self.kubeconfig.parent)},  # for its cache
        )
        if done.returncode != 0:
            raise Failed(f"kubectl {' '.join(arguments)}: {done.stderr.strip()} {done.stdout}")
        return done.stdout

    def apply(self, *objects: Object, options: Sequence[str] = ()) -> None:
        """Apply manifests."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self("apply", "--server-side", *options, "-f", "-", text=json.dumps(items))

    def get(self, *what: str) -> Any:
        """Return an object (`pod`, `web`), or a list's items (`pods`, `--selector=app=web`)."""
        found = json.loads(self("get", *what, "--output=json"))
        return found["items"] if found["kind"] == "List" else found

    def until(
        self,
        what: Sequence[str],
        holds: Callable[[Any], object],
        *,
        seconds: float = waiting.DEADLINE_SECONDS,
    ) -> Any:
        """Return the first state of `get(*what)` for which `holds` is true.

        The object need not exist at first. On a timeout, the error has the last state and the
        namespace's events.
        """
        seen: Any = None

        def probe() -> Any:
            nonlocal seen
            try:
                seen = self.get(*what)
            except Failed as error:
                seen = str(error)
                return None
            return seen if holds(seen) else None

        return waiting.until(
            probe,
            what=f"{' '.join(what)} to be in the expected state",
            seconds=seconds,
            explain=lambda: f"{json.dumps(_brief(seen))}\n{self.events()}",
        )

    def events(self) -> str:
        """Return the namespace's last events in readable form."""
        lines = self("get", "events", "--sort-by=.lastTimestamp").splitlines()
        return "\n".join(lines[-20:])


def pod_is_ready(pod: Object) -> bool:
    """Return whether a pod is Ready."""
    return condition(pod, "Ready") == "True"


def condition(thing: Object, kind: str) -> str | None:
    """Return the status of one of an object's conditions."""
    conditions = thing.get("status", {}).get("conditions", ())
    return next((each["status"] for each in conditions if each["type"] == kind), None)


def restarts(pod: Object) -> int:
    """Return how often containers of a pod were restarted."""
    return sum(each["restartCount"] for each in pod["status"].get("containerStatuses", ()))


def _brief(seen: Any) -> Any:
    """Return the status part of an object."""
    if isinstance(seen, list):
        return [_brief(each) for each in seen]
    return seen.get("status", seen) if isinstance(seen, dict) else seen
