"""The contract of pods beyond the samples of docs/pods.md, on a real runtime, row by row.

The manifests at the top are those that Flox documents for Imageless Kubernetes, but for their
environments: pods that were written for it run here as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from hack.testbed import environments, images, kubelet, manifests, waiting
from hack.testbed.environments import Published
from hack.testbed.manifests import Running
from hack.testbed.pods import Container
from tests.e2e.conftest import Node, spec

SHOW = 'echo "$GREETING|${FLOX_ENV##*/*-environment-}|$PATH"'
HOOK = "echo hook >&2; export HOOKED=$(echo yes)"


@pytest.fixture
def node_settings(published: Published) -> dict[str, dict[str, Any]]:
    """Set the shell for environments that need one and have none."""
    return {"activation": {"shell": str(published.bash.path)}}


def documented(
    node: Node, *lines: str, environment: str = "acme/web", containers: str | None = None
) -> Running:
    """Run a pod in the form of Flox's documentation, with further annotations."""
    annotations = "\n".join(f"    {line}" for line in lines)
    (manifest,) = manifests.parse(f"""
apiVersion: v1
kind: Pod
metadata:
  name: documented
  annotations:
    flox.dev/environment: "{environment}"
{annotations}
spec:
  runtimeClassName: flox
  containers:
    - name: main
      image: flox/empty:1.0.0
      command: ["sh", "-c", "{SHOW.replace('"', chr(92) + '"')}; exec sleep 600"]
{containers or ""}""")
    return manifests.run(node.pods, manifest)


def shown(container: Container) -> list[str]:
    """Return the parts of what SHOW printed."""
    return container.await_output(rb"^.*\|.*\|.*$").decode().split("|")


def exec_shown(container: Container) -> list[str]:
    """Return the parts of what SHOW prints when it is executed in the container."""
    done = container.exec_sync(["/bin/sh", "-c", SHOW], timeout_seconds=60)
    assert done.exit_code == 0, done
    return done.stdout.decode().strip().split("|")


def ends(container: Container) -> bytes:
    """Return what a container printed that ends well."""
    assert container.wait() == 0, container.logs()
    return container.logs().stdout


# What Flox documents.


def test_documented_plain(node: Node) -> None:
    node.push("web", variables={"GREETING": "hello"})

    assert shown(documented(node).main)[:2] == ["hello", "run"]


def test_documented_pinned(node: Node) -> None:
    for greeting in ("one", "two"):
        node.push("web", variables={"GREETING": greeting})

    assert shown(documented(node, environment="acme/web:1").main)[0] == "one"


def test_documented_dev_mode(node: Node) -> None:
    node.push("web", variables={"GREETING": "hello"})

    assert shown(documented(node, 'flox.dev/activate-mode: "dev"').main)[1] == "dev"


def test_documented_mutable(node: Node) -> None:
    node.push("web")
    main = documented(node, 'flox.dev/nix-mutable: "true"').main

    done = main.exec_sync(["sh", "-c", "touch /nix/store/x /nix/y && ls /nix"], timeout_seconds=60)

    assert done.exit_code == 0, done
    assert done.stdout.split() == [b"store", b"y"]


def test_documented_without_metrics(node: Node) -> None:
    node.push("web")
    main = documented(node, 'flox.dev/disable-metrics: "true"').main

    done = main.exec_sync(["sh", "-c", "echo $FLOX_DISABLE_METRICS"], timeout_seconds=60)

    assert done.stdout == b"true\n"


HELPERS = """
    - name: init-permissions
      image: busybox:1
      command: ["sh", "-c", "echo skipped ${FLOX_ENV-}"]
    - name: helper
      image: busybox:1
      command: ["sh", "-c", "echo skipped ${FLOX_ENV-}"]
"""


def test_documented_mixed_pod_with_skipped_containers(node: Node) -> None:
    node.push("web", variables={"GREETING": "hello"})

    running = documented(
        node, 'flox.dev/skip-containers: "init-permissions,helper"', containers=HELPERS
    )

    assert shown(running.main)[0] == "hello"
    for name in ("init-permissions", "helper"):
        assert ends(running.containers[name]) == b"skipped\n"
        assert not any("flox" in each for each in annotations_of(running.containers[name]))


