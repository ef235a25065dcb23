"""The table of settings: every section, key, default and line of help stands here and only here.

A section is a frozen dataclass, a key is one of its fields. Add a key by adding a field: its names
in the file, in the environment and as a flag, its line in --help-settings and its row in
docs/settings.md follow. `Settings()` is all defaults.

A field holds what was written, parsed. What follows from several of them, or from the node, is a
property or a method beside the fields, so that replacing one field never leaves a stale other.
It is a long file because it is one table; which values contradict each other is told by
`contradictions`.
"""

# ruff: noqa: RUF009 - `_key` is `dataclasses.field` with the names filled in

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

from cri_proxy.model.imagenames import ImageName
from cri_proxy.model.references import Reference
from cri_proxy.model.storepaths import StorePath
from cri_proxy.settings import kinds

# bashNonInteractive 5.3p15 as Flox's base catalog has it, so the default caches hold it, signed.
SHELLS: Final = {
    "x86_64-linux": "/nix/store/7ik8057hajl6vq9j40h3jracxjn0bb5x-bash-5.3p15",
    "aarch64-linux": "/nix/store/rzpv2vlq1zmhjqjinjgff1v83nw0b3hz-bash-5.3p15",
}
_WORKERS_AT_MOST: Final = 4

T = TypeVar("T")


def _key(kind: kinds.ValueKind[T], default: object, about: str) -> T:
    """Return the field of one key; `default` is in TOML's form and parsed by `kind` as well."""
    return field(
        default_factory=lambda: kind.of_toml(default),
        metadata={"kind": kind, "default": default, "about": about},
    )


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Where kubelet finds the proxy."""

    listen: Path = _key(
        kinds.unix_socket(),
        "/run/cri-proxy/cri-proxy.sock",
        "socket that kubelet is pointed to",
    )
    front: str = _key(
        kinds.choice("interposer", "router"),
        "router",
        "what kubelet talks to: the router before the interposer, or the interposer alone",
    )
    drain_seconds: float = _key(
        kinds.seconds(0, 3600),
        20,
        "how long a stopping daemon waits for calls in flight",
    )


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """The container runtime behind the proxy."""

    endpoint: Path = _key(
        kinds.unix_socket(),
        "/run/containerd/containerd.sock",
        "CRI socket of the container runtime",
    )
    handlers: Mapping[str, str] = _key(
        kinds.handlers(),
        {"flox": ""},
        "RuntimeClass handlers that the runtime does not know, and which of its own to use instead",
    )


@dataclass(frozen=True, slots=True)
class PodsSettings:
    """How pods with an environment are started."""

    deadline_margin_seconds: float = _key(
        kinds.seconds(0, 60),
        5.0,
        "time kept back from kubelet's deadline, to answer with progress instead of timing out",
    )
    kubelet_root: Path = _key(
        kinds.directory(),
        "/var/lib/kubelet",
        "kubelet's own directory, where the volumes of pods lie",
    )
    placeholder_images: tuple[ImageName, ...] = _key(
        kinds.listing(kinds.image_name()),
        ["flox/empty:1.0.0"],
        "names under which the proxy itself supplies an image with nothing in it",
    )


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Store paths on this node and the binary caches that they come from."""

    root: Path = _key(
        kinds.directory(),
        "/var/lib/cri-proxy",
        "directory of store paths, environments and remembered lockfiles, on one file system",
    )
    kind: str = _key(
        kinds.choice("own", "nix"),
        "own",
        "where store paths are kept: in a store of the proxy's own, or by this node's Nix",
    )
    nix_directory: Path | None = _key(
        kinds.optional_file(),
        "",
        "directory with nix-store, for kind nix; empty to look where Nix usually is",
    )
    nix_remote: str = _key(
        kinds.choice_or("daemon", "local?root="),
        "",
        "the store of kind nix, as in NIX_REMOTE: daemon, local?root=/dir, or empty for Nix's own",
    )
    caches: tuple[str, ...] = _key(
        kinds.listing(kinds.url("https", "http", "file")),
        ["https://cache.nixos.org", "https://cache.flox.dev"],
        "binary caches, asked in the order of their own priorities and in this order where equal",
    )
    public_keys: tuple[str, ...] = _key(
        kinds.listing(kinds.public_key()),
        [
            "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
            "flox-cache-public-1:7F4OyH7ZCnFhcze3fJdfyXYLQw/aV7GEed86nQ7IsOs=",
        ],
        "keys one of which must have signed a store path before it is used",
    )
    workers: int = _key(
        kinds.whole(0, 64),
        0,
        f"processes that fetch and unpack; 0 for one per core, at most {_WORKERS_AT_MOST}",
    )
    connections: int = _key(
        kinds.whole(1, 1024),
        64,
        "connections to binary caches at once, of the whole node",
    )
    timeout_seconds: float = _key(
        kinds.seconds(1, 3600),
        30,
        "how long a binary cache may stay silent before it is asked again or the next one is",
    )
    ca_file: Path | None = _key(
        kinds.optional_file(),
        "",
        "certificate authorities that caches are checked against; empty for the node's own",
    )

    def workers_on(self, cores: int) -> int:
        """Return how many worker processes a node with `cores` runs."""
        return self.workers or max(1, min(cores, _WORKERS_AT_MOST))


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """The other nodes of the cluster, which give each other store paths."""

    listen: str = _key(
        kinds.optional_address(),
        "",
        "address and port, such as 0.0.0.0:9465, where other nodes get this node's store paths",
    )
    names: tuple[str, ...] = _key(
        kinds.listing(kinds.host()),
        [],
        "DNS names that lead to all nodes, a headless Service's for one; asked before any cache",
    )


