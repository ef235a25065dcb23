import base64
from pathlib import Path

import pytest

from cri_proxy.model import storepaths
from cri_proxy.settings import kinds

BASH = "/nix/store/7ik8057hajl6vq9j40h3jracxjn0bb5x-bash-5.3p15"
OTHER = "/nix/store/rzpv2vlq1zmhjqjinjgff1v83nw0b3hz-bash-5.3p15"
KEY = f"a.example-1:{base64.b64encode(bytes(32)).decode()}"


def refuses(parse, *values):
    for value in values:
        with pytest.raises(ValueError):
            parse(value)


def test_whole_numbers_keep_to_their_bounds_and_are_no_booleans():
    kind = kinds.whole(0, 64)

    assert kind.of_toml(64) == kind.of_text("64") == 64
    refuses(kind.of_toml, 65, -1, True, 1.0, "3", None)
    refuses(kind.of_text, "65", "many", "1.5", "")


def test_seconds_take_fractions_but_nothing_endless():
    kind = kinds.seconds(1, 60)

    assert kind.of_toml(30) == 30.0
    assert kind.of_text("2.5") == 2.5
    refuses(kind.of_toml, 0.5, 61, float("inf"), float("nan"), False, "30")
    refuses(kind.of_text, "inf", "nan", "30s", "")


def test_a_choice_takes_its_words_only():
    kind = kinds.choice("none", "otlp")

    assert kind.of_toml("otlp") == "otlp"
    refuses(kind.of_text, "OTLP", "")
    refuses(kind.of_toml, 1, ["otlp"])


@pytest.mark.parametrize("text", ["/run/a.sock", "unix:///run/a.sock", "unix:/run/a.sock"])
def test_a_socket_may_be_written_as_kubelet_and_grpc_write_it(text):
    assert kinds.unix_socket.of_text(text) == Path("/run/a.sock")


def test_a_socket_path_must_be_absolute_and_fit_the_kernels_address():
    kind = kinds.unix_socket

    assert kind.of_text("/" + "a" * 106)
    refuses(kind.of_text, "/" + "a" * 107, "run/a.sock", "tcp://h:1", "/a/../b", "")


def test_an_optional_file_left_empty_is_none():
    kind = kinds.optional_file

    assert kind.of_text("") is None
    assert kind.of_toml("/etc/token") == Path("/etc/token")
    refuses(kind.of_text, "token")


def test_a_url_loses_the_slash_at_its_end():
    kind = kinds.url("https", "http", "file")

    assert kind.of_text("https://a.example/x/") == "https://a.example/x"
    assert kind.of_text("file:///srv/cache") == "file:///srv/cache"
    assert kind.of_text("http://me:pass@[::1]:8080") == "http://me:pass@[::1]:8080"


def test_what_is_no_url_of_the_scheme_is_refused():
    refuses(
        kinds.url("https", "file").of_text,
        *("s3://bucket", "http://a.example", "https://", "https:///x", "https://a:port", ""),
        *("https://a b", "https://a/?x=y", "https://a/#x", "https://ä", "https://a\n"),
        *("file://host/x", "file://x", "https://a.example,https://b.example"),
    )


def test_a_public_key_has_a_name_and_thirty_two_bytes():
    kind = kinds.public_key

    assert kind.of_text(KEY) == KEY
    short = base64.b64encode(bytes(31)).decode()
    refuses(kind.of_text, KEY.partition(":")[2], f"a:{short}", "a:", f":{KEY}", f"{KEY}=")


@pytest.mark.parametrize("text", ["a, b", "a b", "a,b,", "\ta\n b "])
def test_a_list_in_text_stands_between_commas_or_blanks(text):
    assert kinds.listing(kinds.choice("a", "b")).of_text(text) == ("a", "b")


def test_a_list_is_refused_for_any_element():
    kind = kinds.listing(kinds.choice("a", "b"))

    assert kind.of_toml([]) == kind.of_text("") == ()
    refuses(kind.of_toml, ["a", "c"], "a", [["a"]])


def test_handlers_are_a_table_in_toml_and_name_value_pairs_in_text():
    kind = kinds.handlers

    assert kind.of_toml({"flox": "", "gpu": "nvidia"}) == kind.of_text("flox=,gpu=nvidia")
    refuses(kind.of_toml, {"": "runc"}, {"flox": 1}, {"flox": "-"}, [], {"a b": ""})
    refuses(kind.of_text, "flox", "flox=a,flox=b")


def test_one_store_path_stands_for_every_system_and_a_table_replaces_some():
    kind = kinds.store_path_by_system({"x86_64-linux": BASH, "aarch64-linux": BASH})
    bash, other = storepaths.parse(BASH), storepaths.parse(OTHER)

    assert kind.of_toml("") == kind.of_toml({}) == dict.fromkeys(kind.of_toml(""), bash)
    assert set(kind.of_text(OTHER).values()) == {other}
    assert kind.of_text(f"aarch64-linux={OTHER}") == {"x86_64-linux": bash, "aarch64-linux": other}


def test_a_shell_that_is_no_store_path_or_for_another_system_is_refused():
    kind = kinds.store_path_by_system({"x86_64-linux": BASH})

    refuses(kind.of_text, "/bin/bash", f"{BASH}/bin/bash", f"riscv64-linux={BASH}")
    refuses(kind.of_toml, 1, {"x86_64-linux": 1}, {"x86_64-linux": "/bin/bash"})


def test_words_or_a_file_are_kept_as_text():
    kind = kinds.words_or_file("auto", "none")

    assert [kind.of_text(text) for text in ("auto", "/etc/ca.pem")] == ["auto", "/etc/ca.pem"]
    refuses(kind.of_text, "yes", "ca.pem")


def test_an_image_name_is_completed_and_has_no_digest():
    kind = kinds.image_name

    assert str(kind.of_toml("flox/empty:1.0.0")) == "docker.io/flox/empty:1.0.0"
    refuses(kind.of_text, "", "Flox/Empty", "flox/empty@sha256:" + "0" * 64)
    refuses(kind.of_toml, None, 1)


def test_a_share_is_a_part_of_a_whole():
    kind = kinds.share

    assert kind.of_toml(1) == 1.0
    assert kind.of_text("0.25") == 0.25
    refuses(kind.of_toml, 1.1, -0.1, True, "1")
    refuses(kind.of_text, "2", "all")


def test_an_address_is_an_ip_with_a_port_or_nothing():
    kind = kinds.optional_address

    assert kind.of_text("127.0.0.1:9464") == "127.0.0.1:9464"
    assert kind.of_text("[::1]:0") == "[::1]:0"
    assert kind.of_text("") == ""
    refuses(kind.of_text, "localhost:1", ":9464", "127.0.0.1", "127.0.0.1:65536", "::1:80", "1.2:x")
    refuses(kind.of_toml, 9464, None)


def test_references_are_read_where_they_stand():
    kind = kinds.listing(kinds.reference)

    assert [str(each) for each in kind.of_text("acme/web, acme/db:7")] == ["acme/web", "acme/db:7"]
    with pytest.raises(ValueError):
        kind.of_toml(["web"])
