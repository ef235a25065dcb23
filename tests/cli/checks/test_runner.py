import threading

from cri_proxy.cli.checks import findings, runner
from cri_proxy.cli.checks.findings import Check, CheckStatus


def test_all_checks_run_at_the_same_time_and_answer_in_order():
    """Each waits for the other, so one after the other they would never end."""
    barrier = threading.Barrier(2, timeout=30)

    def look():
        barrier.wait()
        return findings.ok("met")

    results = runner.run([Check("a", look), Check("b", look)])

    assert [(result.name, result.finding.status) for result in results] == [
        ("a", "ok"),
        ("b", "ok"),
    ]


def test_a_check_that_hangs_is_reported_and_left_behind():
    released = threading.Event()

    def hang():
        released.wait(60)
        return findings.ok("late")

    checks = [Check("hangs", hang), Check("healthy", lambda: findings.ok("fine"))]
    hanging, healthy = runner.run(checks, deadline_seconds=2)
    released.set()

    assert hanging.finding.status is CheckStatus.FAIL
    assert hanging.finding.found == "timed out"
    assert healthy.finding.status is CheckStatus.OK


def test_what_the_operating_system_refuses_is_a_finding_too(tmp_path):
    def look():
        (tmp_path / "none").read_text()
        return findings.ok("never")

    (result,) = runner.run([Check("a", look)])

    assert result.finding.status is CheckStatus.FAIL
    assert result.finding.found == f"{tmp_path}/none: No such file or directory"
