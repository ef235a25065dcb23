"""Narinfos: parsed strictly, written as Nix does, fingerprinted."""

import base64
import dataclasses
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.lib import nixbase32
from cri_proxy.model.storepaths import StorePath
from cri_proxy.store import narinfo

HASH = hashlib.sha256(b"contents").digest()
HELLO = StorePath("jr185iw0pc2g99b9ldw9pzz532vl6flh", "hello-2.12")
GLIBC = StorePath("4i6h740al0294ap8fabvimrlxa3fzssf", "glibc-2.38")
TEXT = f"""\
StorePath: {HELLO}
URL: nar/{nixbase32.encode(HASH)}.nar.xz
Compression: xz
FileHash: sha256:{nixbase32.encode(HASH)}
FileSize: 252
NarHash: sha256:{nixbase32.encode(HASH)}
NarSize: 1208
References: {GLIBC.basename} {HELLO.basename}
Deriver: 00000000000000000000000000000000-hello-2.12.drv
Sig: cache-1:c2lnbmF0dXJl
Sig: cache-2:c2lnbmF0dXJl
CA: fixed:r:sha256:{nixbase32.encode(HASH)}
"""
KEYS = sorted({line.partition(":")[0] for line in TEXT.splitlines()})


def parse(text):
    return narinfo.parse(text.encode(), HELLO)


def refusal(text):
    """Return the message with which a narinfo is refused."""
    with pytest.raises(errors.ContentDamaged) as caught:
        narinfo.parse(text if isinstance(text, bytes) else text.encode(), HELLO)
    assert str(HELLO) in str(caught.value)
    return str(caught.value)


def with_line(key, value):
    """Return the text with `value` in the line of `key`."""
    lines = [
        f"{key}: {value}" if line.startswith(f"{key}:") else line for line in TEXT.splitlines()
    ]
    return "\n".join(lines) + "\n"


def without(key):
    lines = [line for line in TEXT.splitlines() if not line.startswith(f"{key}:")]
    return "\n".join(lines) + "\n"


def test_every_field_is_read():
    assert parse(TEXT) == narinfo.NarInfo(
        path=HELLO,
        url=f"nar/{nixbase32.encode(HASH)}.nar.xz",
        compression="xz",
        file_hash=f"sha256:{nixbase32.encode(HASH)}",
        file_size=252,
        nar_hash=HASH,
        nar_size=1208,
        references=(GLIBC, HELLO),
        deriver="00000000000000000000000000000000-hello-2.12.drv",
        signatures=("cache-1:c2lnbmF0dXJl", "cache-2:c2lnbmF0dXJl"),
        ca=f"fixed:r:sha256:{nixbase32.encode(HASH)}",
    )


def test_text_is_written_as_it_was_read():
    assert narinfo.text_of(parse(TEXT)) == TEXT


def test_fingerprint_is_path_hash_size_and_references():
    assert narinfo.fingerprint(parse(TEXT)).decode() == (
        f"1;{HELLO};sha256:{nixbase32.encode(HASH)};1208;{GLIBC},{HELLO}"
    )


def test_fingerprint_without_references_ends_in_the_separator():
    assert narinfo.fingerprint(parse(with_line("References", ""))).endswith(b";1208;")


def test_references_are_sorted_and_counted_once():
    shuffled = f"{HELLO.basename} {GLIBC.basename} {HELLO.basename}"

    assert parse(with_line("References", shuffled)).references == (GLIBC, HELLO)


def test_optional_fields_may_be_absent():
    text = TEXT
    for key in ("FileHash", "FileSize", "Deriver", "Sig", "CA"):
        text = "".join(line for line in text.splitlines(True) if not line.startswith(f"{key}:"))
    parsed = parse(text)

    assert (parsed.file_hash, parsed.file_size, parsed.deriver, parsed.ca) == (None,) * 4
    assert parsed.signatures == ()
    assert narinfo.text_of(parsed) == text


def test_compression_is_bzip2_unless_said():
    assert parse(without("Compression")).compression == "bzip2"


def test_unknown_deriver_is_none():
    assert parse(with_line("Deriver", "unknown-deriver")).deriver is None


