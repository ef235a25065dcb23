"""The proxy's units: a socket that outlives the daemon, and the daemon.

The socket belongs to systemd: while a daemon restarts or is upgraded, kubelet's connections wait in
its queue. The service comes after the runtime and before kubelet, and neither requires nor binds to
either: a runtime that restarts does not take the proxy with it. No option is used that would give
the service a mount namespace of its own (PrivateTmp, ProtectSystem and their like): the overlays
that it mounts for writable environments have to be seen by the runtime.
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
# It is tried again for as long as it takes: without it kubelet can start nothing.
TriggerLimitIntervalSec=0

[Install]
WantedBy=sockets.target
"""

_SERVICE: Final = """\
# Written by cri-proxy install; settings go into /etc/cri-proxy/config.toml.
[Unit]
Description=CRI proxy for FloxHub environments
Wants=network-online.target
Requires={socket}
# Neither Requires nor BindsTo for the runtime: its restart must not stop the proxy.
After={socket} network-online.target containerd.service crio.service
Before=kubelet.service
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={program} serve
# Ready when the runtime has answered; kubelet waits no longer for that than this.
TimeoutStartSec=90
# Longer than serve.drain_seconds is by default: a drop-in has to raise it with that.
TimeoutStopSec=45
# The daemon is told to end and drains; what is left in its group then is killed.
KillMode=mixed
Restart=always
RestartSec=1
WatchdogSec=60
OOMScoreAdjust=-999
LimitNOFILE=1048576
UMask=0022
# It writes store paths as root, reads pods' Secrets, gives files their owners, mounts overlays.
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
    """Return the socket unit, for a socket with mode and owner of the runtime's."""
    return _SOCKET.format(listen=listen, mode=mode, user=user, group=group)


def service_of(program: str) -> str:
    """Return the service unit; `program` is a command line up to the command."""
    return _SERVICE.format(program=program, socket=SOCKET)


def enablement() -> dict[str, str]:
    """Return the symbolic links that `systemctl enable` makes: path to target."""
    return {
        f"{DIRECTORY}/sockets.target.wants/{SOCKET}": f"{DIRECTORY}/{SOCKET}",
        f"{DIRECTORY}/multi-user.target.wants/{SERVICE}": f"{DIRECTORY}/{SERVICE}",
    }
