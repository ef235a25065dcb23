"""The placeholder image: its bytes never change unnoticed, and hold what is promised."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

from cri_proxy.model import placeholder

DIGEST = "sha256:dfdb7fa01167ee92c3a3b41db5ae996a69664514829bd63657ef5cae3aef295d"


def layer() -> tarfile.TarFile:
    (blob,) = [each for each in placeholder.build().walk() if each.media_type.endswith(".tar")]
    return tarfile.open(fileobj=io.BytesIO(blob.content))


def test_the_digest_is_the_same_on_every_node() -> None:
    """Pods may name it: a change here is a new image, and needs a line in the changelog."""
    assert placeholder.build().digest == DIGEST


def test_every_blob_comes_after_those_that_it_names_and_names_them_rightly() -> None:
    seen = {}
    for blob in placeholder.build().walk():
        named = json.loads(blob.content) if blob.media_type.endswith("json") else {}
        descriptors = [*named.get("manifests", []), *named.get("layers", [])]
        descriptors += [named["config"]] if "digest" in named.get("config", {}) else []
        for each in descriptors:
            child = seen[each["digest"]]
            assert (each["size"], each["mediaType"]) == (len(child.content), child.media_type)
        assert {each["digest"] for each in descriptors} == {each.digest for each in blob.children}
        assert blob.digest == f"sha256:{hashlib.sha256(blob.content).hexdigest()}"
        seen[blob.digest] = blob

    assert len(seen) == 6
    assert sum(len(blob.content) for blob in seen.values()) < 12_000


def test_there_is_a_place_to_write_for_everybody_and_a_home_for_root_and_nobody() -> None:
    modes = {each.name: (oct(each.mode), each.uid, each.gid) for each in layer() if each.isdir()}

    assert modes["tmp"] == modes["var/tmp"] == ("0o1777", 0, 0)
    assert modes["run"] == ("0o755", 0, 0)
    assert modes["root"] == ("0o700", 0, 0)
    assert modes["home/nobody"] == ("0o700", 65534, 65534)


def test_the_layer_lists_parents_first_and_has_no_program() -> None:
    seen = {""}
    for each in layer():
        assert each.name.rpartition("/")[0] in seen
        assert each.isdir() or each.issym() or each.mode == 0o644
        seen.add(each.name)