@pytest.mark.parametrize("hook", [None, HOOK], ids=["static", "hooked"])
def test_documented_exec_outside_the_environment(node: Node, hook: str | None) -> None:
    node.push("web", variables={"GREETING": "hello"}, hook=hook)
    build = """
    - name: build
      image: busybox:1
      command: ["sh", "-c", "echo \\"$GREETING|$FLOX_DISABLE_METRICS|$$\\"; exec sleep 600"]
"""

    running = documented(
        node,
        'flox.dev/skip-containers-exec: "build"',
        'flox.dev/disable-metrics: "true"',
        containers=build,
    )

    assert shown(running.containers["build"]) == ["hello", "true", "1"]
    assert exec_shown(running.containers["build"]) == ["", "", "/bin"]
    inside = running.main.exec_sync(["sh", "-c", SHOW], timeout_seconds=60)
    assert inside.stdout.startswith(b"hello|run|/nix/store/")


# Which environment a container gets.


def annotations_of(container: Container) -> Mapping[str, str]:
    """Return the annotations that the runtime keeps of a container."""
    return dict(container.status().annotations)


def test_init_sidecar_main_and_ephemeral_containers_may_each_have_their_own(node: Node) -> None:
    for name in ("web", "setup", "proxy", "debugger"):
        node.push(name, variables={"NAME": name})
    pod = node.pod(
        "acme/web",
        {
            "flox.dev/environment.setup": "acme/setup",
            "flox.dev/environment.proxy": "acme/proxy:1",
            "flox.dev/environment.debugger-x7f2k": "acme/debugger",
            "flox.dev/environment.plain": "",
        },
    )
    say = ("sh", "-c", "echo ${NAME-none}")

    assert ends(pod.run(spec(*say, name="setup"))) == b"setup\n"
    assert ends(pod.run(spec(*say, name="proxy"))) == b"proxy\n"
    assert ends(pod.run(spec(*say, name="main"))) == b"web\n"
    assert ends(pod.run(spec(*say, name="plain", image=images.BUSYBOX))) == b"none\n"
    assert ends(pod.run(spec(*say, name="debugger-x7f2k"))) == b"debugger\n"


def test_a_pod_may_have_an_environment_for_one_container_only(node: Node) -> None:
    node.push("db", variables={"NAME": "db"})
    pod = node.pods.run_pod("only", {"flox.dev/environment.db": "acme/db"}, runtime_handler="flox")
    say = ("sh", "-c", "echo ${NAME-none}")

    assert ends(pod.run(spec(*say, name="db"))) == b"db\n"
    assert ends(pod.run(spec(*say, name="other", image=images.BUSYBOX))) == b"none\n"


def test_a_restarted_container_with_exec_outside_keeps_its_generation(node: Node) -> None:
    say = ("sh", "-c", "echo $SAYS")
    node.push("web", variables={"SAYS": "one"})
    pod = node.pod("acme/web", {"flox.dev/skip-containers-exec": "main"})
    assert ends(pod.run(spec(*say))) == b"one\n"
    node.push("web", variables={"SAYS": "two"})

    assert ends(pod.run(spec(*say, attempt=1))) == b"one\n"
    assert ends(pod.run(spec(*say, name="another"))) == b"one\n"


# Modes.


def test_dev_mode_links_what_packages_propagate_and_sets_the_build_variables(node: Node) -> None:
    publisher = node.published.publisher
    dependency = node.published.package("dependency", {"include/dependency.h": b"1"})
    beside = node.published.package("beside", {"bin/beside": b"2"})
    library = environments.package(
        publisher,
        "library",
        {
            "include/library.h": b"3",
            "nix-support/propagated-build-inputs": f"{dependency.path}\n".encode(),
            "nix-support/propagated-user-env-packages": f"{beside.path}\n".encode(),
        },
        [dependency.path, beside.path],
    )
    node.push("web", library)
    look = (
        "sh",
        "-c",
        "ls $FLOX_ENV/include $FLOX_ENV/bin/beside; "
        'for each in "$CPATH" "$LIBRARY_PATH" "$PKG_CONFIG_PATH" "$ACLOCAL_PATH" '
        '"$CMAKE_PREFIX_PATH"; do echo "$each" | sed "s,$FLOX_ENV,@,g"; done',
    )

    dev = ends(node.pod("acme/web", {"flox.dev/activate-mode": "dev"}).run(spec(*look))).decode()
    run = ends(node.pod("acme/web", {"flox.dev/activate-mode": "run"}).run(spec(*look))).decode()

    assert "dependency.h" in dev
    assert dev.split()[-5:] == [
        "@/include",
        "@/lib",
        "@/lib/pkgconfig:@/share/pkgconfig",
        "@/share/aclocal",
        "@",
    ]
    assert "library.h" in run
    assert "beside" in run
    assert "dependency.h" not in run
    assert run.endswith("\n" * 5)