def test_unknown_keys_pass_even_twice():
    assert parse(TEXT + "System: x86_64-linux\nX-Note: a: b\nX-Note:\n") == parse(TEXT)


@pytest.mark.parametrize(
    "written",
    [
        f"sha256:{nixbase32.encode(HASH)}",
        f"sha256:{HASH.hex()}",
        f"sha256-{base64.b64encode(HASH).decode()}",
    ],
    ids=["base32", "base16", "sri"],
)
def test_hash_is_read_in_each_form_and_signed_in_one(written):
    parsed = parse(with_line("NarHash", written))

    assert parsed.nar_hash == HASH
    assert f";sha256:{nixbase32.encode(HASH)};".encode() in narinfo.fingerprint(parsed)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "sha256:",
        f"sha512:{HASH.hex()}{HASH.hex()}",
        f"md5:{HASH.hex()[:32]}",
        HASH.hex(),
        nixbase32.encode(HASH),
        f"sha256:{HASH.hex()[:-2]}",
        f"sha256:{HASH.hex()[:-1]}g",
        f"sha256:{'e' * 52}",
        f"sha256:{'z' * 52}",
        "sha256-" + "A" * 43 + "!",
        "sha256-" + "A" * 44,
        f"sha256:{HASH.hex()} ",
        f"SHA256:{HASH.hex()}",
    ],
)
def test_other_hashes_are_refused(written):
    assert "is not a sha256" in refusal(with_line("NarHash", written))


@pytest.mark.parametrize("key", ["StorePath", "URL", "NarHash", "NarSize", "References"])
def test_required_field_must_be_present(key):
    assert f"it has no {key}" in refusal(without(key))


@pytest.mark.parametrize("key", [key for key in KEYS if key != "Sig"])
def test_field_given_twice_is_refused(key):
    """Else two readers of one signed text could disagree on what it says."""
    line = next(line for line in TEXT.splitlines() if line.startswith(key + ":"))

    assert f"more than one {key}" in refusal(TEXT + line + "\n")


def test_narinfo_of_another_path_is_refused():
    assert f"describes {GLIBC}" in refusal(with_line("StorePath", str(GLIBC)))


@pytest.mark.parametrize("path", ["", HELLO.basename, f"/gnu/store/{HELLO.basename}", f"{HELLO}/x"])
def test_store_path_that_is_none_is_refused(path):
    refusal(with_line("StorePath", path))


@pytest.mark.parametrize(
    "url",
    [
        "nar/x.nar",
        "nar/x.nar.zst?hash=abc&x=../y",
        "x.nar",
        "deep/er/x..y.nar",
        "nar/%20x.nar",
        "nar/a:b.nar",
    ],
)
def test_url_within_the_cache_is_accepted(url):
    assert parse(with_line("URL", url)).url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/etc/passwd",
        "//other.example/x.nar",
        "https://other.example/x.nar",
        "file:///etc/passwd",
        "file:x",
        "s3:bucket",
        "../x.nar",
        "nar/../../x.nar",
        "nar/..",
        "nar/./x.nar",
        "nar//x.nar",
        "nar/",
        "%2e%2e/x.nar",
        "nar/%2E%2e/x.nar",
        "nar%2f..%2fx.nar",
        "%2Fetc/passwd",
        "nar\\..\\x",
        "nar/%5c..%5cx",
        "nar/x%00.nar",
        "nar/x.nar#part",
        "nar/x y.nar",
        "nar/ä.nar",
        "nar/x.nar\r",
        "?x",
    ],
)
def test_url_that_leads_out_of_the_cache_is_refused(url):
    assert "is not a path within the cache" in refusal(with_line("URL", url))


@pytest.mark.parametrize("size", ["1", "9223372036854775807"])
def test_size_that_nix_can_represent_is_accepted(size):
    assert parse(with_line("NarSize", size)).nar_size == int(size)


@pytest.mark.parametrize(
    "size",
    [
        *("0", "-1", "+1", "", "01", "1.0", "1e3", "0x10", " 1", "1 ", "1_000", "\u0661"),
        *("9223372036854775808", "9" * 5000),
    ],
)
def test_other_sizes_are_refused(size):
    assert "NarSize" in refusal(with_line("NarSize", size))


