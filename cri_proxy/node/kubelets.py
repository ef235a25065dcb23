"""kubelet's configuration: which runtime it uses, and the smallest change that sets another.

    a flag on its command line      overrides every file; changed where it is written, or, if that
                                    is a vendor's unit, in a drop-in that repeats the command
    a drop-in directory             --config-dir: a file of our own
    its configuration file          --config: the key containerRuntimeEndpoint, and the same in
                                    instance-config.yaml, from which kubeadm generates the file
    none of these                   a flag in KUBELET_EXTRA_ARGS, if the unit uses it
    k3s                             a file of our own in config.yaml.d: kubelet is a part of k3s,
                                    which keeps starting its own containerd

`find` returns the current configuration, `edits` the new text of files. Nothing is written here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from cri_proxy import errors
from cri_proxy.node import editing, unitfiles
from cri_proxy.node.root import Root

DROPIN: Final = "90-cri-proxy.conf"
EXTRA: Final = "KUBELET_EXTRA_ARGS"
_RUNTIME: Final = ("container-runtime-endpoint", "containerRuntimeEndpoint")
_IMAGES: Final = ("image-service-endpoint", "imageServiceEndpoint")
_UNITS: Final = ("kubelet.service", "snap.kubelet-eks.daemon.service")
_K3S: Final = ("k3s.service", "k3s-agent.service")
_K3S_CONFIG: Final = "/etc/rancher/k3s/config.yaml.d/90-cri-proxy.yaml"
_K3S_ENDPOINT: Final = "unix:///run/k3s/containerd/containerd.sock"
_DEFAULT_ENDPOINT: Final = "unix:///run/containerd/containerd.sock"
_INSTANCE: Final = "instance-config.yaml"
_VENDOR: Final = ("/usr/", "/lib/", "/run/")


@dataclass(frozen=True, slots=True)
class Kubelet:
    """A kubelet as systemd would start it now; `endpoint` is the URL of its runtime."""

    unit: str
    endpoint: str
    service: unitfiles.Service
    config: str | None = None
    config_directory: str | None = None

    @property
    def is_k3s(self) -> bool:
        """Whether it is part of k3s."""
        return self.unit in _K3S

    @property
    def words(self) -> list[str]:
        """Return its command line."""
        return [word.text for word in self.service.words]


def find(root: Root) -> Kubelet:
    """Return the node's kubelet; raise NotFound if no unit starts one."""
    for unit in (*_UNITS, *_K3S):
        service = unitfiles.service_of(root, unit)
        if service is not None and service.words:
            return _kubelet_of(root, service)
    raise errors.NotFound(
        f"no systemd unit starts kubelet here (looked for {', '.join((*_UNITS, *_K3S))}): "
        "point kubelet's containerRuntimeEndpoint to the proxy by hand"
    )


def endpoint_of(root: Root, words: Sequence[str]) -> str | None:
    """Return the runtime's endpoint of a kubelet with this command line, None if not configured."""
    endpoint = editing.flag_of(words, _RUNTIME[0])
    if endpoint is not None:
        return endpoint
    return _configured(root, words, _RUNTIME[1])


def edits(root: Root, kubelet: Kubelet, endpoint: str) -> dict[str, str]:
    """Return the files that make kubelet use `endpoint`, path to new text.

    Raises RequestInvalid for a configuration that cannot be edited safely, NotFound for a missing
    one.
    """
    if kubelet.is_k3s:
        flag = f"container-runtime-endpoint={endpoint}"
        return {_K3S_CONFIG: f'kubelet-arg+:\n  - "{flag}"\n'}
    editor = _Editor(root, kubelet, endpoint)
    for flag, key in (_RUNTIME, _IMAGES):
        if editing.flag_of(kubelet.words, flag) is not None:
            editor.change_flag(flag)
        elif key == _IMAGES[1] and not _configured(root, kubelet.words, key):
            continue  # images come from the runtime's endpoint
        elif kubelet.config_directory:
            editor.set_in_directory(kubelet.config_directory, key)
        elif kubelet.config:
            editor.set_in_file(kubelet.config, key)
        else:
            editor.add_flag(flag)
    return editor.found


