"""The runtime's socket, found on a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.node import runtimes
from cri_proxy.node.root import Root

OURS = "/run/cri-proxy/cri-proxy.sock"


def find(root: Root, endpoint: str, remembered: str | None = None) -> str:
    return runtimes.find(root, endpoint, ours=OURS, remembered=remembered)


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("unix:///run/containerd/containerd.sock", "/run/containerd/containerd.sock"),
        ("/run/crio/crio.sock", "/run/crio/crio.sock"),
        ("unix:///var/run/crio//crio.sock", "/run/crio/crio.sock"),
        ("/srv/var/run/x.sock", "/srv/var/run/x.sock"),
    ],
)
def test_an_endpoint_is_reduced_to_the_path_of_its_socket(endpoint: str, path: str) -> None:
    assert runtimes.socket_of(endpoint) == path


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:1", "npipe:////./pipe/x", ""])
def test_an_endpoint_that_is_not_a_unix_socket_is_refused(endpoint: str) -> None:
    with pytest.raises(errors.RequestInvalid, match="not a unix socket"):
        runtimes.socket_of(endpoint)


def test_the_runtime_that_kubelet_uses_comes_first(tmp_path: Path) -> None:
    assert find(Root(tmp_path), "unix:///run/a.sock", "/run/b.sock") == "/run/a.sock"


def test_behind_the_proxy_is_the_runtime_of_the_earlier_installation(tmp_path: Path) -> None:
    assert find(Root(tmp_path), f"unix://{OURS}", "/run/b.sock") == "/run/b.sock"


def test_without_an_earlier_installation_a_well_known_socket_is_taken(tmp_path: Path) -> None:
    root = Root(tmp_path)
    for path in ("/run/crio/crio.sock", "/run/k3s/containerd/containerd.sock"):
        root.at(path).parent.mkdir(parents=True)
        root.at(path).touch()

    assert find(root, f"unix://{OURS}") == "/run/crio/crio.sock"


def test_a_node_without_any_runtime_is_refused_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match=r"set runtime\.endpoint"):
        find(Root(tmp_path), f"unix://{OURS}")