@dataclass(frozen=True, slots=True)
class FloxHubSettings:
    """Where environments are defined."""

    url: str = _key(
        kinds.url("https", "http"),
        "https://hub.flox.dev",
        "FloxHub itself",
    )
    git_url: str = _key(
        kinds.optional_url("https", "http"),
        "",
        "its git repositories; empty to derive it from url (host label hub becomes api, plus /git)",
    )
    api_url: str = _key(
        kinds.optional_url("https", "http"),
        "",
        "its API; empty to derive it from url (host label hub becomes api)",
    )
    token_file: Path | None = _key(
        kinds.optional_file(),
        "",
        "file with a token for the private environments of pods that bring none of their own",
    )
    remember_seconds: float = _key(
        kinds.seconds(0, 86400),
        10,
        "how long the live generation of an environment is remembered before FloxHub is asked",
    )
    timeout_seconds: float = _key(
        kinds.seconds(1, 3600),
        30,
        "how long FloxHub may stay silent before the last known generation is used",
    )
    ca_file: Path | None = _key(
        kinds.optional_file(),
        "",
        "certificate authorities that FloxHub is checked against; empty for the node's own",
    )

    @property
    def git_base(self) -> str:
        """`git_url`, or what follows from `url`: repositories are `<base>/<owner>/floxmeta`."""
        return self.git_url or f"{self.api_base}/git"

    @property
    def api_base(self) -> str:
        """`api_url`, or what follows from `url`; without a slash at the end."""
        return self.api_url or _api_of(self.url)


@dataclass(frozen=True, slots=True)
class GarbageSettings:
    """When environments that no container, pod or pin holds are removed."""

    high_percent: int = _key(
        kinds.whole(1, 100),
        80,
        "how full the file system of the store may become before something is removed; 100 for any",
    )
    low_percent: int = _key(
        kinds.whole(0, 100),
        70,
        "how full it may still be afterwards; least recently started environments go first",
    )
    age_seconds: float = _key(
        kinds.seconds(0, 10 * 365 * 86400),
        30 * 86400,
        "environments that were not started for so long are removed in any case; 0 for never",
    )
    grace_seconds: float = _key(
        kinds.seconds(0, 86400),
        600,
        "what was started, made or fetched so lately is never removed",
    )
    interval_seconds: float = _key(
        kinds.seconds(1, 86400),
        60,
        "how often the daemon looks at the disk",
    )


