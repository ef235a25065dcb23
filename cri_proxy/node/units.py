"""The proxy's systemd units: a socket that outlives the daemon, and the daemon.

systemd holds the socket: while the daemon restarts or is upgraded, kubelet's connections wait in
its backlog. The service is ordered after the runtime and before kubelet, without Requires or
BindsTo for either, so that a restart of the runtime does not stop the proxy. Options that would
give the service its own mount namespace (PrivateTmp, ProtectSystem and similar) are not used: the
runtime must see the overlays that the daemon mounts for writable environments.
"""

from __future__ import annotations

from typing import Final

SOCKET: Final = "cri-proxy.socket"
SERVICE: Final = "cri-proxy.service"
DIRECTORY: Final = "/etc/systemd/system"

_SOCKET: Final = """\
# Written by cri-proxy install.
[Unit]
Description=Socket of the CRI proxy for FloxHub environments
Before=kubelet.service k3s.service k3s-agent.service

[Socket]
ListenStream={listen}
SocketMode={mode:04o}
SocketUser={user}
SocketGroup={group}
DirectoryMode=0755
Backlog=1024
RemoveOnStop=yes
# Never give up: kubelet cannot start anything without this socket.
TriggerLimitIntervalSec=0

[Install]
WantedBy=sockets.target
"""

_SERVICE: Final = """\
# Written by cri-proxy install. Settings belong into /etc/cri-proxy/config.toml.
[Unit]
Description=CRI proxy for FloxHub environments
Wants=network-online.target
Requires={socket}
# Only ordered after the runtime: a restart of the runtime must not stop the proxy.
After={socket} network-online.target containerd.service crio.service
Before=kubelet.service
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={program} serve
# The service is ready when the runtime has answered. kubelet waits for that, at most this long.
TimeoutStartSec=90
# Longer than the default of serve.drain_seconds; raise it in a drop-in together with that.
TimeoutStopSec=45
# Only the daemon gets SIGTERM and drains; processes that remain after that are killed.
KillMode=mixed
Restart=always
RestartSec=1
WatchdogSec=60
OOMScoreAdjust=-999
LimitNOFILE=1048576
UMask=0022
# For writing store paths as root, reading pods' Secrets, setting owners and mounting overlays.
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_CHOWN CAP_FOWNER
CapabilityBoundingSet=CAP_FSETID CAP_KILL CAP_SYS_NICE CAP_SYS_PTRACE
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service @mount
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def socket_of(listen: str, *, mode: int, user: str, group: str) -> str:
    """Return the socket unit, for a socket with the mode and owner of the runtime's."""
    return _SOCKET.format(listen=listen, mode=mode, user=user, group=group)


def service_of(program: str) -> str:
    """Return the service unit; `program` is a command line up to the command."""
    return _SERVICE.format(program=program, socket=SOCKET)


def enablement() -> dict[str, str]:
    """Return the symbolic links that `systemctl enable` creates, path to target."""
    return {
        f"{DIRECTORY}/sockets.target.wants/{SOCKET}": f"{DIRECTORY}/{SOCKET}",
        f"{DIRECTORY}/multi-user.target.wants/{SERVICE}": f"{DIRECTORY}/{SERVICE}",
    }
