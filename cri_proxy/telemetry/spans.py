"""Spans: timed steps of a pod's startup, one line of code around each.

    with spans.span("realizer.realize", **{"flox.environment.reference": str(reference)}) as span:
        ...
        span.set_attribute("cri_proxy.paths", 300)

They are spans in OpenTelemetry's sense, but not its objects: a call has several, and the SDK's cost
it more than everything else that the proxy does. Starting one fills in an object; ending it passes
the object to the `take` of `install`, which must be quick as well. `spanqueue` does the rest in
other threads and processes. Until something is installed, spans do nothing.

The first span of a trace is a `root`, or has a `parent` from outside; all others are children of
the current span. Without a current span they are `NOTHING`: work that no traced call waits for has
no trace. `record` and `replay` add spans of steps that are over, such as those of a worker's job.
"""

from __future__ import annotations

import functools
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar, Token
from dataclasses import KW_ONLY, dataclass, field
from types import TracebackType
from typing import Final, Literal, NamedTuple, ParamSpec, TypeAlias, TypeVar

from cri_proxy.lib.timings import Timing

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
# https://www.w3.org/TR/trace-context/: version, trace id, parent id, flags; later versions add.
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

P = ParamSpec("P")
T = TypeVar("T")
Kind: TypeAlias = Literal["internal", "server", "client"]
Value: TypeAlias = "str | bool | int | float | Sequence[str]"
Attributes: TypeAlias = Mapping[str, Value]
Ids: TypeAlias = tuple[int, int]


class Context(NamedTuple):
    """The ids of a span, whether its trace is sent, and the caller's `tracestate`."""

    trace_id: int
    span_id: int
    is_sampled: bool
    state: str = ""


Sampler: TypeAlias = Callable[[int, "Context | None"], bool]
"""Decides whether a trace is sent, by its id and the caller's context."""


@dataclass(eq=False, slots=True)
class Span:
    """One span, which is recorded when it ends. Times are nanoseconds since 1970."""

    name: str
    context: Context
    parent_id: int | None
    _: KW_ONLY
    attributes: dict[str, Value]
    kind: Kind = "internal"
    start: int = field(default_factory=time.time_ns)
    end: int = 0
    links: list[Context] = field(default_factory=list)
    is_error: bool = False
    message: str = ""

    def set_attribute(self, name: str, value: Value) -> None:
        """Set one attribute."""
        self.attributes[name] = value

    def set_attributes(self, attributes: Attributes) -> None:
        """Set several attributes."""
        self.attributes.update(attributes)

    def add_link(self, context: Context) -> None:
        """Link it to another span, which is not its parent."""
        self.links.append(context)

    def fail(self, message: str) -> None:
        """Mark it as failed."""
        self.is_error = True
        self.message = message

    def finish(self, end: int | None = None) -> None:
        """End it, now or at another time; it must not be changed afterwards."""
        self.end = time.time_ns() if end is None else end
        if _installed is not None:
            _installed[0](self)


class _Nothing(Span):
    """The span that stands in where there is no trace."""

    __slots__ = ()

    def _ignore(self, *_: object, **__: object) -> None:
        pass

    set_attribute = set_attributes = add_link = fail = finish = _ignore


@dataclass(eq=False, slots=True)
class Entered:
    """A span as a context manager: the current span in its body, and ended after it.

    It records an error that leaves the body, unless `is_bare`. With `is_last` it stays the current
    span of the task, for log lines that follow.
    """

    _span: Span
    is_bare: bool = field(default=False, kw_only=True)
    is_last: bool = field(default=False, kw_only=True)
    _token: Token[Span | None] | None = field(default=None, init=False)

    def __enter__(self) -> Span:
        if self._span is not NOTHING:
            self._token = _current.set(self._span)
        return self._span

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is None:
            return
        if not self.is_last:
            _current.reset(self._token)
        if error is not None and not self.is_bare:
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if isinstance(error, Exception):  # a cancellation is no failure
                self._span.set_attribute("error.type", type(error).__name__)
                self._span.fail(str(error))
        self._span.finish()


NOTHING: Final[Span] = _Nothing("", Context(0, 0, is_sampled=False), None, start=0, attributes={})
_current: Final[ContextVar[Span | None]] = ContextVar("span", default=None)
_installed: tuple[Callable[[Span], None], Sampler] | None = None


def install(take: Callable[[Span], None] | None, sampler: Sampler = lambda *_: True) -> None:
    """Pass every span of this process to `take` when it ends; None switches spans off."""
    global _installed
    _installed = None if take is None else (take, sampler)


def current() -> Span | None:
    """Return the current span of this task."""
    return _current.get()


def span(name: str, /, **attributes: Value) -> Entered:
    """Run the body in a span that is a child of the current one, and records its error.

    Names with dots are given as `**{"a.b": value}`.
    """
    parent = _current.get()
    return Entered(NOTHING if parent is None else below(parent.context, name, attributes))


def of_function(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator that runs a function in a span of this name."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def within(*arguments: P.args, **named: P.kwargs) -> T:
            with span(name):
                return function(*arguments, **named)

        return within

    return decorate


def record(step: Timing, /, **attributes: Value) -> Span:
    """Record a step that is over as a child of the current span."""
    parent = _current.get()
    if parent is None:
        return NOTHING
    name, start, end = step
    found = below(parent.context, name, attributes, start=start)
    found.finish(end)
    return found


def replay(taken: Iterable[Timing], parent: Span | None = None) -> None:
    """Record the steps of a job as children of `parent`, by default of the current span."""
    parent = parent or _current.get()
    if parent is None or parent is NOTHING:
        return
    for name, start, end in taken:
        below(parent.context, name, {}, start=start).finish(end)


def root(
    name: str, ids: Ids, *, parent: Context | None, start: int, attributes: Attributes
) -> Span:
    """Return a span with the given ids that began at `start`; `parent` is a caller's span."""
    context = Context(*ids, is_sampled(ids[0], parent), "" if parent is None else parent.state)
    parent_id = None if parent is None else parent.span_id
    return Span(name, context, parent_id, start=start, attributes=dict(attributes))


def below(
    parent: Context,
    name: str,
    attributes: dict[str, Value],
    *,
    kind: Kind = "internal",
    start: int | None = None,
) -> Span:
    """Return a child of any span; it takes the attributes without copying them."""
    context = Context(parent.trace_id, random.getrandbits(64) or 1, parent.is_sampled, parent.state)
    start = time.time_ns() if start is None else start
    return Span(name, context, parent.span_id, kind=kind, start=start, attributes=attributes)


def is_sampled(trace_id: int, parent: Context | None) -> bool:
    """Return whether a trace is sent: one that begins here, or that of a caller."""
    return _installed is not None and _installed[1](trace_id, parent)


def annotate(**attributes: Value) -> None:
    """Set attributes of the current span, if there is one."""
    found = _current.get()
    if found is not None:
        found.attributes.update(attributes)


def context_of(metadata: Iterable[tuple[str, str | bytes]]) -> Context | None:
    """Return the span that a caller's metadata names; None if it names none, or is invalid."""
    texts = {key: value for key, value in metadata if isinstance(value, str)}
    match = _TRACEPARENT.fullmatch(texts.get(TRACEPARENT, "").strip())
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    if not trace_id or not span_id:
        return None
    return Context(trace_id, span_id, bool(int(match[4], 16) & 1), texts.get(TRACESTATE, ""))


def traceparent_of(context: Context) -> str:
    """Return the `traceparent` header of W3C Trace Context for a span."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.is_sampled:02x}"
