import hashlib
import json
import tarfile
from pathlib import Path

from hack.testbed import images


def test_an_image_is_an_oci_layout_with_right_digests(tmp_path: Path) -> None:
    layer = images.layer({"hello": images.File(b"hello\n")})
    image = images.Image(
        name="docker.io/library/hello:1", layers=(layer,), cmd=("/hello",), env=("A=1",)
    )

    images.write(image, tmp_path / "image.tar")

    with tarfile.open(tmp_path / "image.tar") as tar:
        files = {member.name: _content(tar, member) for member in tar.getmembers()}
    blobs = {name: content for name, content in files.items() if name.startswith("blobs/")}
    assert all(
        name.endswith(hashlib.sha256(content).hexdigest()) for name, content in blobs.items()
    )
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == "docker.io/library/hello:1"
    manifest = json.loads(_blob(files, entry["digest"]))
    assert _blob(files, manifest["layers"][0]["digest"]) == layer
    config = json.loads(_blob(files, manifest["config"]["digest"]))
    assert config["config"] == {"Cmd": ["/hello"], "Env": ["A=1"]}
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]


def test_images_are_reproducible(tmp_path: Path) -> None:
    image = images.Image(name="docker.io/library/hello:1", layers=(images.layer({}),))

    for name in ("one", "two"):
        images.write(image, tmp_path / name)

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_layer_has_files_directories_and_links(tmp_path: Path) -> None:
    layer = images.layer(
        {
            "bin": images.File(mode=0o40755),
            "bin/tool": images.File(b"#!", 0o755),
            "bin/alias": images.File(target="tool"),
            "home": images.File(mode=0o40700, owner=1000),
        }
    )
    (tmp_path / "layer.tar").write_bytes(layer)

    with tarfile.open(tmp_path / "layer.tar") as tar:
        assert tar.getmember("bin").isdir()
        assert tar.getmember("bin/tool").mode == 0o755
        assert tar.getmember("bin/alias").linkname == "tool"
        assert tar.getmember("home").uid == 1000


def test_a_program_with_an_interpreter_is_not_static(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")

    assert not images._is_static(Path("/bin/sh").resolve())
    assert not images._is_static(script)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _blob(files: dict[str, bytes], digest: str) -> bytes:
    return files[f"blobs/{digest.replace(':', '/')}"]
