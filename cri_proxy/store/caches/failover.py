"""Several binary caches as one source of store paths.

`Caches.seek` asks one cache after the other for a path and hands the offer to the caller, which
verifies and uses it. If that fails, because the cache broke off, sent damaged bytes, or has an
untrusted signature, the next cache is asked; if none is left, the error quotes what each answered.

Order: by the Priority of their nix-cache-info, lower first, and as configured where equal. A cache
that failed to answer is asked last for a while and without retries, so that a dead one does not
delay every path of a closure. A miss is never remembered: a path may be pushed at any moment.

Lost connections, 408, 425, 429 and 5xx are retried, with growing pauses. 401, 403, 404 and 410 are
misses: caches over object stores answer 403 for what they lack.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Final, TypeVar

from cri_proxy import errors
from cri_proxy.http.client import SILENCE_SECONDS, Client
from cri_proxy.http.dialing import Dialer
from cri_proxy.lib import meters
from cri_proxy.lib.eventloop import Loop
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import narinfo
from cri_proxy.store.caches import cache
from cri_proxy.store.caches.cache import REFUSALS, Cache, Offer
from cri_proxy.store.caches.locations import Locations
from cri_proxy.telemetry import logs

ATTEMPTS: Final = 4
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 4.0
_ADVICE: Final[dict[type[errors.CriProxyError], str]] = {
    errors.ContentDamaged: "{path} is damaged in a binary cache: publish it there again",
    errors.RequestInvalid: "{path} could not be fetched: fix the list of binary caches",
    errors.SourceUnreachable: "{path} could not be fetched now: see that the caches answer",
    errors.SignatureUntrusted: "{path} is not signed by a trusted key: trust its key or sign it",
    errors.NotFound: "{path} is in none of the binary caches: push it to one, or add its cache",
}
_retries = meters.counter(
    "cri_proxy_cache_retries_total", "Downloads that were tried again at the same cache."
)
_log = logs.of(__name__)

T = TypeVar("T")


class Caches:
    """The caches at `urls`; safe for threads. Raises RequestInvalid for a URL of another kind.

    `connections` to each are kept open; how many are used at a time is up to the callers. A cache
    that sends nothing for `silence_seconds` is asked again, or the next one is.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        ca_file: Path | None = None,
        connections: int = 32,
        silence_seconds: float = SILENCE_SECONDS,
        loop: Loop | None = None,
    ) -> None:
        self.client = Client(
            size=connections,
            loop=loop,
            dialer=Dialer(ca_file=ca_file),
            silence_seconds=silence_seconds,
            is_hedging=True,
        )
        self._caches = tuple(cache.of_url(url, self.client) for url in urls)

    def seek(
        self,
        path: StorePath,
        use: Callable[[Offer], T],
        *,
        check: Callable[[], None],
        known: Offer | None = None,
        locations: Locations | None = None,
    ) -> T:
        """Return what `use` makes of the first good offer of `path`.

        `use` refuses an offer by raising ContentDamaged, SignatureUntrusted or SourceUnreachable;
        anything else ends the search. `known` is an offer to begin with, from an earlier search.
        `check` is called before each attempt and may raise. `locations` are asked as well.
        Raises the gravest of what went wrong.
        """
        failures: list[tuple[Cache, errors.CriProxyError]] = []
        if len(self._caches) > 1:
            for each in self._caches:
                each.learn_priority()
        for each in self.in_order(path, locations, known):
            try:
                return _insist(each, path, use, check, known)
            except REFUSALS as error:
                failures.append((each, error))
                if not isinstance(error, errors.NotFound):
                    _log.info("offer of a cache not used", path=path, cache=each.url, why=error)
        raise _summary_of(path, failures)

    def offer_of(
        self, path: StorePath, url: str, text: str, locations: Locations | None = None
    ) -> Offer | None:
        """Return an offer that an earlier search, perhaps in another process, has found.

        None if there is no such cache. Raises ContentDamaged for a text that is no narinfo.
        """
        source = next((each for each in self._caches if each.url == url), None)
        if source is None and locations is not None:
            source = locations.at(url)
        return None if source is None else Offer(source, narinfo.parse(text.encode(), path))

    async def greet(self, executor: Executor) -> None:
        """Greet all caches at once, and wait until `in_order` knows the order.

        A single cache has one without an answer.
        """
        if len(self._caches) == 1:
            executor.submit(self._caches[0].greet)
        else:
            asked = (executor.submit(each.learn_priority) for each in self._caches)
            await asyncio.gather(*map(asyncio.wrap_future, asked))

    def in_order(
        self, path: StorePath, locations: Locations | None = None, known: Offer | None = None
    ) -> Sequence[Cache]:
        """Return the caches in the order to ask them, as far as it is known, without a request."""
        ordered: Sequence[Cache] = self._caches
        if len(ordered) > 1:
            ordered = sorted(ordered, key=lambda each: (each.is_shunned, each.priority))
        if locations is not None:
            ordered = locations.in_order(path, ordered)
        if known is not None and len(ordered) > 1:
            ordered = sorted(ordered, key=lambda each: each is not known.cache)
        return ordered


def _insist(
    source: Cache,
    path: StorePath,
    use: Callable[[Offer], T],
    check: Callable[[], None],
    known: Offer | None,
) -> T:
    """Use the cache's offer, with retries while the cache may recover and `check` allows them."""
    offer = known if known is not None and known.cache is source else None
    for attempt in range(ATTEMPTS):
        check()
        try:
            return _use_latest(source, path, use, offer)
        except cache.Passing as passing:
            if attempt == ATTEMPTS - 1 or source.is_shunned:
                source.shun()
                raise
            _retries.add()
            time.sleep(pause_of(attempt, passing.pause))
        except errors.SourceUnreachable:
            source.shun()
            raise
    raise AssertionError("the last attempt returns or raises")


def _use_latest(
    source: Cache, path: StorePath, use: Callable[[Offer], T], known: Offer | None
) -> T:
    """Use a known offer, or the cache's present one if it differs: paths get published again."""
    if known is None:
        return use(source.lookup(path))
    try:
        return use(known)
    except errors.ContentDamaged:
        latest = source.lookup(path)
        if latest.narinfo == known.narinfo:
            raise
    return use(latest)


def pause_of(attempt: int, asked: float) -> float:
    """Return the seconds to wait after an attempt, the first being 0.

    Twice as long each time, with jitter, and longer if the cache asks for it.
    """
    longest: float = FIRST_PAUSE_SECONDS * 2**attempt
    jittered = longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
    return min(max(asked, jittered), LONGEST_PAUSE_SECONDS)


def _summary_of(
    path: StorePath, failures: Sequence[tuple[Cache, errors.CriProxyError]]
) -> errors.CriProxyError:
    if not failures:
        return errors.NotFound(f"{path} is not here and no binary cache is configured: add one")
    kind = next(kind for kind in REFUSALS if any(isinstance(e, kind) for _, e in failures))
    answers = "; ".join(f"{each.url}: {error}" for each, error in failures)
    return kind(f"{_ADVICE[kind].format(path=path)} ({answers})")