@dataclass(frozen=True, slots=True)
class PrewarmSettings:
    """Environments that are kept on the node, their live generation always there before a pod."""

    environments: tuple[Reference, ...] = _key(
        kinds.listing(kinds.reference()),
        [],
        "environments to realize at start, and again whenever their live generation moves",
    )
    directory: Path = _key(
        kinds.directory(),
        "/etc/cri-proxy/prewarm.d",
        "directory of files with more of them, one a line; it may be a ConfigMap, or not be there",
    )
    interval_seconds: float = _key(
        kinds.seconds(1, 86400),
        300,
        "how often FloxHub is asked for the live generation, a fifth sooner or later by chance",
    )
    at_once: int = _key(
        kinds.whole(1, 64),
        2,
        "how many are realized at the same time, at low priority",
    )


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """Store paths are compared with what was verified when they came, slowly, all the time."""

    megabytes_per_second: int = _key(
        kinds.whole(0, 100_000),
        4,
        "how fast store paths are read for it; 0 for no audit",
    )
    interval_seconds: float = _key(
        kinds.seconds(1, 365 * 86400),
        7 * 86400,
        "how often it begins anew",
    )


@dataclass(frozen=True, slots=True)
class ActivationSettings:
    """What an environment is given to start in."""

    shell: Mapping[str, StorePath] = _key(
        kinds.store_path_by_system(SHELLS),
        SHELLS,
        "store path whose bin/bash runs the hooks of environments that bring no shell",
    )
    certificates: str = _key(
        kinds.words_or_file("auto", "none"),
        "auto",
        "certificate authorities for environments that bring none: the node's bundle, a file, none",
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the daemon writes to its standard error."""

    level: str = _key(
        kinds.choice("debug", "info", "warning", "error"),
        "info",
        "the least important lines that are written",
    )
    format: str = _key(
        kinds.choice("auto", "text", "json"),
        "auto",
        "form of a line; auto is text for a terminal or the journal and JSON for the rest",
    )


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """Traces of pod startups and where they go; OpenTelemetry's own OTEL_* variables work too."""

    exporter: str = _key(
        kinds.choice("none", "otlp"),
        "none",
        "otlp sends traces by OTLP",
    )
    protocol: str = _key(
        kinds.choice("http", "grpc"),
        "http",
        "what OTLP goes over",
    )
    endpoint: str = _key(
        kinds.optional_url("https", "http"),
        "",
        "OTLP collector, such as http://localhost:4318 (4317 for grpc); empty for that default",
    )
    pods: str = _key(
        kinds.choice("all", "annotated", "none"),
        "all",
        "pods whose startups are traced: every one, those that ask for an environment, or none",
    )
    share: float = _key(
        kinds.share(),
        1,
        "part of the startups that is sent; those that kubelet samples itself always are",
    )
    keep: int = _key(
        kinds.whole(0, 10_000),
        200,
        "startups kept on this node for cri-proxy trace, with or without a collector; 0 for none",
    )
    settle_seconds: float = _key(
        kinds.seconds(0.1, 3600),
        30,
        "quiet after a start before the pod's startup is over; ten times that after a failure",
    )


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Where others look after the daemon."""

    listen: str = _key(
        kinds.optional_address(),
        "",
        "address and port, such as 127.0.0.1:9464, that answers /metrics, /healthz and /readyz",
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All sections, in the order of the documentation."""

    serve: ServeSettings = field(default_factory=ServeSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    pods: PodsSettings = field(default_factory=PodsSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    peer: PeerSettings = field(default_factory=PeerSettings)
    floxhub: FloxHubSettings = field(default_factory=FloxHubSettings)
    garbage: GarbageSettings = field(default_factory=GarbageSettings)
    prewarm: PrewarmSettings = field(default_factory=PrewarmSettings)
    audit: AuditSettings = field(default_factory=AuditSettings)
    activation: ActivationSettings = field(default_factory=ActivationSettings)
    log: LogSettings = field(default_factory=LogSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)


def _api_of(url: str) -> str:
    """Return the API's URL: `https://hub.x` has it at `https://api.x`, any other FloxHub at home.

    Source of the rule: Flox's CLI, which derives its URLs from the one of FloxHub in this way.
    """
    parts = urlsplit(url)
    if not parts.netloc.startswith("hub."):
        return url
    return urlunsplit(parts._replace(netloc="api." + parts.netloc.removeprefix("hub."), path=""))
