"""The order in which an environment's variables are set.

A value may refer to other variables (`${other}/bin`), so each variable is set after those that its
value names. Apart from that the declared order stays. Variables that refer to each other in a
circle keep their declared order: the first of them sees what the pod had before.

What a value means to a shell is not decided here; only which names it mentions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Final

Variables = tuple[tuple[str, str], ...]

_MENTION: Final = re.compile(r"\\.|\$\{?[#!]?([A-Za-z_][A-Za-z0-9_]*)", re.DOTALL)
"""An escaped letter, which mentions nothing, or a dollar and the name after it."""


def mentioned_in(value: str) -> frozenset[str]:
    """Return the names that a value between double quotes refers to."""
    return frozenset(match[1] for match in _MENTION.finditer(value) if match[1])


def in_dependency_order(variables: Variables) -> Variables:
    """Return the variables with each one after those that its value mentions.

    Of all such orders it is the one nearest to the declared: whenever several could come next, the
    one declared first does.
    """
    place = {name: index for index, (name, _) in enumerate(variables)}
    waits_for = {
        index: {place[name] for name in mentioned_in(value) if name in place} - {index}
        for index, (_, value) in enumerate(variables)
    }
    awaited_by = _inverse(waits_for)
    ready = [index for index, awaited in waits_for.items() if not awaited]
    heapify(ready)
    ordered: list[tuple[str, str]] = []
    while waits_for:
        current = heappop(ready) if ready else _first_of_a_circle(waits_for)
        del waits_for[current]
        ordered.append(variables[current])
        for each in awaited_by[current]:
            if each in waits_for:
                waits_for[each].discard(current)
                if not waits_for[each]:
                    heappush(ready, each)
    return tuple(ordered)


def _first_of_a_circle(waits_for: Mapping[int, set[int]]) -> int:
    """Return the first declared variable that waits for nothing but its own circle.

    Following dependencies from any variable ends in such a circle; its members are those that can
    be reached from one another.
    """
    awaited_by = _inverse(waits_for)
    start = min(waits_for)
    while True:
        ahead = _reachable(start, waits_for)
        beyond = ahead - _reachable(start, awaited_by)
        if not beyond:
            return min(ahead)
        start = min(beyond)


def _inverse(edges: Mapping[int, set[int]]) -> dict[int, set[int]]:
    inverse: dict[int, set[int]] = {each: set() for each in edges}
    for source, targets in edges.items():
        for target in targets:
            inverse[target].add(source)
    return inverse


def _reachable(start: int, edges: Mapping[int, set[int]]) -> set[int]:
    found, border = {start}, [start]
    while border:
        fresh = edges[border.pop()] - found
        found |= fresh
        border.extend(fresh)
    return found
