"""The messages that kubelet sends to a runtime for a pod, and the files that it writes on the node.

    <directory>/kubelet/pods/<uid>/volumes/kubernetes.io~secret/<name>/<key>
                                   etc-hosts, containers/<name>/<attempt>   (termination logs)
    <directory>/logs/<namespace>_<name>_<uid>/<container>/<attempt>.log

`write_pod_files` and `write_container_files` write the files, and the messages refer to them.
Labels, annotations and the security context are kubelet's (pkg/kubelet/kuberuntime), so that
readers find the same as on a node. `pods` makes the calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cri_proxy.cri import api_pb2
from hack.testbed import images

NAMESPACE: Final = "default"
_FIRST_ID: Final = 65536 * 1000  # the host's id for root in a pod with a user namespace
_IDS: Final = 65536
_MASKED: Final = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
)
_READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory or file of the host in a container."""

    host_path: Path
    container_path: str
    is_read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A container as in a pod's manifest.

    `command` and `args` have the meaning that they have in a pod: without them, the image's
    Entrypoint and Cmd apply. `envs` keeps order and duplicates. `user` is a number or a name.
    `has_default_seccomp` is seccompProfile RuntimeDefault, `drops_capabilities` drop: [ALL] with
    allowPrivilegeEscalation: false.
    """

    name: str = "main"
    image: str = images.BUSYBOX
    command: Sequence[str] = ()
    args: Sequence[str] = ()
    envs: Sequence[tuple[str, bytes]] = ()
    mounts: Sequence[Mount] = ()
    working_dir: str = ""
    user: int | str | None = None
    has_stdin: bool = False
    is_root_read_only: bool = False
    has_default_seccomp: bool = False
    drops_capabilities: bool = False
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class PodFiles:
    """The files of one pod: the parent directories of its volumes and of its logs."""

    uid: str
    directory: Path
    logs: Path

    def volume(self, name: str) -> Path:
        """Return the directory of a secret volume."""
        return self.directory / "volumes" / "kubernetes.io~secret" / name

    def termination_log(self, container: str, attempt: int) -> Path:
        """Return the file that is mounted as /dev/termination-log in a container."""
        return self.directory / "containers" / container / f"{attempt:08x}"


def write_pod_files(
    directory: Path, name: str, uid: str, *, secrets: Mapping[str, Mapping[str, bytes]]
) -> PodFiles:
    """Write the files that a pod mounts; `secrets` is volume name → key → content."""
    files = PodFiles(
        uid=uid,
        directory=directory / "kubelet" / "pods" / uid,
        logs=directory / "logs" / f"{NAMESPACE}_{name}_{uid}",
    )
    files.directory.mkdir(parents=True)
    files.logs.mkdir(parents=True)
    (files.directory / "etc-hosts").write_text("127.0.0.1\tlocalhost\n")
    for volume, content in secrets.items():
        _write_secret(files.volume(volume), content)
    return files


def write_container_files(files: PodFiles, spec: Spec) -> None:
    """Write the files that every container mounts, and create the directory of its log."""
    (files.logs / spec.name).mkdir(exist_ok=True)
    termination_log = files.termination_log(spec.name, spec.attempt)
    termination_log.parent.mkdir(parents=True, exist_ok=True)
    termination_log.touch()
    termination_log.chmod(0o666)


def sandbox_config(
    files: PodFiles,
    name: str,
    *,
    annotations: Mapping[str, str],
    is_host_networked: bool,
    has_user_namespace: bool = False,
    cgroup_parent: str,
) -> api_pb2.PodSandboxConfig:
    """Return the sandbox of a best-effort pod, with a control group below `cgroup_parent`."""
    return api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(name=name, uid=files.uid, namespace=NAMESPACE),
        hostname="" if is_host_networked else name,
        log_directory=str(files.logs),
        dns_config=api_pb2.DNSConfig(servers=["127.0.0.1"]),
        labels=_pod_labels(name, files.uid),
        annotations={
            "kubernetes.io/config.seen": "2026-01-01T00:00:00.000000000Z",
            "kubernetes.io/config.source": "api",
            **annotations,
        },
        linux=api_pb2.LinuxPodSandboxConfig(
            cgroup_parent=f"{cgroup_parent}/besteffort/pod{files.uid}" if cgroup_parent else "",
            security_context=api_pb2.LinuxSandboxSecurityContext(
                namespace_options=_namespaces(
                    is_host_networked=is_host_networked, has_user_namespace=has_user_namespace
                ),
                seccomp=_unconfined(),
            ),
        ),
    )


def container_config(
    files: PodFiles, sandbox: api_pb2.PodSandboxConfig, spec: Spec, *, image_id: str
) -> api_pb2.ContainerConfig:
    """Return a container's configuration; kubelet refers to the image by its id."""
    mounts = (
        *spec.mounts,
        Mount(files.directory / "etc-hosts", "/etc/hosts"),
        Mount(files.termination_log(spec.name, spec.attempt), "/dev/termination-log"),
    )
    return api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name=spec.name, attempt=spec.attempt),
        image=api_pb2.ImageSpec(image=image_id, user_specified_image=spec.image),
        command=spec.command,
        args=spec.args,
        working_dir=spec.working_dir,
        envs=[api_pb2.KeyValue(key=key, value=value) for key, value in spec.envs],
        mounts=[_mount(each) for each in mounts],
        labels={
            **_pod_labels(sandbox.metadata.name, files.uid),
            "io.kubernetes.container.name": spec.name,
        },
        annotations={
            "io.kubernetes.container.hash": "5eed5eed",
            "io.kubernetes.container.restartCount": str(spec.attempt),
            "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
            "io.kubernetes.container.terminationMessagePolicy": "File",
            "io.kubernetes.pod.terminationGracePeriod": "30",
        },
        log_path=f"{spec.name}/{spec.attempt}.log",
        stdin=spec.has_stdin,
        linux=api_pb2.LinuxContainerConfig(
            resources=api_pb2.LinuxContainerResources(cpu_shares=2, oom_score_adj=1000),
            security_context=_security_context(sandbox, spec),
        ),
    )


