"""What an environment adds to the configuration of a container, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.cri import api_pb2
from cri_proxy.interposer import adjustment
from cri_proxy.interposer.adjustment import ImageConfig
from cri_proxy.interposer.selection import Selection
from cri_proxy.model.environments import Environment, Mode
from cri_proxy.model.references import Reference
from cri_proxy.model.storepaths import StorePath

FLOX_ENV = StorePath("0" * 32, "environment-run")
IMAGE = ImageConfig(("/entry",), ("cmd",), {"PATH": "/image/bin", "LANG": "C"}, "/work")
WEB = Reference("acme", "web")
SELECTION = Selection(environment=WEB)
OUTSIDE = Selection(environment=WEB, skipped_exec=frozenset({"main"}))
START = ("/nix/bash", "--noprofile", "--norc", "-p", f"{FLOX_ENV}/activate", "--keep", "/k", "--")


def environment_of(*, shell: str | None = None) -> Environment:
    return Environment(
        identity="0-acme-web",
        reference=Reference("acme", "web", 3),
        revision="r",
        lock_digest="d",
        system="x86_64-linux",
        mode=Mode.RUN,
        flox_env=FLOX_ENV,
        shell=shell,
        variables=(("GREETING", "hello"),),
        closure=(FLOX_ENV,),
        nar_bytes=0,
        realized_at=0.0,
        store=Path("/var/lib/cri-proxy/environments/0-acme-web/store"),
    )


def config_of(**fields: object) -> api_pb2.ContainerConfig:
    return api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name="main"),
        **fields,  # type: ignore[arg-type]
    )


def apply(
    config: api_pb2.ContainerConfig, *, shell: str | None = None, image: ImageConfig = IMAGE
) -> api_pb2.ContainerConfig:
    adjustment.apply(config, environment_of(shell=shell), image, SELECTION, keep="/k")
    return config


def variables_of(config: api_pb2.ContainerConfig) -> dict[str, bytes]:
    return {variable.key: variable.value for variable in config.envs}


def test_the_view_is_mounted_read_only_and_private_behind_the_pods_own_mounts() -> None:
    own = api_pb2.Mount(host_path="/a", container_path="/b")

    config = apply(config_of(mounts=[own]))

    assert config.mounts[0] == own
    assert config.mounts[1] == api_pb2.Mount(
        host_path="/var/lib/cri-proxy/environments/0-acme-web/store",
        container_path="/nix/store",
        readonly=True,
    )


def test_the_pods_variables_stay_in_order_with_duplicates_and_odd_bytes() -> None:
    own = [("B", b"1"), ("A", b"\xff\xfe"), ("B", b"2"), ("PATH", b"/pod/bin")]

    config = apply(config_of(envs=[api_pb2.KeyValue(key=k, value=v) for k, v in own]))

    assert [(each.key, each.value) for each in config.envs[:4]] == own
    assert variables_of(config)["PATH"] == f"{FLOX_ENV}/bin:/pod/bin".encode()
    assert variables_of(config)["GREETING"] == b"hello"


def test_the_images_path_is_behind_ours_when_the_pod_gives_none() -> None:
    config = apply(config_of())

    assert variables_of(config)["PATH"] == f"{FLOX_ENV}/bin:/image/bin".encode()
    assert variables_of(config)["FLOX_ENV_PROJECT"] == b"/work"


def test_a_static_environment_leaves_the_command_alone() -> None:
    config = apply(config_of(command=["serve"], args=["--port", "80"]))

    assert list(config.command) == ["serve"]
    assert list(config.args) == ["--port", "80"]
    assert adjustment.EXEC_ANNOTATION not in config.annotations


@pytest.mark.parametrize(
    ("command", "args", "program"),
    [
        (["serve"], ["-v"], ["serve", "-v"]),
        (["serve"], [], ["serve"]),
        ([], ["-v"], ["/entry", "-v"]),
        ([], [], ["/entry", "cmd"]),
    ],
)
def test_a_wrapped_command_joins_pod_and_image_as_the_runtime_would(
    command: list[str], args: list[str], program: list[str]
) -> None:
    config = apply(config_of(command=command, args=args), shell="/nix/bash")

    assert [*config.command, *config.args] == [*START, *program]


def test_nothing_to_run_is_refused_when_it_must_be_wrapped() -> None:
    with pytest.raises(errors.RequestInvalid, match="no command"):
        apply(config_of(), shell="/nix/bash", image=ImageConfig())


def test_an_image_that_is_not_described_needs_a_command_only_when_it_must_be_wrapped() -> None:
    unknown = ImageConfig(is_known=False)

    static = apply(config_of(args=["x"]), image=unknown)
    wrapped = apply(config_of(command=["own"]), shell="/nix/bash", image=unknown)

    assert (static.command, static.args) == ([], ["x"])
    assert wrapped.args == ["own"]
    with pytest.raises(errors.RequestInvalid, match="does not report"):
        apply(config_of(args=["x"]), shell="/nix/bash", image=unknown)


@pytest.mark.parametrize("place", ["/nix/store", "/nix/store/"])
def test_a_volume_in_the_environments_place_is_refused(place: str) -> None:
    with pytest.raises(errors.RequestInvalid, match="/nix/store"):
        apply(config_of(mounts=[api_pb2.Mount(host_path="/a", container_path=place)]))


def test_unknown_fields_survive() -> None:
    future = b"\xfa\x3f\x03new"  # field 1023, three bytes
    config = api_pb2.ContainerConfig.FromString(config_of().SerializeToString() + future)

    assert apply(config).SerializeToString().count(future) == 1


def test_kubelets_annotations_stay_beside_ours() -> None:
    config = apply(config_of(annotations={"io.kubernetes.container.hash": "1"}))

    assert config.annotations["io.kubernetes.container.hash"] == "1"
    assert config.annotations[adjustment.REFERENCE_ANNOTATION] == "acme/web:3"
    assert config.annotations[adjustment.ASKED_ANNOTATION] == "acme/web"


def test_a_program_started_later_joins_the_activation() -> None:
    config = apply(config_of(command=["serve"]), shell="/nix/bash")

    command = adjustment.exec_command(config.annotations, ["cat", "a b"])

    join = ("/nix/bash", "--noprofile", "--norc", "-p", f"{FLOX_ENV}/activate", "--join", "/k")
    assert command == [*join, "--", "cat", "a b"]


def test_a_container_of_a_static_environment_needs_nothing_before_a_later_program() -> None:
    config = apply(config_of(command=["serve"]))

    assert adjustment.exec_command(config.annotations, ["cat"]) is None


def apply_outside(config: api_pb2.ContainerConfig) -> api_pb2.ContainerConfig:
    environment = environment_of(shell="/nix/bash")
    adjustment.apply(config, environment, IMAGE, OUTSIDE, keep="/k")
    return config


def test_with_exec_outside_only_the_program_is_given_variables() -> None:
    own = [api_pb2.KeyValue(key="PATH", value=b"/pod/bin")]

    config = apply_outside(config_of(envs=own, command=["serve"]))

    assert list(config.envs) == own
    argv = [*config.command, *config.args]
    assert argv[-2:] == ["--", "serve"]
    assert argv[argv.index("--set") + 1] == f"FLOX_ENV={FLOX_ENV}"
    assert f"PATH={FLOX_ENV}/bin:/pod/bin" in argv
    assert "GREETING=hello" in argv
    assert adjustment.exec_command(config.annotations, ["cat"]) is None


def test_exec_outside_is_refused_for_an_environment_without_a_shell() -> None:
    with pytest.raises(errors.EnvironmentUnsuitable, match="shell"):
        adjustment.apply(
            config_of(command=["serve"]),
            environment_of(),
            IMAGE,
            OUTSIDE,
            keep="/k",
        )


def apply_writable(config: api_pb2.ContainerConfig) -> api_pb2.ContainerConfig:
    writable = adjustment.Writable("7" * 32, Path("/m/store"), Path("/m/nix"))
    adjustment.apply(config, environment_of(), IMAGE, SELECTION, keep="/k", writable=writable)
    return config


def test_a_writable_nix_is_mounted_in_two_parts_and_noted() -> None:
    config = apply_writable(config_of())

    assert list(config.mounts) == [
        api_pb2.Mount(host_path="/m/nix", container_path="/nix"),
        api_pb2.Mount(host_path="/m/store", container_path="/nix/store"),
    ]
    assert config.annotations[adjustment.MUTABLE_ANNOTATION] == "7" * 32


@pytest.mark.parametrize("place", ["/nix", "/nix/", "//nix", "nix", "/a/../nix", "/nix/./store"])
def test_a_volume_in_the_place_of_a_writable_nix_is_refused(place: str) -> None:
    with pytest.raises(errors.RequestInvalid, match="/nix"):
        apply_writable(config_of(mounts=[api_pb2.Mount(host_path="/a", container_path=place)]))


def test_a_volume_elsewhere_below_nix_is_the_pods_own_affair() -> None:
    mounts = [api_pb2.Mount(host_path="/a", container_path="/nix/var")]

    assert len(apply_writable(config_of(mounts=mounts)).mounts) == 3


def test_what_could_not_be_linked_into_the_view_is_mounted_into_it_path_by_path() -> None:
    place = Path("/nix/store") / f"{'1' * 32}-bash"
    environment = replace(environment_of(), mounted=(place,))
    config = config_of()
    adjustment.apply(config, environment, IMAGE, SELECTION, keep="/k")

    assert [(each.container_path, each.host_path) for each in config.mounts] == [
        ("/nix/store", str(environment.store)),
        (f"/nix/store/{place.name}", str(place)),
    ]
    assert all(each.readonly for each in config.mounts)


def test_a_writable_nix_is_refused_where_paths_are_mounted_one_by_one() -> None:
    environment = replace(environment_of(), mounted=(Path("/nix/store") / f"{'1' * 32}-bash",))
    writable = adjustment.Writable("7" * 32, Path("/m/store"), Path("/m/nix"))

    with pytest.raises(errors.RequestInvalid, match="one file system"):
        adjustment.apply(config_of(), environment, IMAGE, SELECTION, keep="/k", writable=writable)


@pytest.mark.parametrize("is_disabled", [True, False])
def test_metrics_are_disabled_by_a_variable_if_the_pod_asks_for_it(is_disabled: bool) -> None:
    config = config_of()
    selection = Selection(environment=WEB, disable_metrics=is_disabled)
    adjustment.apply(config, environment_of(), IMAGE, selection, keep="/k")

    assert (variables_of(config).get("FLOX_DISABLE_METRICS") == b"true") is is_disabled


def test_the_reference_that_a_container_asks_for_itself_is_noted() -> None:
    config = config_of()
    selection = Selection(environment=WEB, by_container=(("main", WEB.at(3)),))
    adjustment.apply(config, environment_of(), IMAGE, selection, keep="/k")

    assert config.annotations[adjustment.ASKED_ANNOTATION] == "acme/web:3"
