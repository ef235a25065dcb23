"""Where tokens are read, and what is not read for one."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.interposer import tokens

TOKEN = "flox_pat_0123456789"
UID = "0b8d7a3e-1111-2222-3333-444455556666"


def volume(root: Path, kind: str = "kubernetes.io~secret", token: str = TOKEN) -> Path:
    """Lay a volume of the pod as kubelet does; return its directory."""
    place = root / "pods" / UID / "volumes" / kind / "any-name"
    (place / "..version").mkdir(parents=True)
    (place / "..version" / tokens.FILE).write_text(token)
    (place / "..data").symlink_to("..version")
    (place / tokens.FILE).symlink_to(f"..data/{tokens.FILE}")
    return place


def mount(host: Path, place: str = tokens.MOUNT) -> api_pb2.Mount:
    return api_pb2.Mount(host_path=str(host), container_path=place)


def test_other_mounts_hold_no_token(tmp_path: Path) -> None:
    mounts = [mount(tmp_path, place) for place in ("/", "/var/run/secrets", f"{tokens.MOUNT}.old")]

    assert tokens.of_mounts(mounts) is None


@pytest.mark.parametrize("kind", ["kubernetes.io~secret", "kubernetes.io~projected"])
def test_a_pods_volumes_are_looked_through_before_its_mounts_are_known(
    tmp_path: Path, kind: str
) -> None:
    place = volume(tmp_path, kind)

    assert tokens.of_volumes(tmp_path, UID) == TOKEN
    assert tokens.of_mounts([mount(place)]) == TOKEN


@pytest.mark.parametrize("uid", ["", "..", "../..", "a/b", "x" * 65])
def test_what_is_no_uid_leads_to_no_volume(tmp_path: Path, uid: str) -> None:
    volume(tmp_path)

    assert tokens.of_volumes(tmp_path, uid) is None


def test_a_doubtful_volume_is_no_token_and_no_error(tmp_path: Path) -> None:
    place = volume(tmp_path, token="two words")

    assert tokens.of_volumes(tmp_path, UID) is None
    (place / tokens.FILE).unlink()
    (place / tokens.FILE).symlink_to("/etc/hostname")
    assert tokens.of_volumes(tmp_path, UID) is None


def test_a_volume_that_is_changed_under_our_eyes_never_shows_another_file(tmp_path: Path) -> None:
    """A container with a writable volume there may swap links as fast as it can."""
    loot = tmp_path / "loot"
    loot.mkdir()
    (loot / tokens.FILE).write_text("loot")
    place = volume(tmp_path)
    is_over = threading.Event()

    def swap() -> None:
        beside = place / "..beside"
        while not is_over.is_set():
            for target in (str(loot), "..version"):
                beside.symlink_to(target)
                beside.rename(place / "..data")

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen = set()
    try:
        for _ in range(2000):
            try:
                seen.add(tokens.of_mounts([mount(place)]))
            except errors.RequestInvalid as error:
                seen.add(type(error))
    finally:
        is_over.set()
        swapping.join()

    assert seen <= {TOKEN, errors.RequestInvalid}


def test_the_nodes_token_may_be_a_link_as_configuration_management_lays_it(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(f"{TOKEN}\n")
    (tmp_path / "token").symlink_to("elsewhere")

    assert tokens.of_node(tmp_path / "token") == TOKEN


def test_a_nodes_token_that_cannot_be_read_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("absent", "empty", "."):
        with pytest.raises(errors.RequestInvalid, match=r"the setting floxhub\.token_file"):
            tokens.of_node(tmp_path / name)


async def test_a_mount_that_never_answers_blocks_no_other_container(tmp_path: Path) -> None:
    """As a network file system may; here a thread that waits stands in for it."""
    place = volume(tmp_path)
    known = tokens.Tokens(tmp_path, None)
    loop = asyncio.get_running_loop()
    release = threading.Event()
    stuck = loop.run_in_executor(None, release.wait)
    try:
        assert await known.of_container([mount(place)]) == TOKEN
        assert await known.of_container([]) is None
    finally:
        release.set()
        await stuck


async def test_the_pods_own_token_goes_before_the_nodes(tmp_path: Path) -> None:
    file = tmp_path / "node"
    file.write_text("of-the-node")
    known = tokens.Tokens(tmp_path, file)

    assert known.of_pod(UID) == "of-the-node"
    place = volume(tmp_path)
    assert known.of_pod(UID) == TOKEN
    assert await known.of_container([mount(place)]) == TOKEN
    assert await known.of_container([]) == "of-the-node"
    os.unlink(place / "..version" / tokens.FILE)
    with pytest.raises(errors.RequestInvalid):
        await known.of_container([mount(place)])
