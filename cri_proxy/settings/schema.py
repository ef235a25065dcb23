"""The table of settings: the only definition of every section, key, default and help text.

A section is a frozen dataclass, a key is one of its fields. To add a key, add a field: its names in
the file, in the environment and as a flag, its entry in --help-settings and its row in
docs/settings.md are derived from it. `Settings()` has all defaults.

A field holds the parsed value as it was set. Values that are derived from several fields, or from
the node, are properties or methods, so that replacing one field never leaves a stale value.
The file is long because it is one table; `contradictions` checks values against each other.
"""

# ruff: noqa: RUF009 - `key` is `dataclasses.field` with the names filled in

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from cri_proxy.model.imagenames import ImageName
from cri_proxy.model.references import Reference
from cri_proxy.model.storepaths import StorePath
from cri_proxy.settings import kinds

# bashNonInteractive 5.3p15 of Flox's base catalog, so the default caches have it, signed.
SHELLS: Final = {
    "x86_64-linux": "/nix/store/7ik8057hajl6vq9j40h3jracxjn0bb5x-bash-5.3p15",
    "aarch64-linux": "/nix/store/rzpv2vlq1zmhjqjinjgff1v83nw0b3hz-bash-5.3p15",
}
_WORKERS_AT_MOST: Final = 4


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """The socket that kubelet connects to."""

    listen: Path = kinds.unix_socket.key(
        "/run/cri-proxy/cri-proxy.sock", "the socket that kubelet is configured to use"
    )
    front: str = kinds.choice("interposer", "router").key(
        "router",
        "which part serves kubelet: the router in front of the interposer, or the interposer alone",
    )
    drain_seconds: float = kinds.seconds(0, 3600).key(
        20, "how long the daemon waits for calls in flight when it stops"
    )


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """The container runtime behind the proxy."""

    endpoint: Path = kinds.unix_socket.key(
        "/run/containerd/containerd.sock", "the CRI socket of the container runtime"
    )
    handlers: Mapping[str, str] = kinds.handlers.key(
        {"flox": ""}, "RuntimeClass handlers that the runtime lacks, mapped to handlers that it has"
    )


@dataclass(frozen=True, slots=True)
class PodsSettings:
    """How pods with an environment start."""

    deadline_margin_seconds: float = kinds.seconds(0, 60).key(
        5.0, "how long before kubelet's deadline a waiting call is answered with its progress"
    )
    kubelet_root: Path = kinds.directory.key(
        "/var/lib/kubelet", "kubelet's root directory, which has the volumes of pods"
    )
    placeholder_images: tuple[ImageName, ...] = kinds.listing(kinds.image_name).key(
        ["flox/empty:1.0.0"],
        "names of the placeholder image, which is empty and supplied by the proxy",
    )


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """The store paths on this node and the binary caches to fetch them from."""

    root: Path = kinds.directory.key(
        "/var/lib/cri-proxy",
        "directory of store paths, environments and cached lockfiles, all on one file system",
    )
    kind: str = kinds.choice("own", "nix").key(
        "own", "which store holds the store paths: the proxy's own, or that of the node's Nix"
    )
    nix_directory: Path | None = kinds.optional_file.key(
        "", "directory with nix-store, for kind nix; empty to search the usual places"
    )
    nix_remote: str = kinds.choice_or("daemon", "local?root=").key(
        "",
        "store for kind nix, as in NIX_REMOTE: daemon, local?root=/dir, or empty for Nix's default",
    )
    caches: tuple[str, ...] = kinds.listing(kinds.url("https", "http", "file")).key(
        ["https://cache.nixos.org", "https://cache.flox.dev"],
        "binary caches, queried by the priority that each announces, and in this order where equal",
    )
    public_keys: tuple[str, ...] = kinds.listing(kinds.public_key).key(
        [
            "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
            "flox-cache-public-1:7F4OyH7ZCnFhcze3fJdfyXYLQw/aV7GEed86nQ7IsOs=",
        ],
        "trusted keys; a store path is used only if one of them has signed it",
    )
    workers: int = kinds.whole(0, 64).key(
        0, f"worker processes that fetch and unpack; 0 for one per core, at most {_WORKERS_AT_MOST}"
    )
    connections: int = kinds.whole(1, 1024).key(
        64, "maximum number of connections to binary caches, for the whole node"
    )
    timeout_seconds: float = kinds.seconds(1, 3600).key(
        30, "how long to wait for data from a binary cache before retrying or trying the next one"
    )
    ca_file: Path | None = kinds.optional_file.key(
        "", "file of certificate authorities for binary caches; empty for those of the node"
    )

    def workers_on(self, cores: int) -> int:
        """Return the number of worker processes on a node with `cores`."""
        return self.workers or max(1, min(cores, _WORKERS_AT_MOST))


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """Other nodes of the cluster, which share store paths with each other."""

    listen: str = kinds.optional_address.key(
        "", "address and port, such as 0.0.0.0:9465, that serves store paths to other nodes"
    )
    names: tuple[str, ...] = kinds.listing(kinds.host).key(
        [],
        "DNS names that resolve to all nodes, such as a headless Service's; queried before caches",
    )