def test_the_metrics_variable_is_not_set_without_the_annotation(node: Node) -> None:
    node.push("web")

    assert node.output("acme/web", "sh", "-c", "echo ${FLOX_DISABLE_METRICS-unset}") == "unset\n"


# What is executed in a container.


def test_the_hook_runs_once_and_its_variables_are_set_for_all_that_is_executed(
    node: Node,
) -> None:
    node.push(
        "web",
        node.published.bash,
        hook='echo "run $(( $(cat /tmp/runs 2>/dev/null || echo 0) + 1 ))" >&2\n'
        'export TRICKY="a \\" b $(echo \\$c) \\n" LINES_OF="one\ntwo"\n',
    )
    main = node.run("acme/web", "sh", "-c", "echo ready; exec sleep 600")
    main.await_output(b"ready")

    for _ in range(3):
        done = main.exec_sync(["sh", "-c", 'printf %s "$TRICKY|$LINES_OF"'], timeout_seconds=60)
        assert done.stdout == b'a " b $c \\n|one\ntwo', done
        assert done.stderr == b""

    assert main.logs().stderr.count(b"run") == 1


@pytest.mark.parametrize("hook", [None, HOOK], ids=["static", "hooked"])
def test_arguments_are_exact(node: Node, hook: str | None) -> None:
    node.push("web", node.published.bash, hook=hook)
    odd = ["", " ", "a  b", "*", "$HOME", "`id`", "$(id)", "'", '"', "\\", "a\nb", "-", "--", "é"]
    main = node.run("acme/web", "sh", "-c", 'printf "%s\\0" "$@"; echo; sleep 600', "sh", *odd)

    done = main.exec_sync(["sh", "-c", 'printf "%s\\0" "$@"', "sh", *odd], timeout_seconds=60)

    expected = "\0".join([*odd, ""]).encode()
    assert done.stdout == expected
    main.await_output(rb"\xc3\xa9\0$")
    assert main.logs().stdout == expected + b"\n"


def test_a_static_environment_needs_no_wrapping_of_what_is_executed(node: Node) -> None:
    node.push("web", variables={"GREETING": "hello"})
    main = node.run("acme/web", "sleep", "600")

    done = main.exec_sync(["cat", "/proc/self/cmdline"], timeout_seconds=60)

    assert done.stdout == b"cat\0/proc/self/cmdline\0"
    assert "cri-proxy.flox.dev/exec" not in annotations_of(main)


def test_a_probe_that_comes_early_waits_for_the_hook(node: Node) -> None:
    node.push(
        "web",
        node.published.bash,
        hook="echo hook-begins >&2\nwhile ! [[ -e /tmp/go ]]; do read -rt 0.1 <> <(:); done\n"
        "export READY=yes\n",
    )
    directory = node.pods.directory / f"early-{node.proxy.pid}"
    directory.mkdir()
    main = node.run("acme/web", "sleep", "600", mounts=[kubelet.Mount(directory, "/tmp")])
    waiting.until(lambda: b"hook-begins" in main.logs().stderr, what="the hook to begin")
    with ThreadPoolExecutor(1) as threads:
        probe = threads.submit(main.exec_sync, ["sh", "-c", "echo $READY"], timeout_seconds=60)
        assert not probe.done()
        (directory / "go").touch()

        done = probe.result()

    assert (done.exit_code, done.stdout) == (0, b"yes\n"), done


