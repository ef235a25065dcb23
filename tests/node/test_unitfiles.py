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
def test_an_unbalanced_quote_is_reported_with_its_file(
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


@pytest.mark.parametrize(
    ("files", "file"),
    [
        (["/etc/default/kubelet"], "/etc/default/kubelet"),
        (["/etc/sysconfig/kubelet"], "/etc/sysconfig/kubelet"),
        (["/etc/default/kubelet", "/etc/sysconfig/kubelet"], "/etc/sysconfig/kubelet"),
        (["/etc/default/kubelet", "/etc/other"], "/etc/default/kubelet"),
        (["/etc/other"], None),
        ([], None),
    ],
)
def test_a_variable_is_set_in_the_last_environment_file_of_a_usual_name(
    tmp_path: Path, files: list[str], file: str | None
) -> None:
    root = Root(tmp_path)
    lines = "".join(f"EnvironmentFile=-{each}\n" for each in files)
    write(root, "/etc/systemd/system/a.service", f"[Service]\n{lines}ExecStart=/a $X ${{Y}}\n")
    service = unitfiles.service_of(root, "a.service")

    assert service is not None
    assert service.references == ["X", "Y"]
    assert [service.variables_file(each) for each in ("X", "Y")] == [file, file]


def test_a_variable_that_the_command_does_not_use_has_no_file(tmp_path: Path) -> None:
    root = Root(tmp_path)
    text = "[Service]\nEnvironmentFile=/etc/default/kubelet\nExecStart=/a $XY\n"
    write(root, "/etc/systemd/system/a.service", text)
    service = unitfiles.service_of(root, "a.service")

    assert service is not None
    assert service.variables_file("X") is None
    assert service.variables_file("XY") == "/etc/default/kubelet"


@pytest.mark.parametrize("key", ["Environment", "EnvironmentFile"])
def test_an_empty_assignment_resets_the_variables_before_it(tmp_path: Path, key: str) -> None:
    root = Root(tmp_path)
    write(root, "/variables", "V=1\n")
    value = "V=1" if key == "Environment" else "/variables"
    write(root, "/etc/systemd/system/a.service", f"[Service]\n{key}={value}\nExecStart=/a $V\n")

    before = words(root)
    write(root, "/etc/systemd/system/a.service.d/x.conf", f"[Service]\n{key}=\n")

    assert (before, words(root)) == (["/a", "1"], ["/a"])


def test_a_command_that_is_reset_and_not_set_again_has_no_words(tmp_path: Path) -> None:
    root = Root(tmp_path)
    write(root, "/etc/systemd/system/a.service", "[Service]\nExecStart=/a $V\n")
    write(root, "/etc/systemd/system/a.service.d/x.conf", "[Service]\nExecStart=\n")
    service = unitfiles.service_of(root, "a.service")

    assert service is not None
    assert (service.words, service.command, service.references) == ((), "", ())


def test_drop_ins_are_read_by_name_and_a_directory_hides_those_below_it(tmp_path: Path) -> None:
    root = Root(tmp_path)
    write(root, "/lib/systemd/system/a.service", "[Service]\nExecStart=/a $V\n")
    for place, name, value in (
        ("/usr/lib", "20-b.conf", "vendor"),
        ("/etc", "10-a.conf", "early"),
        ("/etc", "20-b.conf", "late"),
        ("/etc", "30-c.ignored", "never"),
    ):
        write(
            root,
            f"{place}/systemd/system/a.service.d/{name}",
            f"[Service]\nEnvironment=V={value}\n",
        )

    assert words(root) == ["/a", "late"]


def test_only_the_service_section_counts(tmp_path: Path) -> None:
    root = Root(tmp_path)
    write(
        root,
        "/etc/systemd/system/a.service",
        "[Unit]\nExecStart=/wrong\n[Service]\n# ExecStart=/wrong\n;ExecStart=/wrong\n"
        "ExecStart=-/right \\\n# between\n  --more\n[Install]\nExecStart=/wrong\n",
    )

    assert words(root) == ["/right", "--more"]


def test_a_value_in_an_environment_file_may_contain_unquoted_blanks(tmp_path: Path) -> None:
    root = Root(tmp_path)
    unit = "[Service]\nEnvironmentFile=/variables\nExecStart=/a $V\n"
    write(root, "/etc/systemd/system/a.service", unit)
    write(root, "/variables", "V=1 2\n")

    assert words(root) == ["/a", "1", "2"]


def test_a_line_of_a_unit_may_have_several_assignments(tmp_path: Path) -> None:
    root = Root(tmp_path)
    unit = '[Service]\nEnvironment=A=1 "B=2 3" C=4\nExecStart=/a $A $B $C\n'
    write(root, "/etc/systemd/system/a.service", unit)

    assert words(root) == ["/a", "1", "2", "3", "4"]


def test_two_assignments_in_a_line_are_two(tmp_path: Path) -> None:
    root = Root(tmp_path)
    write(root, "/variables", "A=1 B=2\n")
    unit = "[Service]\nEnvironmentFile=/variables\nExecStart=/a $B $A\n"
    write(root, "/etc/systemd/system/a.service", unit)

    assert words(root) == ["/a", "2", "1"]
