"""Run critest directly and through the proxy, and print the differences; exit with 1 if any.

A test with different outcomes is run again by itself on both sides, because tests depend on timing
and may fail on a busy machine. It counts as different if it differs every time.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hack.critest import fixtures, outcomes
from hack.critest.outcomes import Difference, Outcomes
from hack.testbed import binaries, containerd, critools
from hack.testbed.binaries import Binaries
from hack.testbed.containerd import Containerd
from hack.testbed.proxy import Proxy
from hack.testbed.registry import Registry

FRONTS: Final = ("router", "interposer")
PAIRINGS: Final = (("system", "v1.30.0"), ("1.7", "v1.30.0"), ("2", "v1.36.0"))
_TRIALS: Final = 3
_LONGEST_SECONDS: Final = 1800
_TooLong = subprocess.TimeoutExpired


@dataclass(frozen=True, slots=True)
class Chosen:
    """The version of critest, and the arguments common to all runs."""

    version: str
    program: Path
    seed: int
    focus: str
    reports: Path

    def run(self, socket: Path, name: str, *, only: Sequence[str] = ()) -> Outcomes:
        """Run critest on a socket; return the outcomes of its tests."""
        report = self.reports / f"{name}.json"
        argv = [
            str(self.program),
            *("--runtime-endpoint", f"unix://{socket}", "--config", "/dev/null"),
            *("--ginkgo.seed", str(self.seed), "--ginkgo.json-report", str(report)),
            *("--ginkgo.skip", "|".join(re.escape(each) for each in fixtures.LEFT_OUT)),
            "--ginkgo.no-color",
        ]
        for each in only:
            argv += ["--ginkgo.focus", f"{re.escape(each)}$"]
        if self.focus and not only:
            argv += ["--ginkgo.focus", self.focus]
        report.unlink(missing_ok=True)
        with (self.reports / f"{name}.log").open("wb") as log, contextlib.suppress(_TooLong):
            subprocess.run(
                argv,
                stdout=log,
                stderr=log,
                cwd=self.reports,
                check=False,
                timeout=_LONGEST_SECONDS,
            )
        if not report.exists():
            sys.exit(f"critest ended without a report, or not in time: see {log.name}")
        return outcomes.load(report)


def main() -> int:
    """Run the tests chosen by the arguments; return the exit status."""
    arguments = _arguments()
    pairings = [
        (runtime, version)
        for runtime, version in PAIRINGS
        if arguments.runtime in (None, runtime) and arguments.critest in (None, version)
    ] or [(arguments.runtime, arguments.critest)]
    reports = Path(arguments.reports or tempfile.mkdtemp(prefix="cri-proxy-critest-"))
    reports.mkdir(parents=True, exist_ok=True)
    print(f"seed {arguments.seed}, reports in {reports}")
    for part, reason in fixtures.LEFT_OUT.items():
        print(f"left out: {part!r} ({reason})")
    found = 0
    with Registry() as registry:
        for image in fixtures.all_images():
            registry.offer(image)
        for runtime, version in pairings:
            found += _compare(runtime, version, registry.address, reports, arguments)
    print("the same tests pass" if not found else f"{found} tests differ")
    return int(bool(found))


def _compare(
    runtime: str, version: str, mirror: str, reports: Path, arguments: argparse.Namespace
) -> int:
    """Run one version of critest on one runtime in all ways; return how many tests differ."""
    program = critools.program("critest", version)
    if program is None:
        sys.exit(f"critest {version} is not built: run hack/critools.sh {version}")
    chosen_binaries = Binaries() if runtime == "system" else binaries.unpacked(runtime)
    if chosen_binaries is None:
        sys.exit(f"containerd {runtime} is not unpacked: run hack/runtimes.sh {runtime}")
    place = reports / f"{runtime}-{version}"
    place.mkdir(exist_ok=True)
    chosen = Chosen(version, program, arguments.seed, arguments.focus, place)
    found = 0
    mirrors = dict.fromkeys(fixtures.REGISTRIES, mirror)
    with Containerd(binaries=chosen_binaries, mirrors=mirrors) as running:
        print(f"\ncontainerd {running.version()}, critest {version}")
        directly = _timed(chosen, running.socket, "directly")
        for test, outcome in sorted(directly.items()):
            if outcome.is_failure:
                print(f"  fails without the proxy, too: {test} ({outcome.failure[:100]})")
        for front in arguments.front or FRONTS:
            with contextlib.ExitStack() as stack:
                settings = {"serve": {"front": front}, "log": {"level": "info"}}
                proxy = Proxy(place / front, running.socket, settings)
                stack.enter_context(proxy)
                through = _timed(chosen, proxy.socket, front)
                lasting = _lasting(chosen, running.socket, proxy.socket, front, directly, through)
            for each in lasting:
                print(f"  DIFFERS through the {front}: {each.test}")
                print(f"    directly   {each.directly}")
                print(f"    {front:10} {each.through}")
            found += len(lasting)
    return found


def _timed(chosen: Chosen, socket: Path, name: str) -> Outcomes:
    begun = time.monotonic()
    found = chosen.run(socket, name)
    print(f"  {name:12} {outcomes.count(found)}, {time.monotonic() - begun:.0f} s", flush=True)
    return found


def _lasting(
    chosen: Chosen,
    runtime: Path,
    proxy: Path,
    front: str,
    directly: Outcomes,
    through: Outcomes,
) -> list[Difference]:
    """Return the differences that persist when their tests are run again."""
    found = outcomes.differences(directly, through)
    for trial in range(1, _TRIALS):
        if not found:
            break
        tests = [each.test for each in found]
        print(f"  again, by themselves: {len(tests)} that differ through the {front}", flush=True)
        ours = chosen.run(proxy, f"{front}-{trial}", only=tests)
        theirs = chosen.run(runtime, f"directly-{front}-{trial}", only=tests)
        kept = {each.test: each for each in outcomes.differences(theirs, ours)}
        for each in found:
            if each.test not in kept:
                print(f"  differed once: {each.test} ({each.directly} | {each.through})")
        found = [kept[test] for test in tests if test in kept]
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hack.critest", description=__doc__)
    parser.add_argument("--runtime", choices=["system", *binaries.SERIES])
    parser.add_argument("--critest", choices=critools.VERSIONS)
    parser.add_argument("--front", choices=FRONTS, action="append")
    parser.add_argument("--focus", default="", help="a regular expression for the names of tests")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--reports", help="a directory for reports and logs, which are kept")
    return parser.parse_args()


if __name__ == "__main__":
    if missing := containerd.lacks():
        sys.exit(f"this machine lacks {'; '.join(missing)}: run hack/prerequisites.sh test as root")
    sys.exit(main())
