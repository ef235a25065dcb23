"""Checks of remote servers: binary caches and their keys, FloxHub and its token.

The clock is checked by comparing it with those of the servers that answer.
"""

from __future__ import annotations

import base64
import json
import stat
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from cri_proxy.cli import numbers
from cri_proxy.cli.checks import findings, http
from cri_proxy.cli.checks.findings import Check, Finding
from cri_proxy.lib import redaction
from cri_proxy.settings import schema

_STORE: Final = "/nix/store"
_SKEW_SECONDS: Final = 30.0
_GRAVE_SKEW_SECONDS: Final = 600.0
_EXPIRES_SOON_SECONDS: Final = 5 * 86400


def checks_of(settings: schema.Settings) -> list[Check]:
    """Return the checks of this group."""
    floxhub, store = settings.floxhub, settings.store
    checks = [
        Check(f"cache {redaction.text(url)}", partial(cache, url, store.ca_file))
        for url in store.caches
    ]
    checks.append(Check("trusted keys", partial(public_keys, store.public_keys)))
    checks.append(Check("FloxHub", partial(hub, floxhub.git_base, floxhub.ca_file)))
    if floxhub.token_file is not None:
        checks.append(Check("FloxHub token", partial(token, floxhub.token_file)))
    return checks


def cache(url: str, ca_file: Path | None) -> Finding:
    """Check that `url` is a binary cache of /nix/store."""
    try:
        answer = _cache_information(url, ca_file)
    except http.Unanswered as problem:
        return findings.fail(str(problem), problem.advice)
    except OSError as error:
        return findings.fail(
            f"{error.filename}: {error.strerror}",
            "correct store.caches, or mount the file system that it names",
        )
    if answer.status != 200:
        return findings.fail(
            f"status {answer.status} for nix-cache-info",
            "check that the URL in store.caches is that of a binary cache",
        )
    lines = (line.partition(":") for line in answer.body.decode("utf-8", "replace").splitlines())
    facts = {name.strip(): value.strip() for name, _, value in lines}
    if facts.get("StoreDir", _STORE) != _STORE or "StoreDir" not in facts:
        return findings.fail(
            f"its StoreDir is {facts.get('StoreDir', 'missing')!s:.200}",
            f"only caches of {_STORE} can be used: remove it from store.caches",
        )
    priority = f", priority {facts['Priority']:.10}" if "Priority" in facts else ""
    return findings.ok(
        f"answers in {answer.seconds * 1000:.0f} ms{priority}", clock_skew=answer.clock_skew
    )


def hub(git_base: str, ca_file: Path | None) -> Finding:
    """Check that FloxHub's git server answers, with any status below 500."""
    shown = redaction.text(git_base)
    try:
        answer = http.get(git_base, ca_file)
    except http.Unanswered as problem:
        return findings.fail(f"{shown}: {problem}", problem.advice)
    if answer.status >= 500:
        return findings.warn(
            f"{shown} answers with status {answer.status}",
            "environments known to this node still start, in their last known generation",
        )
    return findings.ok(
        f"{shown} answers in {answer.seconds * 1000:.0f} ms", clock_skew=answer.clock_skew
    )


def token(path: Path) -> Finding:
    """Check the file of the node-wide token: its permissions and the token's expiry."""
    try:
        status = path.stat()
        text = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        return findings.fail(f"{path} cannot be read: {why}", "write a token to it")
    if not text or len(text.split()) != 1:
        return findings.fail(
            f"{path} contains {'no token' if not text else 'more than one word'}",
            f"write one with: flox auth token > {path}",
        )
    expiry = _expiry_of(text)
    left = None if expiry is None else expiry - time.time()
    if left is not None and left <= 0:
        return findings.fail(f"{path} has expired {numbers.ago(-left)}", "write a new token to it")
    if stat.S_IMODE(status.st_mode) & 0o077:
        return findings.warn(
            f"{path} is accessible to other users (mode {stat.S_IMODE(status.st_mode):04o})",
            f"chmod 600 {path}",
        )
    if left is not None and left < _EXPIRES_SOON_SECONDS:
        days = numbers.counted(int(left // 86400), "day")
        return findings.warn(f"{path} expires in {days}", "write a new token to it soon")
    until = "" if expiry is None else time.strftime(", valid until %Y-%m-%d", time.gmtime(expiry))
    return findings.ok(f"{path}{until}")


def public_keys(keys: Iterable[str]) -> Finding:
    """Check that there are trusted keys; the settings have verified their format."""
    names = [key.partition(":")[0] for key in keys]
    if not names:
        return findings.fail("none", "add the keys of your caches to store.public_keys")
    return findings.ok(", ".join(names))


def clock(skews: Iterable[float | None]) -> Finding:
    """Compare the node's clock with the median of those that answered."""
    known = sorted(skew for skew in skews if skew is not None)
    if not known:
        return findings.warn("no server answered to compare it with", "see the results above")
    skew = known[len(known) // 2]
    if abs(skew) <= _SKEW_SECONDS:
        return findings.ok(f"correct within {_SKEW_SECONDS:.0f} s")
    found = f"{numbers.duration(abs(skew))} {'slow' if skew > 0 else 'fast'}"
    advice = "synchronize it: the validity of certificates and tokens depends on it"
    return (findings.fail if abs(skew) > _GRAVE_SKEW_SECONDS else findings.warn)(found, advice)


def _cache_information(url: str, ca_file: Path | None) -> http.CheckResponse:
    parts = urlsplit(url)
    if parts.scheme != "file":
        place = parts._replace(path=f"{parts.path.rstrip('/')}/nix-cache-info", query="").geturl()
        return http.get(place, ca_file)
    started = time.monotonic()
    body = (Path(unquote(parts.path)) / "nix-cache-info").read_bytes()
    return http.CheckResponse(200, body, time.monotonic() - started, None)


def _expiry_of(token: str) -> float | None:
    """Return the expiry of a JSON web token, None for other tokens."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"])
    except (ValueError, KeyError, TypeError):
        return None
