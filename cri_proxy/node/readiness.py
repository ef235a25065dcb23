"""Readiness of the node: the runtime answers through the proxy, kubelet is healthy and uses it.

Polled in this order, until each holds or its time is up:

1. the proxy's socket answers the CRI's Version;
2. kubelet is running, its healthz says ok, and there is a connection to the proxy's socket: at this
   point it can only be kubelet's;
3. if kubelet's credentials for the API server are readable, as kubeadm leaves them, its node is
   Ready. A restarted kubelet must have reported so since its restart, which it does when it starts.
   One that was not restarted reports at once when its node becomes not Ready, and otherwise only
   every few minutes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import re
import socket
import ssl
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from cri_proxy import errors
from cri_proxy.cri import channels
from cri_proxy.cri.runtime import Runtime
from cri_proxy.lib import certificates
from cri_proxy.node import editing
from cri_proxy.node.kubelets import Kubelet
from cri_proxy.node.root import Root
from cri_proxy.node.systemd import Systemd

_POLL_SECONDS: Final = 0.5
_ANSWER_SECONDS: Final = 5.0
_HEALTHZ_PORT: Final = 10248
_CONNECTED: Final = "03"
_LOGIN: Final = "/etc/kubernetes/kubelet.conf"
_FACTS: Final = re.compile(
    r"^\s*(server|certificate-authority-data|client-(?:certificate(?:-data)?|key-data)):\s*(\S+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Login:
    """kubelet's credentials for the API server, as kubeadm writes them.

    `authority` is PEM text. Certificate and key are in one `file`, or else in `pem` as text.
    """

    server: str
    authority: str
    file: str | None = None
    pem: str = field(default="", repr=False)

    def is_ready(self, node: str, *, since: datetime | None) -> bool | None:
        """Return whether the node has been reported Ready since `since`, None if not permitted."""
        split = urllib.parse.urlsplit(self.server)
        connection = http.client.HTTPSConnection(
            split.hostname or "",
            split.port or 443,
            context=self.context(),
            timeout=_ANSWER_SECONDS,
        )
        with contextlib.closing(connection):
            connection.request("GET", f"/api/v1/nodes/{node}")
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.OK:
                return None if answer.status in (401, 403, 404) else False
            conditions = json.load(answer)["status"].get("conditions", ())
        ready = next((each for each in conditions if each["type"] == "Ready"), None)
        if ready is None or ready["status"] != "True":
            return False
        if since is None:
            return True
        said = datetime.fromisoformat(ready["lastHeartbeatTime"].replace("Z", "+00:00"))
        return said >= since.replace(microsecond=0)

    def context(self) -> ssl.SSLContext:
        """Return a TLS context with the credentials.

        OpenSSL reads keys from files only, so an inline one is in a temporary file meanwhile.
        """
        context = certificates.context(text=self.authority)
        if self.file is not None:
            context.load_cert_chain(self.file)
            return context
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # mode 0600
            file.write(self.pem)
            file.flush()
            context.load_cert_chain(file.name)
        return context


def await_answer(listen: str, *, seconds: float) -> str:
    """Return the name and version of the runtime behind a socket, once it answers.

    Raises SourceUnreachable if it does not answer in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return asyncio.run(_version(Path(listen)))
        except errors.SourceUnreachable as error:
            if time.monotonic() > deadline:
                raise errors.SourceUnreachable(
                    f"no answer at {listen} within {seconds:.0f} seconds: {error}"
                ) from error
        time.sleep(_POLL_SECONDS)


def await_node(
    root: Root, kubelet: Kubelet, listen: str | None, *, since: datetime | None, seconds: float
) -> list[str]:
    """Return the conditions that hold once kubelet is healthy, a sentence each.

    `listen` is the socket that kubelet must be connected to, None for any; `since` is when it was
    restarted, None if it was not. Raises SourceUnreachable if a condition does not hold in time.
    """
    systemd = Systemd(root)
    deadline = time.monotonic() + seconds
    node = editing.flag_of(kubelet.words, "hostname-override") or socket.gethostname().lower()
    steps: list[tuple[str, Callable[[], bool | None]]] = [
        (f"{kubelet.unit} is running", lambda: systemd.is_active(kubelet.unit)),
        ("kubelet's healthz says ok", lambda: _is_healthy(_port_of(root, kubelet))),
    ]
    if listen is not None:
        steps.append((f"kubelet is connected to {listen}", lambda: _connections(listen) > 0))
    if login := login_of(root, kubelet.words):
        steps.append((f"node {node} is Ready", lambda: login.is_ready(node, since=since)))
    seen = []
    for what, look in steps:
        while (result := _looked(look)) is False:
            if time.monotonic() > deadline:
                raise errors.SourceUnreachable(
                    f"not true after {seconds:.0f} seconds: {what}; "
                    f"see journalctl -u {kubelet.unit}"
                )
            time.sleep(_POLL_SECONDS)
        seen.append(what if result else f"{what}: not checked")
    return seen


def login_of(root: Root, words: Sequence[str] = ()) -> Login | None:
    """Return the credentials of a kubelet with this command line, None if we cannot use them."""
    text = root.text(editing.flag_of(words, "kubeconfig") or _LOGIN) or ""
    facts = dict(reversed(_FACTS.findall(text)))  # the first of each counts
    server, authority = facts.get("server"), facts.get("certificate-authority-data")
    if not server or not authority:
        return None
    trusted = base64.b64decode(authority).decode()
    match facts:
        case {"client-certificate": file}:
            return Login(server, trusted, file)
        case {"client-certificate-data": certificate, "client-key-data": key}:
            both = base64.b64decode(certificate) + b"\n" + base64.b64decode(key)
            return Login(server, trusted, pem=both.decode())
    return None


def _looked(look: Callable[[], bool | None]) -> bool | None:
    try:
        return look()
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return False


def _is_healthy(port: int) -> bool | None:
    if port == 0:
        return None
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK


def _port_of(root: Root, kubelet: Kubelet) -> int:
    """Return the port of kubelet's healthz from its flag or file, or the default."""
    value = editing.flag_of(kubelet.words, "healthz-port")
    if value is None and kubelet.config:
        text = root.text(kubelet.config) or ""
        found = re.search(r"[\"']?healthzPort[\"']?\s*:\s*(\d+)", text)
        value = found[1] if found else None
    return _HEALTHZ_PORT if value is None else int(value)


def _connections(listen: str) -> int:
    """Return the number of open connections to the socket at `listen`, on the server's side."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return sum(len(each) > 7 and each[5] == _CONNECTED and each[7] == listen for each in fields)


async def _version(path: Path) -> str:
    async with channels.dial(path) as channel:
        answer = await Runtime(channel).version(within=_ANSWER_SECONDS)
    return f"{answer.runtime_name} {answer.runtime_version}"
