"""A pod that asks for an environment runs in it: what its program sees, on a real runtime."""

from __future__ import annotations

import json

import grpc
import pytest

from hack.testbed.binary_cache import Executable
from tests.e2e.conftest import Node, spec

HELLO = b"#!/bin/sh\nexec echo hello\n"


def refusal(node: Node, environment: str) -> grpc.RpcError:
    """Return the error with which a pod of `environment` is refused, at whichever call."""
    with pytest.raises(grpc.RpcError) as refused:
        node.run(environment, "true")
    return refused.value


def test_a_program_of_the_environment_runs_in_the_empty_image(node: Node) -> None:
    node.push("web")

    assert node.output("acme/web", "echo", "hello") == "hello\n"


def test_the_exit_code_is_the_programs(node: Node) -> None:
    node.push("web")

    assert node.run("acme/web", "sh", "-c", "exit 7").wait() == 7


def test_a_static_environment_sets_its_variables_and_starts_the_program_directly(
    node: Node,
) -> None:
    node.push("web", variables={"GREETING": "hello 'you'", "HOME": "/elsewhere"})

    seen = node.output(
        "acme/web",
        "sh",
        "-c",
        'echo "$GREETING|$FLOX_ENV|$PATH|$HOME|$$"',
        envs=[("HOME", b"/pods"), ("PATH", b"/pod/bin")],
    )

    greeting, flox_env, path, home, pid = seen.strip().split("|")
    assert greeting == "hello 'you'"
    assert flox_env.startswith("/nix/store/")
    assert flox_env.endswith("-environment-run")
    assert path == f"{flox_env}/bin:/pod/bin"
    assert home == "/elsewhere"
    assert pid == "1"


def test_the_store_shows_exactly_the_closure(node: Node) -> None:
    web = node.published.package("site", {"share/index.html": b"hello"})
    node.push("other", node.published.bash)
    node.push("web", web)
    node.output("acme/other", "true")

    listed = node.output("acme/web", "ls", "/nix/store").split()

    flox_env = node.output("acme/web", "sh", "-c", "echo ${FLOX_ENV##*/}").strip()
    expected = {node.published.tools.path.basename, web.path.basename, flox_env}
    assert set(listed) == expected


def test_root_cannot_write_to_the_store(node: Node) -> None:
    node.push("web")

    container = node.run(
        "acme/web",
        "sh",
        "-c",
        "for f in /nix/store/new $FLOX_ENV/bin/sh $FLOX_ENV/manifest.lock; do "
        'echo x 2>/dev/null >"$f" && echo wrote "$f"; done; chmod 777 /nix/store; rm -rf $FLOX_ENV;'
        "ls $FLOX_ENV/bin/sh",
        user=0,
    )

    container.wait()
    assert b"wrote" not in container.logs().stdout
    assert b"bin/sh" in container.logs().stdout
    assert container.logs().stderr.count(b"Read-only file system") >= 2


def test_a_hook_runs_before_the_program_which_is_process_one(node: Node) -> None:
    node.push(
        "web",
        node.published.bash,
        variables={"BASE": "/srv", "DATA": "${BASE}/data"},
        hook='echo "from the hook"\nexport HOOKED="$DATA/hooked"\n',
    )

    container = node.run("acme/web", "sh", "-c", 'echo "$HOOKED|$DATA|$$|$0|$1"', "zero", "a b")

    assert container.wait() == 0, container.logs()
    assert container.logs().stdout == b"/srv/data/hooked|/srv/data|1|zero|a b\n"
    assert container.logs().stderr == b"from the hook\n"


def test_an_environment_without_a_shell_gets_the_shell_of_the_node(node: Node) -> None:
    node.proxy.configure({"activation": {"shell": str(node.published.bash.path)}})
    node.proxy.restart()
    node.push("web", hook="export HOOKED=yes")

    assert node.output("acme/web", "sh", "-c", "echo $HOOKED") == "yes\n"
    listed = node.output("acme/web", "ls", "/nix/store").split()
    assert node.published.bash.path.basename in listed


def test_the_pods_command_arguments_directory_user_and_variables_are_used(node: Node) -> None:
    script = 'pwd; id -u; printf "%s|" "$0" "$@"; echo; env | grep ^MINE | sort'
    for name, hook in (("plain", None), ("hooked", "true")):
        node.push(name, node.published.bash, hook=hook)

        seen = node.output(
            f"acme/{name}",
            "sh",
            "-c",
            script,
            args=["zero", "*", "$HOME", "", "two words"],
            working_dir="/nix",
            user=1234,
            envs=[("MINE_B", b"1"), ("MINE_A", b"\xff"), ("MINE_B", b"2")],
        )

        lines = seen.encode("utf-8", "surrogateescape").decode("utf-8", "replace").splitlines()
        assert lines[:3] == ["/nix", "1234", "zero|*|$HOME||two words|"]
        assert lines[-1] == "MINE_B=2"


