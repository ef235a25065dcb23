"""Which environment a pod asks for, for which of its containers, and how.

The only input are the annotations of the pod sandbox, which kubelet sends with every container.
Pure: annotations in, a `Selection` out, or RequestInvalid with the annotation's name and what to
write instead. A pod without our annotations selects nothing and is never changed.

    flox.dev/environment               owner/name or owner/name:7     the pod's environment
    flox.dev/environment.<container>   the same, or empty for none    one container's, instead
    flox.dev/activate-mode             run (default) or dev
    flox.dev/disable-metrics           true or false (default)
    flox.dev/nix-mutable               true or false (default)
    flox.dev/skip-containers           names, separated by commas: not changed at all
    flox.dev/skip-containers-exec      names, separated by commas: exec outside the environment

Source of the keys: Flox documentation, "Imageless Kubernetes", configuration; the one with a
container's name is our own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cri_proxy import errors
from cri_proxy.lib import suggestions
from cri_proxy.model import references
from cri_proxy.model.environments import Mode
from cri_proxy.model.references import Reference

PREFIX: Final = "flox.dev/"
ENVIRONMENT: Final = PREFIX + "environment"
ACTIVATE_MODE: Final = PREFIX + "activate-mode"
DISABLE_METRICS: Final = PREFIX + "disable-metrics"
NIX_MUTABLE: Final = PREFIX + "nix-mutable"
SKIP_CONTAINERS: Final = PREFIX + "skip-containers"
SKIP_CONTAINERS_EXEC: Final = PREFIX + "skip-containers-exec"
_KNOWN: Final = (
    ENVIRONMENT,
    ACTIVATE_MODE,
    DISABLE_METRICS,
    NIX_MUTABLE,
    SKIP_CONTAINERS,
    SKIP_CONTAINERS_EXEC,
)
# Kubernetes' own names are DNS labels; other clients of a runtime are less strict.
_CONTAINER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")


@dataclass(frozen=True, slots=True)
class Selection:
    """What a pod asks for; `by_container` has None for a container without an environment."""

    environment: Reference | None = None
    by_container: tuple[tuple[str, Reference | None], ...] = ()
    mode: Mode = Mode.RUN
    disable_metrics: bool = False
    nix_mutable: bool = False
    skipped: frozenset[str] = frozenset()
    skipped_exec: frozenset[str] = frozenset()

    def of_container(self, name: str) -> Reference | None:
        """Return the environment of the pod's container `name`, None if it has none."""
        if name in self.skipped:
            return None
        return dict(self.by_container).get(name, self.environment)

    def leaves_exec_outside(self, name: str) -> bool:
        """Return whether exec in the container runs outside of its environment."""
        return name in self.skipped_exec

    @property
    def realizations(self) -> tuple[tuple[Reference, bool], ...]:
        """All environments that the pod may need, and whether with a shell: see `activation`."""
        alone = [(self.of_container(name), True) for name in sorted(self.skipped_exec)]
        wanted = [*((each, False) for each in self.references), *alone]
        return tuple(
            dict.fromkeys((each, has_shell) for each, has_shell in wanted if each is not None)
        )

    @property
    def references(self) -> tuple[Reference, ...]:
        """All environments that containers of the pod may need, the pod's own first."""
        own = [each for name, each in self.by_container if name not in self.skipped]
        wanted = [self.environment, *own]
        return tuple(dict.fromkeys(reference for reference in wanted if reference is not None))


def of_annotations(annotations: Mapping[str, str]) -> Selection | None:
    """Return what annotations ask for, None if for nothing; raise RequestInvalid if malformed."""
    by_container = tuple(
        (_name(key, key.removeprefix(ENVIRONMENT + ".")), _environment(key, value))
        for key, value in sorted(annotations.items())
        if key.startswith(ENVIRONMENT + ".")
    )
    own = annotations.get(ENVIRONMENT)
    if own is None and not by_container:
        return None
    if own is not None and not own.strip():
        raise errors.RequestInvalid(f"the annotation {ENVIRONMENT} is empty: set it to owner/name")
    return Selection(
        environment=None if own is None else _environment(ENVIRONMENT, own),
        by_container=by_container,
        mode=_mode(annotations.get(ACTIVATE_MODE, Mode.RUN)),
        disable_metrics=_flag(annotations, DISABLE_METRICS),
        nix_mutable=_flag(annotations, NIX_MUTABLE),
        skipped=_names(annotations, SKIP_CONTAINERS),
        skipped_exec=_names(annotations, SKIP_CONTAINERS_EXEC),
    )


def unknown(annotations: Mapping[str, str]) -> dict[str, str | None]:
    """Return the unknown keys under our prefix, each with the key that was likely meant."""
    return {
        key: suggestions.nearest(key, _KNOWN)
        for key in sorted(annotations)
        if key.startswith(PREFIX) and key not in _KNOWN and not key.startswith(ENVIRONMENT + ".")
    }


def is_near(payload: bytes) -> bool:
    """Return whether the bytes of a request may contain our annotation; false is certain."""
    return ENVIRONMENT.encode() in payload


def _environment(key: str, value: str) -> Reference | None:
    """Return the reference in an annotation, None for the empty value."""
    text = value.strip()
    if not text:
        return None
    try:
        return references.parse(text)
    except errors.RequestInvalid as error:
        raise errors.RequestInvalid(f"annotation {key[:300]}: {error}") from error


def _mode(value: str) -> Mode:
    """Return the activation mode that `value` names."""
    try:
        return Mode(value.strip())
    except ValueError:
        raise errors.RequestInvalid(
            f"annotation {ACTIVATE_MODE}: {value[:100]!a} is not a mode: write run or dev"
        ) from None


def _flag(annotations: Mapping[str, str], key: str) -> bool:
    """Return a boolean annotation, which is false if absent."""
    value = annotations.get(key, "false").strip()
    if value not in {"true", "false"}:
        raise errors.RequestInvalid(
            f'annotation {key}: {value[:100]!a} is not a boolean: write "true" or "false"'
        )
    return value == "true"


def _names(annotations: Mapping[str, str], key: str) -> frozenset[str]:
    """Return the container names in a comma-separated annotation, without empty ones."""
    parts = annotations.get(key, "").split(",")
    return frozenset(_name(key, name) for part in parts if (name := part.strip()))


def _name(key: str, name: str) -> str:
    """Return `name` if it is valid as a container's name."""
    if not _CONTAINER.fullmatch(name):
        raise errors.RequestInvalid(
            f"annotation {key[:100]}: {name[:100]!a} is not a container name: list the pod's "
            "container names, separated by commas"
        )
    return name
