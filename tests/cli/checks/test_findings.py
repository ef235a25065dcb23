from cri_proxy.cli.checks import findings
from cri_proxy.cli.checks.findings import CheckStatus, Finding


def test_each_verdict_has_a_function_and_advice_unless_it_is_ok():
    assert findings.ok("fine") == Finding(CheckStatus.OK, "fine", "")
    assert findings.warn("slow", "wait") == Finding(CheckStatus.WARN, "slow", "wait")
    assert findings.fail("gone", "look") == Finding(CheckStatus.FAIL, "gone", "look")


def test_a_verdict_is_written_as_its_word():
    assert [f"{each:4}" for each in CheckStatus] == ["ok  ", "warn", "fail"]
