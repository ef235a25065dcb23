"""Reading a service as systemd does."""

from __future__ import annotations

from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.node import unitfiles
from cri_proxy.node.root import Root


def write(root: Root, path: str, text: str) -> None:
    file = root.directory / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def words(root: Root) -> list[str]:
    service = unitfiles.service_of(root, "a.service")
    assert service is not None
    return [word.text for word in service.words]


def test_an_empty_command_starts_anew(tmp_path: Path) -> None:
    root = Root(tmp_path)
    write(root, "/lib/systemd/system/a.service", "[Service]\nExecStart=/bin/one\n")
    write(root, "/etc/systemd/system/a.service.d/x.conf", "[Service]\nExecStart=\nExecStart=/b 2\n")

    assert words(root) == ["/b", "2"]


def test_a_unit_in_etc_hides_the_vendors(tmp_path: Path) -> None:
    root = Root(tmp_path)
    write(root, "/usr/lib/systemd/system/a.service", "[Service]\nExecStart=/vendor\n")
    write(root, "/etc/systemd/system/a.service", "[Service]\nExecStart=/ours\n")

    assert words(root) == ["/ours"]


def test_a_later_environment_file_wins_and_is_named(tmp_path: Path) -> None:
    root = Root(tmp_path)
    write(
        root,
        "/etc/systemd/system/a.service",
        "[Service]\nEnvironment=V=0\nEnvironmentFile=/one\nEnvironmentFile=-/two\n"
        "ExecStart=/a $V ${V}\n",
    )
    write(root, "/one", "V=1\n")
    write(root, "/two", '# V=no\nV="2 3"\n')
    service = unitfiles.service_of(root, "a.service")

    assert service is not None
    assert words(root) == ["/a", "2", "3", "2 3"]
    assert [word.file for word in service.words][1:] == ["/two"] * 3


@pytest.mark.parametrize(
    ("command", "variables", "file"),
    [
        ("/a --b='c", "", "/etc/systemd/system/a.service"),
        ("/a $V", "V=it's\n", "/variables"),
    ],
)
def test_a_quote_without_its_other_is_told_with_its_file(
    tmp_path: Path, command: str, variables: str, file: str
) -> None:
    root = Root(tmp_path)
    write(root, "/variables", variables)
    write(
        root,
        "/etc/systemd/system/a.service",
        f"[Service]\nEnvironmentFile=/variables\nExecStart={command}\n",
    )

    with pytest.raises(errors.RequestInvalid, match=f"^{file} has an unbalanced quote"):
        unitfiles.service_of(root, "a.service")


def test_a_link_is_followed_within_the_root(tmp_path: Path) -> None:
    root = Root(tmp_path)
    write(root, "/opt/a.service", "[Service]\nExecStart=/linked\n")
    place = tmp_path / "etc/systemd/system/a.service"
    place.parent.mkdir(parents=True)
    place.symlink_to("/opt/a.service")

    assert words(root) == ["/linked"]


def test_no_unit_is_no_service(tmp_path: Path) -> None:
    assert unitfiles.service_of(Root(tmp_path), "a.service") is None
