"""Workloads in environments: Deployments, Jobs, all kinds of containers."""

from __future__ import annotations

from typing import Any

from hack.cluster.kubectl import restarts
from hack.testbed import images
from tests.kubernetes.spaces import START_SECONDS, Space, deployment, pod

GREETING = ("sh", "-c", 'echo "$GREETING"; exec sleep 2147483647')


def _greetings(space: Space, app: str) -> set[str]:
    """Return the logs of the pods of a Deployment."""
    return set(space.kubectl("logs", f"--selector=app={app}", "--tail=-1").split("\n")) - {""}


def _rolled_out(space: Space, name: str) -> None:
    space.kubectl(
        "rollout", "status", f"deployment/{name}", f"--timeout={START_SECONDS:.0f}s", seconds=180
    )
    space.kubectl.until(
        ["pods", f"--selector=app={name}"],
        lambda pods: all("deletionTimestamp" not in each["metadata"] for each in pods),
    )


def _template(environment: str) -> dict[str, Any]:
    readiness = {"exec": {"command": ["sh", "-c", 'test -n "$GREETING"']}, "timeoutSeconds": 10}
    return pod(
        "web",
        environment=environment,
        command=GREETING,
        container={"readinessProbe": readiness},
        runtimeClassName="flox",
    )


def test_a_deployment_rolls_out_follows_a_push_and_rolls_back(space: Space) -> None:
    space.push("rollout", variables={"GREETING": "first"})
    space.kubectl.apply(pod("beside"))
    space.kubectl.apply(deployment("web", 3, _template("test/rollout")))
    _rolled_out(space, "web")
    first = _greetings(space, "web")

    space.push("rollout", variables={"GREETING": "second"})
    still = _greetings(space, "web")
    space.kubectl("rollout", "restart", "deployment/web")
    _rolled_out(space, "web")
    second = _greetings(space, "web")

    pinned = deployment("web", 3, _template("test/rollout:1"))
    space.kubectl.apply(pinned, options=["--force-conflicts"])
    _rolled_out(space, "web")

    assert (first, still, second) == ({"first"}, {"first"}, {"second"})
    assert _greetings(space, "web") == {"first"}
    assert restarts(space.ready("beside")) == 0


def test_ordinary_pods_beside_annotated_ones_are_unchanged(space: Space) -> None:
    space.push("beside", variables={"GREETING": "hello"})
    space.run("annotated", environment="test/beside")

    space.run("ordinary")
    show = 'test -e /nix && echo nix; echo "${FLOX_ENV-none}"; cat /proc/1/comm'
    shown = space.kubectl("exec", "ordinary", "--", "sh", "-c", show)

    assert shown.split() == ["none", "sleep"]


def test_a_job_completes(space: Space) -> None:
    space.push("job", variables={"GREETING": "done"})
    template = pod("job", environment="test/job", command=["sh", "-c", 'echo "$GREETING"'])
    template["spec"]["restartPolicy"] = "Never"
    space.kubectl.apply(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "job"},
            "spec": {
                "completions": 2,
                "parallelism": 2,
                "template": {"metadata": template["metadata"], "spec": template["spec"]},
            },
        }
    )

    job = space.kubectl.until(
        ["job", "job"], lambda job: job["status"].get("succeeded") == 2, seconds=START_SECONDS
    )

    assert job["status"].get("failed", 0) == 0
    assert _greetings(space, "job") == {"done"}


def test_init_sidecar_and_main_containers_run_in_order(space: Space) -> None:
    space.push("order")
    write = 'echo "$0 $FLOX_ENV_DESCRIPTION" >>/data/order'
    mount = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    init = {
        **mount,
        "name": "init",
        "image": images.PLACEHOLDER,
        "command": ["sh", "-c", write, "init"],
    }
    sidecar = {
        **mount,
        "name": "sidecar",
        "image": images.PLACEHOLDER,
        "restartPolicy": "Always",
        "command": ["sh", "-c", f"{write}; exec sleep 2147483647", "sidecar"],
        "startupProbe": {
            "exec": {"command": ["grep", "-q", "sidecar", "/data/order"]},
            "timeoutSeconds": 10,
        },
    }

    space.run(
        "ordered",
        environment="test/order",
        command=["sh", "-c", f"{write}; exec sleep 2147483647", "main"],
        container=mount,
        initContainers=[init, sidecar],
        volumes=[{"name": "data", "emptyDir": {}}],
    )
    order = space.kubectl("exec", "ordered", "-c", "main", "--", "cat", "/data/order")

    assert order.splitlines() == ["init test/order", "sidecar test/order", "main test/order"]


def test_an_ephemeral_container_is_in_the_environment_too(space: Space) -> None:
    space.push("debugged", variables={"GREETING": "inside"})
    space.run("debugged", environment="test/debugged")

    space.kubectl(
        *("debug", "debugged", f"--image={images.PLACEHOLDER}", "--container=look"),
        *("--target=main", "--profile=general", "--", "sh", "-c", 'echo "$GREETING"'),
    )
    space.pod("debugged", lambda pod: "terminated" in _ephemeral_state(pod))

    assert space.kubectl("logs", "debugged", "--container=look") == "inside\n"


def _ephemeral_state(pod: dict[str, Any]) -> dict[str, Any]:
    statuses = pod["status"].get("ephemeralContainerStatuses") or [{}]
    state: dict[str, Any] = statuses[0].get("state", {})
    return state


def test_a_container_that_fails_is_restarted_in_the_same_generation(
    space: Space,
) -> None:
    space.push("again", variables={"GREETING": "first"})
    command = 'echo "$GREETING"; test -e /data/go || { touch /data/go; until test -e /data/fail; do sleep 0.1; done; exit 3; }; exec sleep 2147483647'  # noqa: E501
    space.run(
        "again",
        environment="test/again",
        command=["sh", "-c", command],
        container={"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        volumes=[{"name": "data", "emptyDir": {}}],
    )

    space.push("again", variables={"GREETING": "second"})
    space.kubectl("exec", "again", "--", "touch", "/data/fail")
    found = space.pod("again", lambda pod: restarts(pod) == 1 and pod["status"]["phase"])
    space.ready("again")

    last = found["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert last["exitCode"] == 3
    assert space.kubectl("logs", "again") == "first\n"


def test_a_failed_liveness_probe_restarts_the_container(space: Space) -> None:
    space.push("probed", variables={"GREETING": "hello"})
    probe = {
        "exec": {"command": ["test", "!", "-e", "/tmp/sick"]},
        "periodSeconds": 1,
        "failureThreshold": 1,
        "timeoutSeconds": 10,
    }

    space.run("probed", environment="test/probed", container={"livenessProbe": probe})
    space.kubectl("exec", "probed", "--", "touch", "/tmp/sick")

    space.pod("probed", lambda pod: restarts(pod) == 1)
    assert restarts(space.ready("probed")) == 1
