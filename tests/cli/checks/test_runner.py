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

    assert [(name, finding.status) for name, finding in results] == [
        ("a", "ok"),
        ("b", "ok"),
    ]


def test_a_check_that_hangs_is_reported_and_left_behind():
    released = threading.Event()

    def hang():
        released.wait(60)
        return findings.ok("late")

    checks = [Check("hangs", hang), Check("healthy", lambda: findings.ok("fine"))]
    (_, hanging), (_, healthy) = runner.run(checks, deadline_seconds=2)
    released.set()

    assert hanging.status is CheckStatus.FAIL
    assert hanging.found == "timed out"
    assert healthy.status is CheckStatus.OK


def test_what_the_operating_system_refuses_is_a_finding_too(tmp_path):
    def look():
        (tmp_path / "none").read_text()
        return findings.ok("never")

    ((_, finding),) = runner.run([Check("a", look)])

    assert finding.status is CheckStatus.FAIL
    assert finding.found == f"{tmp_path}/none: No such file or directory"