@dataclass(frozen=True, slots=True)
class FloxHubSettings:
    """FloxHub, which environments are resolved from."""

    url: str = kinds.url("https", "http").key("https://hub.flox.dev", "URL of FloxHub")
    git_url: str = kinds.optional_url("https", "http").key(
        "",
        "URL of its git repositories; empty to derive it from url (hub.HOST becomes api.HOST/git)",
    )
    api_url: str = kinds.optional_url("https", "http").key(
        "", "URL of its API; empty to derive it from url (hub.HOST becomes api.HOST)"
    )
    token_file: Path | None = kinds.optional_file.key(
        "", "file with a token for private environments, for pods that bring no token of their own"
    )
    remember_seconds: float = kinds.seconds(0, 86400).key(
        10, "how long the live generation of an environment is cached before FloxHub is asked again"
    )
    timeout_seconds: float = kinds.seconds(1, 3600).key(
        30, "how long to wait for data from FloxHub before using the last known generation"
    )
    ca_file: Path | None = kinds.optional_file.key(
        "", "file of certificate authorities for FloxHub; empty for those of the node"
    )

    @property
    def git_base(self) -> str:
        """`git_url`, or the URL derived from `url`: repositories are `<base>/<owner>/floxmeta`."""
        return self.git_url or f"{self.api_base}/git"

    @property
    def api_base(self) -> str:
        """`api_url`, or the URL that Flox's CLI derives from `url`; without a trailing slash."""
        parts = urlsplit(self.url)
        if self.api_url or not parts.netloc.startswith("hub."):
            return self.api_url or self.url
        netloc = "api." + parts.netloc.removeprefix("hub.")
        return urlunsplit(parts._replace(netloc=netloc, path=""))


@dataclass(frozen=True, slots=True)
class GarbageSettings:
    """When environments that no container, pod or pin holds are deleted."""

    high_percent: int = kinds.whole(1, 100).key(
        80, "disk usage of the store above which unused environments are deleted; 100 for never"
    )
    low_percent: int = kinds.whole(0, 100).key(
        70,
        "disk usage at which deleting stops; least recently started environments are deleted first",
    )
    age_seconds: float = kinds.seconds(0, 10 * 365 * 86400).key(
        30 * 86400,
        "unused environments not started for this long are deleted at any disk usage; 0 for never",
    )
    grace_seconds: float = kinds.seconds(0, 86400).key(
        600, "nothing that was started, made or fetched this recently is deleted"
    )
    interval_seconds: float = kinds.seconds(1, 86400).key(60, "how often disk usage is checked")


@dataclass(frozen=True, slots=True)
class PrewarmSettings:
    """Environments whose live generation is realized on the node before any pod asks for it."""

    environments: tuple[Reference, ...] = kinds.listing(kinds.reference).key(
        [], "environments to realize at start, and again whenever their live generation moves"
    )
    directory: Path = kinds.directory.key(
        "/etc/cri-proxy/prewarm.d",
        "directory of files with more references, one per line, such as a ConfigMap; may be absent",
    )
    interval_seconds: float = kinds.seconds(1, 86400).key(
        300, "how often FloxHub is asked for the live generation, with a random jitter of one fifth"
    )
    at_once: int = kinds.whole(1, 64).key(2, "how many are realized concurrently, at low priority")


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """Continuous background verification of the store paths on disk."""

    megabytes_per_second: int = kinds.whole(0, 100_000).key(
        4, "read rate of the audit; 0 disables it"
    )
    interval_seconds: float = kinds.seconds(1, 365 * 86400).key(
        7 * 86400, "how often an audit of the whole store starts"
    )


@dataclass(frozen=True, slots=True)
class ActivationSettings:
    """What the proxy provides to environments that lack it."""

    shell: Mapping[str, StorePath] = kinds.store_path_by_system(SHELLS).key(
        SHELLS, "store path whose bin/bash runs the hooks of environments without a shell"
    )
    certificates: str = kinds.words_or_file("auto", "none").key(
        "auto",
        "certificate authorities for environments without them: auto (the node's), a file, or none",
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The daemon's log, on standard error."""

    level: str = kinds.choice("debug", "info", "warning", "error").key(
        "info", "minimum level of the lines that are logged"
    )
    format: str = kinds.choice("auto", "text", "json").key(
        "auto", "format of a line; auto is text on a terminal or in the journal, and JSON elsewhere"
    )


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """Traces of pod startups and their export; OpenTelemetry's OTEL_* variables work as well."""

    exporter: str = kinds.choice("none", "otlp").key("none", "otlp exports traces by OTLP")
    protocol: str = kinds.choice("http", "grpc").key("http", "transport of OTLP")
    endpoint: str = kinds.optional_url("https", "http").key(
        "", "URL of the OTLP collector; empty for http://localhost:4318 (4317 for grpc)"
    )
    pods: str = kinds.choice("all", "annotated", "none").key(
        "all", "pods whose startups are traced: all, annotated (with an environment), or none"
    )
    share: float = kinds.share.key(
        1, "ratio of startups that are exported; those that kubelet sampled are always exported"
    )
    keep: int = kinds.whole(0, 10_000).key(
        200, "how many startups are kept on this node for cri-proxy trace; 0 for none"
    )
    settle_seconds: float = kinds.seconds(0.1, 3600).key(
        30, "how long after the last start a startup ends; ten times as long after a failure"
    )


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Metrics and health checks over HTTP."""

    listen: str = kinds.optional_address.key(
        "", "address and port, such as 127.0.0.1:9464, that serves /metrics, /healthz and /readyz"
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
