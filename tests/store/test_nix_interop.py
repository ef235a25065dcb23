"""Interoperability with Nix, in both directions."""

import dataclasses
import hashlib
import io
import os
import subprocess

import pytest

from cri_proxy import errors
from cri_proxy.store import compression, nar, narinfo, signatures
from cri_proxy.store.signatures import Keyring
from hack.testbed import binary_cache
from hack.testbed.binary_cache import Executable, Publisher, Symlink, path_of, write_tree
from hack.testbed.nix import Nix
from hack.testbed.web import FileServer

pytestmark = pytest.mark.nix

RICH = {
    "bin/run": Executable(b"#!/bin/sh\nexit 0\n"),
    "bin/again": Symlink("run"),
    "share/empty/": b"",
    "share/nothing": b"",
    "share/seven": b"1234567",
    "share/eight": b"12345678",
    "share/large": bytes(range(256)) * 5000,
    "share/Upper": b"before the lower case",
    "share/a-b": b"-",
    "share/a.b": b".",
    "share/a/b": b"/",
    "share/ä ö\n": b"names may be odd",
    "broken": Symlink("/nowhere/at/all"),
    "deep/1/2/3/4/5/6/7/8/9": Symlink("../../../../../../../../../bin"),
}


@pytest.fixture(scope="module")
def own_nix(tmp_path_factory):
    return Nix(tmp_path_factory.mktemp("nix"))


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A tree with every kind of entry."""
    tree = tmp_path_factory.mktemp("trees") / "rich"
    write_tree(tree, RICH)
    (tree / os.fsdecode(b"\xff\xfe")).write_bytes(b"a name that is no text")
    return tree


def archive_of(tree):
    written = io.BytesIO()
    nar.write(tree, written.write)
    return written.getvalue()


def test_our_archive_is_that_of_nix(own_nix, rich):
    assert archive_of(rich) == own_nix.run("nix-store", "--dump", rich)


@pytest.mark.parametrize("tree", [b"data", Executable(b"#!"), Symlink("x")])
def test_our_archive_of_a_single_node_is_that_of_nix(own_nix, tmp_path, tree):
    write_tree(tmp_path / "node", tree)

    assert archive_of(tmp_path / "node") == own_nix.run("nix-store", "--dump", tmp_path / "node")


def test_nix_restores_our_archive(own_nix, rich, tmp_path):
    own_nix.run("nix-store", "--restore", tmp_path / "restored", stdin=archive_of(rich))

    assert nar.digest_of(tmp_path / "restored") == nar.digest_of(rich)


def test_unpacked_tree_has_the_metadata_of_a_tree_that_nix_added(own_nix, rich, tmp_path):
    theirs = own_nix.physical(own_nix.add(rich))
    data = archive_of(rich)
    nar.unpack(
        io.BytesIO(data),
        tmp_path / "ours",
        nar_size=len(data),
        nar_hash=hashlib.sha256(data).digest(),
        label="x",
    )

    def metadata(root):
        return {
            path.relative_to(root): (path.lstat().st_mode, path.lstat().st_mtime_ns)
            for path in [root, *root.rglob("*")]
        }

    assert metadata(tmp_path / "ours") == metadata(theirs)


def test_path_has_the_digest_that_nix_gives_it(own_nix, rich):
    assert own_nix.add(rich) == path_of("rich", nar.digest_of(rich)[0])


@pytest.fixture(scope="module")
def closure(own_nix, rich):
    """A path in Nix's store that refers to another and to itself."""
    leaf = own_nix.add(rich)
    root = path_of("root", nar.digest_of(rich)[0], (leaf,))
    own_nix.register(root, rich, (leaf, root))
    assert own_nix.references(root) == tuple(sorted((leaf, root)))
    return leaf, root