@pytest.mark.parametrize("name", ["xz\n", "", "../x", "XZ", "x" * 17])
def test_name_of_no_compression_is_refused(name):
    refusal(with_line("Compression", name))


@pytest.mark.parametrize("reference", ["x", str(GLIBC), "../" + GLIBC.basename, "\0"])
def test_reference_that_is_no_basename_is_refused(reference):
    refusal(with_line("References", f"{HELLO.basename} {reference}"))


@pytest.mark.parametrize("deriver", ["", "hello.drv", f"/nix/store/{GLIBC.basename}.drv"])
def test_deriver_that_is_no_basename_is_refused(deriver):
    refusal(with_line("Deriver", deriver))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        TEXT + "\n",
        TEXT[:-1],
        TEXT + "no colon\n",
        TEXT + ": no key\n",
        TEXT + "Key:value\n",
        TEXT + " Key: value\n",
        TEXT.replace("\n", "\r\n"),
        "<html><body>Sign in</body></html>\n",
        TEXT.encode() + b"Note: \xff\n",
        TEXT.encode("utf-16"),
    ],
)
def test_text_of_another_form_is_refused(text):
    refusal(text)


def test_text_beyond_the_bound_is_refused():
    assert "longer than" in refusal(TEXT + f"Note: {'x' * narinfo.TEXT_BYTES}\n")


def test_refusal_shows_strange_text_in_ascii():
    assert refusal(with_line("URL", "\x1b[31m\u202e")).isascii()


signature_texts = st.binary(min_size=6, max_size=6).map(
    lambda data: f"cache-1:{base64.b64encode(data).decode()}"
)
digests = st.binary(min_size=20, max_size=20).map(nixbase32.encode)
paths = st.builds(
    StorePath, digests, st.from_regex(r"[a-z][a-zA-Z0-9+_?=.-]{0,40}", fullmatch=True)
)
narinfos = st.builds(
    narinfo.NarInfo,
    path=paths,
    url=digests.map(lambda digest: f"nar/{digest}.nar.zst"),
    compression=st.sampled_from(["xz", "zstd", "none", "br"]),
    file_hash=st.none() | st.just(f"sha256:{nixbase32.encode(HASH)}"),
    file_size=st.none() | st.integers(0, 2**63 - 1),
    nar_hash=st.binary(min_size=32, max_size=32),
    nar_size=st.integers(1, 2**63 - 1),
    references=st.sets(paths, max_size=5).map(lambda found: tuple(sorted(found))),
    deriver=st.none() | paths.map(lambda path: path.basename + ".drv"),
    signatures=st.lists(signature_texts, max_size=3).map(tuple),
    ca=st.none() | digests.map(lambda digest: f"text:sha256:{digest}"),
)


@settings(max_examples=60, deadline=None)
@given(narinfos)
def test_what_is_written_is_read_back(info):
    assert narinfo.parse(narinfo.text_of(info).encode(), info.path) == info


@settings(max_examples=60, deadline=None)
@given(narinfos, narinfos)
def test_different_contents_or_references_have_different_fingerprints(one, other):
    def signed(info):
        return (info.path, info.nar_hash, info.nar_size, info.references)

    are_same = narinfo.fingerprint(one) == narinfo.fingerprint(other)
    assert are_same == (signed(one) == signed(other))
    assert narinfo.fingerprint(dataclasses.replace(one, url="x")) == narinfo.fingerprint(one)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode()))
def test_arbitrary_bytes_are_refused_as_damaged(data):
    with pytest.raises(errors.ContentDamaged):
        narinfo.parse(data, HELLO)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TEXT.splitlines()), st.text(max_size=60))
def test_arbitrary_values_are_accepted_or_refused_as_damaged(line, value):
    key = line.partition(":")[0]
    try:
        parsed = narinfo.parse(with_line(key, value).encode(), HELLO)
    except errors.ContentDamaged:
        return

    assert narinfo.parse(narinfo.text_of(parsed).encode(), HELLO) == parsed
