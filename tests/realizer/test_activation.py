"""Activation: the variables, the quoting, and activate itself run by a real bash."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri_proxy import errors
from cri_proxy.model.environments import Environment, Mode
from cri_proxy.model.references import Reference
from cri_proxy.model.storepaths import StorePath
from cri_proxy.realizer import activation

BASH = shutil.which("bash")
FLOX_ENV = StorePath("0" * 32, "environment-run")
PRINT = (
    "import json, os, sys;"
    "json.dump([dict(os.environ), sys.argv[1:], os.getcwd(), os.getpid()], sys.stdout)"
)
PYTHON = sys.executable


def environment_of(**changes: object) -> Environment:
    values: dict[str, object] = {
        "identity": "x",
        "reference": Reference("acme", "web", 3),
        "revision": "r",
        "lock_digest": "d",
        "system": "x86_64-linux",
        "mode": Mode.RUN,
        "flox_env": FLOX_ENV,
        "shell": None,
        "variables": (),
        "closure": (FLOX_ENV,),
        "nar_bytes": 0,
        "realized_at": 0.0,
        "store": Path("/nowhere"),
    }
    return Environment(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def flox_env(tmp_path: Path) -> Path:
    """A FLOX_ENV with activate, empty [vars] and no hook."""
    directory = tmp_path / "environment"
    (directory / "activate.d").mkdir(parents=True)
    (directory / "activate").write_bytes(activation.script())
    (directory / "activate.d" / "envrc").write_text("")
    return directory


def activate(
    flox_env: Path, *argv: str, given: dict[str, str] | None = None, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run activate with a closed environment, as a runtime would."""
    variables = {
        "FLOX_ENV": str(flox_env),
        "FLOX_ENV_DESCRIPTION": "acme/web",
        "PATH": f"{flox_env}/bin:{os.environ['PATH']}",
        **(given or {}),
    }
    return subprocess.run(
        [str(BASH), "--noprofile", "--norc", "-p", str(flox_env / "activate"), *argv],
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def program_saw(run: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert run.returncode == 0, run.stderr
    variables: dict[str, str] = json.loads(run.stdout)[0]
    return variables


def test_variables_without_expansion_and_no_hook_are_static() -> None:
    assert activation.is_static([("A", 'plain "quoted" ~ * text'), ("B", "")], None)


@pytest.mark.parametrize("value", ["$HOME", "`date`", "a\\b", "$(date)"])
def test_a_value_that_a_shell_would_change_is_not_static(value: str) -> None:
    assert not activation.is_static([("A", value)], None)


def test_a_hook_is_not_static() -> None:
    assert not activation.is_static([], "true")


def test_a_name_that_no_shell_can_export_is_refused() -> None:
    with pytest.raises(errors.EnvironmentUnsuitable, match="a-b"):
        activation.envrc([("a-b", "x")])


def test_a_static_environment_puts_nothing_before_the_program() -> None:
    assert activation.command(environment_of(), "/keep") == activation.Launcher()


def test_lists_are_put_before_what_the_container_has() -> None:
    given = {"PATH": "/image/bin", "MANPATH": "/m", "XDG_DATA_DIRS": "/d"}

    added = dict(activation.container_variables(environment_of(), given, "/srv"))

    assert added["PATH"] == f"{FLOX_ENV}/bin:/image/bin"
    assert added["MANPATH"] == f"{FLOX_ENV}/share/man:/m"
    assert added["XDG_DATA_DIRS"] == f"{FLOX_ENV}/share:/d"
    assert added["FLOX_ENV"] == str(FLOX_ENV)
    assert added["FLOX_ENV_PROJECT"] == "/srv"


def test_a_container_without_path_gets_the_usual_one_behind_ours() -> None:
    added = dict(activation.container_variables(environment_of(), {}, ""))

    assert added["PATH"] == f"{FLOX_ENV}/bin:{activation.DEFAULT_PATH}"


def test_certificates_of_the_container_are_kept() -> None:
    environment = environment_of(certificates="/nix/store/x/ca.crt")

    added = dict(activation.container_variables(environment, {"SSL_CERT_FILE": "/mine"}, ""))

    assert "SSL_CERT_FILE" not in added
    assert added["NIX_SSL_CERT_FILE"] == "/nix/store/x/ca.crt"


def test_vars_override_everything() -> None:
    environment = environment_of(variables=(("FLOX_ENV_CACHE", "/mine"), ("PATH", "/only")))

    added = dict(activation.container_variables(environment, {"PATH": "/image"}, ""))

    assert (added["FLOX_ENV_CACHE"], added["PATH"]) == ("/mine", "/only")


def test_dev_mode_adds_where_compilers_look_and_no_empty_places() -> None:
    added = dict(
        activation.container_variables(environment_of(mode=Mode.DEV), {"CPATH": "/mine"}, "")
    )

    assert added["CPATH"] == f"{FLOX_ENV}/include:/mine"
    assert added["LIBRARY_PATH"] == f"{FLOX_ENV}/lib"


def test_the_program_gets_its_arguments_directory_and_variables_unchanged(flox_env: Path) -> None:
    arguments = ["", "a b", "*", "$HOME", "'\"", "--", "\n"]

    run = activate(
        flox_env,
        "--",
        PYTHON,
        "-c",
        PRINT,
        *arguments,
        given={"my.var": "1", "X": "\n y"},
        cwd="/usr",
    )

    variables, argv, directory, _ = json.loads(run.stdout)
    assert argv == arguments
    assert directory == "/usr"
    assert variables["X"] == "\n y"
    assert variables["my.var"] == "1"
    assert {"PWD", "OLDPWD"}.isdisjoint(variables)
    assert not any(name.startswith("_cri_proxy") for name in variables)


def test_the_program_takes_the_place_of_the_shell(flox_env: Path) -> None:
    with subprocess.Popen(
        [str(BASH), "-p", str(flox_env / "activate"), "--", PYTHON, "-c", PRINT],
        env={"FLOX_ENV": str(flox_env), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
    ) as process:
        output, _ = process.communicate(timeout=60)

    assert json.loads(output)[3] == process.pid


def test_standard_input_reaches_the_program(flox_env: Path) -> None:
    (flox_env / "activate.d" / "hook-on-activate").write_text("true\n")

    run = activate(flox_env, "--", "cat", input="for the program\n")

    assert run.stdout == "for the program\n"


def test_shell_variables_that_the_container_had_are_kept(flox_env: Path) -> None:
    run = activate(
        flox_env, "--", PYTHON, "-c", PRINT, given={"SHLVL": "3", "OLDPWD": "/usr"}, cwd="/"
    )

    variables = program_saw(run)
    assert (variables["SHLVL"], variables["OLDPWD"]) == ("3", "/usr")


def test_vars_are_expanded_in_order(flox_env: Path) -> None:
    text = activation.envrc([("A", "${BASE}/x"), ("B", '$(printf "%s" "$A")y'), ("C", 'say "hi"')])
    (flox_env / "activate.d" / "envrc").write_text(text)

    variables = program_saw(
        activate(flox_env, "--", PYTHON, "-c", PRINT, given={"BASE": "/b", "A": "pod's"})
    )

    assert (variables["A"], variables["B"], variables["C"]) == ("/b/x", "/b/xy", 'say "hi"')


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=4))
def test_static_values_are_the_same_through_the_shell(values: list[str]) -> None:
    variables = activation.static_variables((f"V{i}", value) for i, value in enumerate(values))

    run = subprocess.run(
        [str(BASH), "-p", "-c", 'source /dev/stdin; exec "$@"', "x", PYTHON, "-c", PRINT],
        input=activation.envrc(variables).encode(),
        env={"PATH": os.environ["PATH"], "PYTHONUTF8": "1"},
        capture_output=True,
        timeout=60,
        check=True,
    )

    seen = json.loads(run.stdout)[0]
    assert {name: seen[name] for name, _ in variables} == dict(variables)


def test_output_of_the_hook_goes_to_standard_error_and_its_exports_to_the_program(
    flox_env: Path,
) -> None:
    (flox_env / "activate.d" / "hook-on-activate").write_text(
        "echo from the hook\ncd /tmp\numask 077\nfalse\nexport HOOKED='a\nb'\n"
    )

    run = activate(flox_env, "--", PYTHON, "-c", PRINT, "argument", cwd="/usr")

    variables, argv, directory, _ = json.loads(run.stdout)
    assert variables["HOOKED"] == "a\nb"
    assert argv == ["argument"]
    assert directory == "/usr"
    assert run.stderr == "from the hook\n"


def test_a_hook_sees_no_arguments_of_the_program(flox_env: Path) -> None:
    (flox_env / "activate.d" / "hook-on-activate").write_text('export SEEN="$#"\n')

    variables = program_saw(activate(flox_env, "--", PYTHON, "-c", PRINT, "secret"))

    assert variables["SEEN"] == "0"


@pytest.mark.parametrize(("hook", "status"), [("exit 7", 7), ("exit 0", 1), ("set -e\nfalse", 1)])
def test_a_hook_that_ends_the_shell_is_told_and_the_program_does_not_start(
    flox_env: Path, hook: str, status: int
) -> None:
    (flox_env / "activate.d" / "hook-on-activate").write_text(hook)

    run = activate(flox_env, "--", "echo", "started")

    assert run.returncode == status
    assert run.stdout == ""
    assert "hook.on-activate of acme/web" in run.stderr


def test_a_program_that_is_nowhere_is_named(flox_env: Path) -> None:
    run = activate(flox_env, "--", "no-such-program")

    assert run.returncode == 127
    assert "no-such-program was not found" in run.stderr
    assert "acme/web" in run.stderr


def test_a_termination_signal_during_the_hook_ends_the_container(flox_env: Path) -> None:
    fifo = flox_env / "fifo"
    os.mkfifo(fifo)
    (flox_env / "activate.d" / "hook-on-activate").write_text(f"echo ready\nread -r x <> {fifo}\n")
    with subprocess.Popen(
        [str(BASH), "-p", str(flox_env / "activate"), "--", "echo", "started"],
        env={"FLOX_ENV": str(flox_env), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 143
    assert output == b""


def test_a_program_that_joins_has_the_hooks_variables_without_its_hook(
    flox_env: Path, tmp_path: Path
) -> None:
    (flox_env / "activate.d" / "hook-on-activate").write_text("echo hook\nexport HOOKED='a\nb'\n")
    keep = str(tmp_path / "keep")
    activate(flox_env, "--keep", keep, "--", "true")

    run = activate(flox_env, "--join", keep, "--", PYTHON, "-c", PRINT, given={"TERM": "xterm"})

    variables = program_saw(run)
    assert variables["HOOKED"] == "a\nb"
    assert variables["TERM"] == "xterm"
    assert run.stderr == ""
    assert Path(keep).stat().st_mode & 0o777 == 0o600


def test_joining_waits_for_an_activation_that_is_under_way(flox_env: Path, tmp_path: Path) -> None:
    fifo = flox_env / "fifo"
    os.mkfifo(fifo)
    (flox_env / "activate.d" / "hook-on-activate").write_text(
        f"echo ready\nread -r x < {fifo}\nexport HOOKED=$x\n"
    )
    variables = {"FLOX_ENV": str(flox_env), "PATH": os.environ["PATH"]}
    keep = str(tmp_path / "keep")
    command = [str(BASH), "-p", str(flox_env / "activate")]
    first = subprocess.Popen(
        [*command, "--keep", keep, "--", "true"], env=variables, stderr=subprocess.PIPE
    )
    second = subprocess.Popen(
        [*command, "--join", keep, "--", PYTHON, "-c", PRINT],
        env=variables,
        stdout=subprocess.PIPE,
    )
    with first, second:
        assert first.stderr is not None
        first.stderr.readline()
        fifo.write_text("late\n")
        first.communicate(timeout=60)
        output, _ = second.communicate(timeout=60)

    assert json.loads(output)[0]["HOOKED"] == "late"


def test_a_kept_file_that_somebody_else_put_there_is_neither_written_nor_read(
    flox_env: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    keep = tmp_path / "keep"
    keep.symlink_to(victim)

    run = activate(flox_env, "--keep", str(keep), "--", "echo", "started")

    assert run.stdout == "started\n"
    assert victim.read_text() == "untouched"


def test_variables_may_be_given_to_the_program_alone(flox_env: Path) -> None:
    odd = "a 'b' \"c\" $d `e` \\ =\nf"
    (flox_env / "activate.d" / "envrc").write_text('export FROM="$ODD"\n')

    run = activate(flox_env, "--set", f"ODD={odd}", "--set", "EMPTY=", "--", PYTHON, "-c", PRINT)

    seen = program_saw(run)
    assert (seen["ODD"], seen["FROM"], seen["EMPTY"]) == (odd, odd, "")