@pytest.mark.parametrize("name", compression.NAMES)
def test_cache_that_nix_wrote_is_read_verified_and_unpacked(own_nix, closure, rich, tmp_path, name):
    leaf, root = closure
    key = signatures.generate("nix-made-1")
    own_nix.copy_to(tmp_path / "cache", [root], compression=name, key=key.text)

    for path, references in ((leaf, ()), (root, tuple(sorted(closure)))):
        text = (tmp_path / f"cache/{path.digest}.narinfo").read_bytes()
        info = narinfo.parse(text, path)
        assert (info.compression, info.references) == (name, references)
        assert narinfo.text_of(info).encode() == text
        assert Keyring([key.public]).verify(info) == "nix-made-1"
        with (tmp_path / "cache" / info.url).open("rb") as file:
            nar.unpack(
                compression.reader_of(file, info.compression, label="x"),
                tmp_path / path.name,
                nar_size=info.nar_size,
                nar_hash=info.nar_hash,
                label="x",
            )
        assert nar.digest_of(tmp_path / path.name) == nar.digest_of(rich)


def test_keys_that_nix_made_are_ours_and_sign_the_same(own_nix, closure, tmp_path):
    secret_file, public_file = tmp_path / "secret", tmp_path / "public"
    own_nix.run(
        "nix-store", "--generate-binary-cache-key", "made-by-nix-1", secret_file, public_file
    )
    secret = signatures.parse_secret(secret_file.read_text())
    assert signatures.parse_public(public_file.read_text()) == secret.public
    own_nix.copy_to(tmp_path / "cache", closure, compression="none", key=secret.text)

    for path in closure:
        info = narinfo.parse((tmp_path / f"cache/{path.digest}.narinfo").read_bytes(), path)
        unsigned = dataclasses.replace(info, signatures=())
        assert signatures.sign(unsigned, secret) == info.signatures[0]


@pytest.mark.parametrize("name", compression.NAMES)
def test_nix_fetches_from_our_cache_directory(tmp_path, name):
    publisher = Publisher(tmp_path / "cache", compression=name)
    leaf = publisher.add("leaf", RICH)
    files = {"bin/leaf": Symlink(f"{leaf}/bin/run")}
    root = publisher.add("root", files, [leaf], refers_to_itself=True)
    fetching = Nix(tmp_path / "nix")
    fetching.realise([root], cache=publisher.url, public_key=publisher.public_key)

    fetching.run("nix-store", "--verify", "--check-contents")
    trusted = {"trusted-public-keys": publisher.public_key}
    fetching.run("nix", "store", "verify", "--all", "--sigs-needed", "1", settings=trusted)
    assert fetching.references(root) == tuple(sorted((leaf, root)))
    assert nar.digest_of(fetching.physical(leaf))[0] == publisher.narinfo(leaf).nar_hash


def test_nix_fetches_from_our_cache_over_http(tmp_path):
    publisher = Publisher(tmp_path / "cache")
    leaf = publisher.add("leaf", RICH)
    root = publisher.add("root", {"bin/leaf": Symlink(f"{leaf}/bin/run")}, [leaf])
    with FileServer(publisher.directory) as server:
        fetching = Nix(tmp_path / "nix")
        fetching.realise([root], cache=server.url, public_key=publisher.public_key)

        assert server.count("/nar/*") == 2
    assert fetching.references(root) == (leaf,)


def test_nix_refuses_what_another_key_signed(tmp_path):
    publisher = Publisher(tmp_path / "cache")
    path = publisher.add("leaf", RICH)
    other = signatures.generate(publisher.key.name).public

    with pytest.raises(subprocess.CalledProcessError) as caught:
        Nix(tmp_path / "nix").realise([path], cache=publisher.url, public_key=str(other))
    assert "is not signed by any of the keys" in caught.value.__notes__[0]
    with pytest.raises(errors.SignatureUntrusted):
        Keyring([other]).verify(publisher.narinfo(path))


def test_tree_written_twice_is_published_once(tmp_path):
    """Paths derive from contents, so only a changed package is fetched."""
    publisher = binary_cache.Publisher(tmp_path / "cache")

    assert publisher.add("same", RICH) == publisher.add("same", RICH)
    assert len(list((tmp_path / "cache/nar").iterdir())) == 1