def _security_context(
    sandbox: api_pb2.PodSandboxConfig, spec: Spec
) -> api_pb2.LinuxContainerSecurityContext:
    user = spec.user
    runtime_default = api_pb2.SecurityProfile(profile_type=api_pb2.SecurityProfile.RuntimeDefault)
    return api_pb2.LinuxContainerSecurityContext(
        namespace_options=sandbox.linux.security_context.namespace_options,
        run_as_user=api_pb2.Int64Value(value=user) if isinstance(user, int) else None,
        run_as_username=user if isinstance(user, str) else "",
        masked_paths=_MASKED,
        readonly_paths=_READ_ONLY,
        readonly_rootfs=spec.is_root_read_only,
        no_new_privs=spec.drops_capabilities,
        capabilities=api_pb2.Capability(drop_capabilities=["ALL"])
        if spec.drops_capabilities
        else None,
        seccomp=runtime_default if spec.has_default_seccomp else _unconfined(),
    )


def _write_secret(volume: Path, content: Mapping[str, bytes]) -> None:
    """Write a secret as kubelet's atomic writer does: keys link to `..data`, that to a version."""
    version = volume / "..2026_01_01_00_00_00.0000000001"
    version.mkdir(parents=True)
    (volume / "..data").symlink_to(version.name)
    for key, value in content.items():
        (version / key).write_bytes(value)
        (version / key).chmod(0o644)
        (volume / key).symlink_to(Path("..data") / key)


def _mount(mount: Mount) -> api_pb2.Mount:
    return api_pb2.Mount(
        host_path=str(mount.host_path),
        container_path=mount.container_path,
        readonly=mount.is_read_only,
    )


def _pod_labels(name: str, uid: str) -> dict[str, str]:
    return {
        "io.kubernetes.pod.name": name,
        "io.kubernetes.pod.namespace": NAMESPACE,
        "io.kubernetes.pod.uid": uid,
    }


def _namespaces(*, is_host_networked: bool, has_user_namespace: bool) -> api_pb2.NamespaceOption:
    mapping = [api_pb2.IDMapping(host_id=_FIRST_ID, container_id=0, length=_IDS)]
    return api_pb2.NamespaceOption(
        network=api_pb2.NODE if is_host_networked else api_pb2.POD,
        pid=api_pb2.CONTAINER,
        ipc=api_pb2.POD,
        userns_options=api_pb2.UserNamespace(mode=api_pb2.POD, uids=mapping, gids=mapping)
        if has_user_namespace
        else None,
    )


def _unconfined() -> api_pb2.SecurityProfile:
    return api_pb2.SecurityProfile(profile_type=api_pb2.SecurityProfile.Unconfined)
