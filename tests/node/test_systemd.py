"""systemd, controlled by a systemctl that records its calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from cri_proxy import errors
from cri_proxy.node.root import Root
from cri_proxy.node.systemd import Systemd
from tests.node.conftest import RunningRoot, Systemctl

SOCKET = "cri-proxy.socket"
SERVICE = "cri-proxy.service"


@pytest.fixture
def systemd(tmp_path: Path, systemctl: Systemctl) -> Systemd:
    """Systemd of a running node."""
    return Systemd(RunningRoot(tmp_path))


def test_the_socket_is_started_before_the_daemon(systemd: Systemd, systemctl: Systemctl) -> None:
    systemd.start_proxy()

    assert systemctl.calls == [f"start {SOCKET}", f"start {SERVICE}"]


def test_a_restart_leaves_the_socket_alone(systemd: Systemd, systemctl: Systemctl) -> None:
    systemd.restart_proxy()

    assert systemctl.calls == [f"reset-failed {SERVICE}", f"restart {SERVICE}"]


def test_a_daemon_that_never_failed_is_restarted_as_well(
    systemd: Systemd, systemctl: Systemctl
) -> None:
    systemctl.refuse("reset-failed")

    systemd.restart_proxy()

    assert systemctl.calls[-1] == f"restart {SERVICE}"


@pytest.mark.parametrize("verb", ["stop", "reset-failed"])
def test_stopping_units_that_do_not_exist_is_no_error(
    systemd: Systemd, systemctl: Systemctl, verb: str
) -> None:
    systemctl.refuse(verb)

    systemd.stop_proxy()

    assert systemctl.calls == [f"stop {SERVICE} {SOCKET}", f"reset-failed {SERVICE} {SOCKET}"]


def test_a_service_that_is_stopped_is_not_started(systemd: Systemd, systemctl: Systemctl) -> None:
    systemd.restart("kubelet.service")

    assert systemctl.calls == ["try-restart kubelet.service"]


def test_a_unit_is_active_when_systemd_says_so(systemd: Systemd, systemctl: Systemctl) -> None:
    before = systemd.is_active("kubelet.service")
    systemctl.activate("kubelet.service")

    assert (before, systemd.is_active("kubelet.service")) == (False, True)


def test_a_failed_command_is_reported_with_its_message(
    systemd: Systemd, systemctl: Systemctl
) -> None:
    systemctl.refuse("daemon-reload")

    with pytest.raises(errors.SourceUnreachable, match=r"daemon-reload failed: Job failed\."):
        systemd.reload()


@pytest.mark.parametrize("state", ["", "offline"])
def test_a_machine_without_systemd_is_refused(
    systemd: Systemd, systemctl: Systemctl, state: str
) -> None:
    systemctl.state(state)

    with pytest.raises(errors.NotFound, match="systemd is not running"):
        systemd.check()


@pytest.mark.parametrize("state", ["running", "degraded"])
def test_a_running_systemd_is_enough(systemd: Systemd, systemctl: Systemctl, state: str) -> None:
    systemctl.state(state)

    systemd.check()

    assert systemctl.calls == ["is-system-running"]


def test_a_machine_without_systemctl_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(errors.NotFound, match="systemctl is not installed here"):
        Systemd(RunningRoot(tmp_path)).reload()


def test_nothing_is_run_for_an_image(tmp_path: Path, systemctl: Systemctl) -> None:
    systemd = Systemd(Root(tmp_path))

    systemd.check()
    systemd.start_proxy()
    systemd.stop_proxy()

    assert not systemd.is_active(SERVICE)
    assert systemctl.calls == []