@dataclass(frozen=True, slots=True)
class _Editor:
    """The edits so far: `found` has the new text of each file."""

    root: Root
    kubelet: Kubelet
    endpoint: str
    found: dict[str, str] = field(default_factory=dict)

    def change_flag(self, flag: str) -> None:
        """Change a flag in every file that contributes it to the command line."""
        files = {
            word.file
            for word in self.kubelet.service.words
            if word.text == f"--{flag}" or word.text.startswith(f"--{flag}=")
        }
        for file in sorted(files):
            if file.startswith(_VENDOR):
                text = self._dropin()
                changed = editing.with_flag(text, flag, self.endpoint)
                if changed is None:  # in an Environment= of the vendor: the last flag wins
                    changed = f"{text.rstrip()} --{flag}={self.endpoint}\n"
                self.found[self._dropin_path] = changed
                continue
            changed = editing.with_flag(self._text(file) or "", flag, self.endpoint)
            if changed is None:
                raise errors.RequestInvalid(
                    f"{file} has --{flag} in a form that cannot be edited: set it by hand to "
                    f"{self.endpoint}"
                )
            self.found[file] = changed

    def set_in_directory(self, directory: str, key: str) -> None:
        """Set a key in a file of our own; refuse it if one that is read later sets it, too."""
        for name in self.root.names(directory):
            text = self.root.text(f"{directory}/{name}") if name > DROPIN else None
            if name.endswith(".conf") and text is not None and _value(name, text, key):
                raise errors.RequestInvalid(
                    f"{directory}/{name} sets {key} and is read after {DROPIN}: remove it there"
                )
        path = f"{directory}/{DROPIN}"
        head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
        text = self.found.get(path, head)
        self.found[path] = editing.with_yaml_value(text, key, self.endpoint)

    def set_in_file(self, config: str, key: str) -> None:
        """Set a key in the configuration file, and in the one that kubeadm generates it from."""
        files = [config]
        instance = str(PurePosixPath(config).with_name(_INSTANCE))
        if self.root.text(instance) is not None:
            files.append(instance)
        for file in files:
            text = self._text(file)
            if text is None:
                raise errors.NotFound(
                    f"{file}, kubelet's configuration file, does not exist yet: join the node to "
                    "its cluster first"
                )
            self.found[file] = _with_value(file, text, key, self.endpoint)

    def add_flag(self, flag: str) -> None:
        """Add a flag for a kubelet without a configuration file."""
        words = f"--{flag}={self.endpoint}"
        file = self.kubelet.service.variables_file(EXTRA)
        if file is not None:
            self.found[file] = editing.with_words(self._text(file) or "", EXTRA, words)
        else:
            self.found[self._dropin_path] = f"{self._dropin().rstrip()} {words}\n"

    @property
    def _dropin_path(self) -> str:
        return f"/etc/systemd/system/{self.kubelet.unit}.d/{DROPIN}"

    def _dropin(self) -> str:
        command = self.kubelet.service.command
        return self.found.get(self._dropin_path, f"[Service]\nExecStart=\nExecStart={command}\n")

    def _text(self, file: str) -> str | None:
        return self.found.get(file) or self.root.text(file)


def _kubelet_of(root: Root, service: unitfiles.Service) -> Kubelet:
    words = [word.text for word in service.words]
    if service.name in _K3S:
        ours = re.search(r"container-runtime-endpoint=([^\s\"']+)", root.text(_K3S_CONFIG) or "")
        return Kubelet(service.name, ours[1] if ours else _K3S_ENDPOINT, service)
    endpoint = endpoint_of(root, words) or _DEFAULT_ENDPOINT
    url = endpoint if "://" in endpoint else f"unix://{endpoint}"
    config, directory = (editing.flag_of(words, flag) for flag in ("config", "config-dir"))
    return Kubelet(service.name, url, service, config, directory)


def _configured(root: Root, words: Sequence[str], key: str) -> str | None:
    """Return a key of kubelet's files: the last file of the drop-in directory wins."""
    config = editing.flag_of(words, "config")
    files = [config] if config else []
    if directory := editing.flag_of(words, "config-dir"):
        files += [f"{directory}/{each}" for each in root.names(directory) if each.endswith(".conf")]
    value = None
    for file in files:
        text = root.text(file)
        if text is not None:
            value = _value(file, text, key) or value
    return value


def _is_json(text: str) -> bool:
    return text.lstrip().startswith("{")


def _value(file: str, text: str, key: str) -> str | None:
    try:
        return editing.json_value(text, key) if _is_json(text) else editing.yaml_value(text, key)
    except json.JSONDecodeError as error:
        raise errors.RequestInvalid(f"{file} is not valid JSON: {error}; fix it") from error


def _with_value(file: str, text: str, key: str, value: str) -> str:
    if not _is_json(text):
        return editing.with_yaml_value(text, key, value)
    try:
        return editing.with_json_value(text, key, value)
    except ValueError as error:
        raise errors.RequestInvalid(f"{file}: {error}; set {key} by hand to {value}") from error