def test_a_program_that_does_not_exist_has_the_usual_exit_code(node: Node) -> None:
    node.push("web", node.published.bash, hook=HOOK)
    main = node.run("acme/web", "sh", "-c", "echo ready; exec sleep 600")
    main.await_output(b"ready")

    done = main.exec_sync(["no-such-program"], timeout_seconds=60)

    assert done.exit_code == 127
    assert b"no-such-program was not found" in done.stderr


# Signals, exit codes, messages.


@pytest.mark.parametrize("hook", [None, HOOK], ids=["static", "hooked"])
@pytest.mark.parametrize("outside", ["", "main"], ids=["exec inside", "exec outside"])
def test_a_signal_reaches_the_program_and_its_exit_code_comes_back(
    node: Node, hook: str | None, outside: str
) -> None:
    node.push("web", hook=hook)
    main = node.pod("acme/web", {"flox.dev/skip-containers-exec": outside}).run(
        spec("sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done")
    )
    main.await_output(b"ready")

    main.stop(grace_seconds=60)

    assert main.status().exit_code == 5


def test_a_termination_message_is_read(node: Node) -> None:
    node.push("web", node.published.bash, hook=HOOK)
    main = node.run("acme/web", "sh", "-c", "echo why >/dev/termination-log; exit 3")

    assert main.wait() == 3
    assert main.termination_message() == b"why\n"


# Pod security.


@pytest.mark.parametrize("hook", [None, HOOK], ids=["static", "hooked"])
@pytest.mark.parametrize(
    "restriction",
    [
        {"user": 1234},
        {"is_root_read_only": True},
        {"has_default_seccomp": True},
        {"drops_capabilities": True},
        {
            "user": 1234,
            "is_root_read_only": True,
            "has_default_seccomp": True,
            "drops_capabilities": True,
        },
    ],
    ids=["runAsNonRoot", "readOnlyRootFilesystem", "seccomp", "capabilities", "all"],
)
def test_restrictions_of_a_container_apply_unchanged(
    node: Node, hook: str | None, restriction: dict[str, Any]
) -> None:
    node.push("web", node.published.bash, variables={"GREETING": "hello"}, hook=hook)
    main = node.run("acme/web", "sh", "-c", f"{SHOW}; exec sleep 600", **restriction)

    assert shown(main)[0] == "hello"

    done = main.exec_sync(
        ["sh", "-c", f"{SHOW}; id -u; grep -E '^(Seccomp|CapEff|NoNewPrivs):' /proc/self/status"],
        timeout_seconds=60,
    )
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("hello|run|")
    assert lines[1] == str(restriction.get("user", 0))
    status = dict(line.split(":\t") for line in lines[2:])
    if "has_default_seccomp" in restriction:
        assert status["Seccomp"] == "2"
    if "drops_capabilities" in restriction:
        assert (status["CapEff"].strip("0"), status["NoNewPrivs"]) == ("", "1")


def test_the_hosts_network_is_shared(node: Node) -> None:
    node.push("web")
    pod = node.pods.run_pod("host", {"flox.dev/environment": "acme/web"}, host_network=True)

    seen = ends(pod.run(spec("readlink", "/proc/self/ns/net"))).decode().strip()

    assert seen == str(Path("/proc/self/ns/net").readlink())


def test_single_files_and_places_within_volumes_are_mounted(node: Node, tmp_path: Path) -> None:
    """What kubelet makes of a subPath: a bind mount of a file or directory within a volume."""
    node.push("web", node.published.bash, hook=HOOK)
    (tmp_path / "volume" / "within").mkdir(parents=True)
    (tmp_path / "volume" / "file").write_text("single")
    (tmp_path / "volume" / "within" / "file").write_text("within")
    mounts = [
        kubelet.Mount(tmp_path / "volume" / "file", "/etc/app/config", is_read_only=True),
        kubelet.Mount(tmp_path / "volume" / "within", "/data"),
    ]

    seen = node.output("acme/web", "sh", "-c", "cat /etc/app/config /data/file", mounts=mounts)

    assert seen == "singlewithin"


def test_the_view_is_readable_by_any_user_whoever_owns_it(node: Node) -> None:
    """User namespaces depend on it: files of the view are readable without owning them."""
    node.push("web", node.published.bash, hook=HOOK)
    node.output("acme/web", "true")

    (view,) = node.proxy.environments.glob("[!.]*/store")
    for place in (view, *view.rglob("*")):
        mode = place.lstat().st_mode & 0o777
        assert place.is_symlink() or mode in (0o555, 0o444), place
    parents = [each for each in view.parents if node.proxy.directory in each.parents]
    assert all(each.stat().st_mode & 0o005 == 0o005 for each in parents)