def test_the_runtime_gets_the_pods_variables_first_in_order_and_with_duplicates(
    node: Node,
) -> None:
    node.push("web")
    container = node.pod("acme/web").create(
        spec("true", envs=[("B", b"1"), ("A", b"2"), ("B", b"3")])
    )

    info = json.loads(node.containerd.ctr("containers", "info", container.id))

    variables = [each.partition("=")[0] for each in info["Spec"]["process"]["env"]]
    assert variables.index("B") < variables.index("A") < variables.index("FLOX_ENV")


def test_standard_input_reaches_a_wrapped_program(node: Node) -> None:
    node.push("web", node.published.bash, hook="true")

    container = node.run(
        "acme/web", "sh", "-c", "test -p /proc/1/fd/0 && echo pipe", has_stdin=True
    )

    assert container.wait() == 0, container.logs()
    assert container.logs().stdout == b"pipe\n"


def test_an_image_with_an_entrypoint_is_joined_as_the_runtime_would(node: Node) -> None:
    from hack.testbed import images

    node.push("web", node.published.bash, hook="export HOOKED=yes")
    dressed = node.pods.run_pod("plain").run(spec(image=images.DRESSED))
    expected = dressed.wait(), dressed.logs().stdout

    wrapped = node.pod("acme/web").run(spec(image=images.DRESSED))

    assert (wrapped.wait(), wrapped.logs().stdout) == expected


def test_a_file_of_a_package_is_reached_through_the_environment(node: Node) -> None:
    site = node.published.package(
        "greeter", {"bin/greet": Executable(HELLO), "share/site/index.html": b"index"}
    )
    node.push("web", site)

    seen = node.output("acme/web", "sh", "-c", "sh $(which greet); cat $FLOX_ENV/share/site/*")

    assert seen == "hello\nindex"


def test_programs_that_are_executed_later_see_the_environment(node: Node) -> None:
    node.push("plain", variables={"GREETING": "hello"})
    node.push("hooked", node.published.bash, hook="export GREETING=$(echo hello)")
    for name in ("plain", "hooked"):
        container = node.run(f"acme/{name}", "sleep", "600")

        done = container.exec_sync(["sh", "-c", 'echo "$GREETING $0"', "a b"], timeout_seconds=30)

        assert (done.exit_code, done.stdout) == (0, b"hello a b\n"), done


def test_a_signal_reaches_a_wrapped_program(node: Node) -> None:
    node.push("web", node.published.bash, hook="true")
    container = node.run(
        "acme/web", "sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    )
    container.await_output(b"ready")

    container.stop(grace_seconds=60)

    assert container.status().exit_code == 5


def test_an_ordinary_pod_runs_unchanged(node: Node) -> None:
    node.push("web")
    node.output("acme/web", "true")

    plain = node.pods.run_pod("plain").run(spec("ls", "/", image="docker.io/library/busybox:1"))

    assert plain.wait() == 0
    assert b"nix" not in plain.logs().stdout


def test_the_runtime_handler_flox_is_mapped_to_the_runtimes_own(node: Node) -> None:
    node.push("web")

    pod = node.pods.run_pod("mapped", {"flox.dev/environment": "acme/web"}, runtime_handler="flox")

    assert pod.run(spec("true")).wait() == 0


def test_a_pod_of_class_flox_without_an_environment_is_refused(node: Node) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        node.pods.run_pod("bare", runtime_handler="flox")

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "flox.dev/environment" in refused.value.details()


def test_a_restarted_container_keeps_its_generation_and_a_new_pod_gets_the_new_one(
    node: Node,
) -> None:
    say = ("sh", "-c", "echo $SAYS")
    node.push("web", variables={"SAYS": "one"})
    pod = node.pod("acme/web")
    assert pod.run(spec(*say)).wait() == 0
    node.push("web", variables={"SAYS": "two"})

    again = pod.run(spec(*say, attempt=1))

    assert again.wait() == 0
    assert again.logs().stdout == b"one\n"
    assert node.output("acme/web", *say) == "two\n"
    assert node.output("acme/web:1", *say) == "one\n"


def test_a_restarted_proxy_keeps_the_generation_of_a_running_pod(node: Node) -> None:
    say = ("sh", "-c", "echo $SAYS")
    node.push("web", variables={"SAYS": "one"})
    pod = node.pod("acme/web")
    assert pod.run(spec(*say)).wait() == 0
    node.push("web", variables={"SAYS": "two"})
    node.proxy.restart()

    again = pod.run(spec(*say, attempt=1))

    assert again.wait() == 0
    assert again.logs().stdout == b"one\n"