# Where a pod meets limits.


def test_services_and_profile_scripts_are_logged_once(node: Node) -> None:
    node.push("web", profile="echo profile", services={"db": "postgres", "queue": "redis"})

    for _ in range(2):
        assert node.output("acme/web", "echo", "started") == "started\n"

    log = node.proxy.log_text()
    warnings = [line for line in log.splitlines() if " warning " in line and "in pods" in line]
    assert len(warnings) == 2
    assert "services of an environment are not started in pods" in warnings[0]
    assert 'services="db, queue"' in warnings[0]
    assert "profile scripts" in warnings[1]
    assert all("acme/web:1" in line for line in warnings)


def test_a_mistyped_annotation_is_logged_with_what_was_likely_meant(node: Node) -> None:
    for number in range(2):
        annotations = {"flox.dev/enviroment": "acme/web"}
        ordinary = node.pods.run_pod(f"mistyped-{number}", annotations)
        assert ends(ordinary.run(kubelet.Spec(command=["echo", "plain"]))) == b"plain\n"

    (line,) = (each for each in node.proxy.log_text().splitlines() if "unknown annot" in each)
    assert "annotation=flox.dev/enviroment did_you_mean=flox.dev/environment" in line
    assert "mistyped-0" in line
    with pytest.raises(grpc.RpcError, match=r"\(unknown annotation 'flox.dev/enviroment'\)"):
        node.pods.run_pod("classed", annotations, runtime_handler="flox")


def lock_of(node: Node, kind: str) -> tuple[str, dict[str, Any]]:
    """Return a store path that no cache has and a lockfile in which it is such a package."""
    package = node.published.package(f"lacking-{kind}", {"bin/lacking": kind.encode()})
    node.published.publisher.remove(package.path)
    lock = environments.lockfile(node.published.tools, package)
    entry = lock["packages"][1]
    path = str(package.path)
    match kind:
        case "unfree":
            entry["unfree"] = True
        case "flake":
            del lock["manifest"]["install"][package.install_id]["pkg-path"]
            lock["manifest"]["install"][package.install_id]["flake"] = "github:acme/lacking"
            kept = {key: entry[key] for key in ("install_id", "name", "system", "outputs")}
            entry = {
                **kept,
                "locked-url": "github:acme/lacking/0",
                "outputs-to-install": ["out"],
                "priority": 5,
            }
        case "store-path":
            lock["manifest"]["install"][package.install_id] = {"store-path": path}
            kept = {key: entry[key] for key in ("install_id", "system", "priority")}
            entry = {**kept, "store_path": path}
    lock["packages"][1] = entry
    return path, lock


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("unfree", ["unfree", "push it to a binary cache"]),
        ("flake", ["comes from a flake", "build it and push"]),
        ("store-path", ["installed as a store path", "copy it"]),
        ("ordinary", []),
    ],
)
def test_a_package_that_no_cache_has_is_named_with_what_to_do(
    node: Node, kind: str, words: list[str]
) -> None:
    path, lock = lock_of(node, kind)
    node.hub.push("acme", "web", lock)

    with pytest.raises(grpc.RpcError) as refused:
        node.run("acme/web", "true")

    details = refused.value.details() or ""
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    for word in ("acme/web", path, f"the package 'lacking-{kind}'", *words):
        assert word in details, details


def test_the_runtime_sees_one_mount_and_the_programs_own_argument_list(node: Node) -> None:
    node.push("web", variables={"GREETING": "hello"})
    container = node.pod("acme/web").create(spec("sleep", args=["600"]))

    info = json.loads(node.containerd.ctr("containers", "info", container.id))["Spec"]

    ours = [each for each in info["mounts"] if str(node.proxy.root) in each["source"]]
    assert [each["destination"] for each in ours] == ["/nix/store"]
    assert {"ro", "rprivate"} <= set(ours[0]["options"])
    assert info["process"]["args"] == ["sleep", "600"]
