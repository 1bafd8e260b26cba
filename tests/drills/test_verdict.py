from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from backupctl.drills.model import ObjectiveSeconds, Verdict
from backupctl.drills.verdict import SourceOutcome, blames_backup, exit_code, judge, nothing_to_test
from backupctl.errors import (
    CouldNotRunError,
    DamageError,
    Full,
    NotFound,
    SourceError,
    UnreachableError,
    UserError,
)
from backupctl.sources.protocol import CheckResult

DAY = timedelta(days=1)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def check(name: str = "table t", *, ok: bool = True, level: int = 4) -> CheckResult:
    return CheckResult(name, "3 rows", "3 rows" if ok else "2 rows", ok, level)


def good(name: str = "db") -> SourceOutcome:
    return SourceOutcome(name, level=3, data_time=NOON, checks=[check(level=3), check()])


def test_a_source_restored_and_equal_passes_at_content_level() -> None:
    assert (judge([good()]).verdict, judge([good()]).level) == ("pass", 4)


def test_a_probe_that_is_ok_raises_the_level() -> None:
    judgement = judge([good()], probes_planned=1, probes=[check("sql: …", level=5)])
    assert (judgement.verdict, judgement.level, judgement.reasons) == ("pass", 5, [])


@pytest.mark.parametrize(
    "outcomes",
    [
        [],
        [SourceOutcome("db", held=False, level=3)],
        [SourceOutcome("db", level=3)],
        # a restore without errors compares nothing: not even of empty sources alone does that prove anything
        [SourceOutcome("db", held=False, level=3, checks=[check("restore", level=3)])],
    ],
)
def test_zero_checks_never_pass(outcomes: list[SourceOutcome]) -> None:
    judgement = judge(outcomes)
    assert judgement.verdict == "inconclusive"
    assert judgement.reasons


def test_a_restore_without_a_content_check_never_passes() -> None:
    judgement = judge([good(), SourceOutcome("other", level=3, checks=[check(level=3)])])
    assert judgement.verdict == "inconclusive"
    assert judgement.level == 3
    assert judgement.reasons == ["other: nothing was compared with what the source held"]


def test_an_empty_source_beside_a_proven_one_does_not_stop_a_pass() -> None:
    judgement = judge([good(), SourceOutcome("empty", held=False, level=3, checks=[check(level=3)])])
    assert (judgement.verdict, judgement.level) == ("pass", 4)


def test_a_difference_fails_and_is_named() -> None:
    outcome = SourceOutcome("db", level=3, checks=[check(), check("db: table articles", ok=False)])
    judgement = judge([good(), outcome])
    assert (judgement.verdict, judgement.level) == ("fail", 3)
    assert judgement.reasons == ["db: table articles: expected 3 rows, found 2 rows"]


def test_many_differences_are_told_in_few_words() -> None:
    checks = [check(f"table {number}", ok=False) for number in range(50)]
    reasons = judge([SourceOutcome("db", level=3, checks=checks)]).reasons
    assert len(reasons) == 21
    assert reasons[-1] == "and 30 more"


def test_fail_outranks_inconclusive_and_both_are_told() -> None:
    judgement = judge([SourceOutcome("a", bad=["load: cut short"]), SourceOutcome("b", trouble=["boot: no space"])])
    assert judgement.verdict == "fail"
    assert judgement.reasons == ["a: load: cut short", "b: boot: no space"]


def test_trouble_outside_any_source_is_inconclusive() -> None:
    judgement = judge([], trouble=["no marker"])
    assert (judgement.verdict, judgement.level, judgement.reasons) == ("inconclusive", 0, ["no marker"])


def test_a_failed_probe_fails_and_leaves_the_content_level() -> None:
    judgement = judge([good()], probes_planned=2, probes=[check("p1", level=5), check("p2", ok=False, level=5)])
    assert (judgement.verdict, judgement.level) == ("fail", 4)


def test_probes_that_did_not_run_are_missed() -> None:
    judgement = judge([good()], probes_planned=2, probes=[check("p1", level=5)])
    assert (judgement.verdict, judgement.level) == ("inconclusive", 4)


def test_good_content_that_is_too_old_is_stale() -> None:
    objectives = ObjectiveSeconds(rto=3600, rpo=DAY.total_seconds())
    judgement = judge([good()], age=2 * DAY, objectives=objectives, rto_seconds=60, rpo_seconds=172800)
    assert judgement.verdict == "stale"
    assert judgement.level == 4
    assert "nothing recent to test" in judgement.reasons[0]
    assert judge([good()], age=DAY, objectives=objectives).verdict == "pass"


def test_bad_content_that_is_too_old_is_still_bad() -> None:
    outcome = SourceOutcome("db", bad=["damaged"])
    assert judge([outcome], age=9 * DAY, objectives=ObjectiveSeconds(rpo=1)).verdict == "fail"


def test_a_slow_recovery_passes_with_the_missed_objective_named() -> None:
    judgement = judge([good()], objectives=ObjectiveSeconds(rto=60), rto_seconds=61)
    assert judgement.verdict == "pass"
    assert judgement.reasons == ["objective missed: recovery took 61.0 s, the RTO is 60.0 s"]


def test_nothing_to_test_is_stale() -> None:
    judgement = nothing_to_test(NOON)
    assert (judgement.verdict, judgement.level) == ("stale", 0)
    assert "2026-11-22T12:00:00Z" in judgement.reasons[0]


@pytest.mark.parametrize(
    ("checks", "level", "reached"),
    [
        ([], 0, 0),
        ([], 2, 2),
        ([check(level=3)], 3, 3),
        ([check(level=3), check()], 3, 4),
        ([check(level=3), check(ok=False)], 3, 3),
        ([check(level=3, ok=False), check()], 3, 2),
    ],
)
def test_the_level_is_the_highest_reached_without_a_gap(checks: list[CheckResult], level: int, reached: int) -> None:
    assert SourceOutcome("db", level=level, checks=checks).reached == reached


@pytest.mark.parametrize(
    ("error", "native", "blamed"),
    [
        (DamageError("x", name="pack"), False, True),
        (NotFound("gone", name="data/00"), False, True),
        (SourceError("half a dump"), True, True),
        (UserError("psql said no"), True, True),
        (UserError("cannot make a file"), False, False),
        (CouldNotRunError("no server program"), True, False),
        (UnreachableError("ssh"), True, False),
        (Full("no room"), True, False),
        (OSError("disk"), True, False),
    ],
)
def test_who_is_to_blame(error: UserError | OSError, native: bool, blamed: bool) -> None:
    assert blames_backup(error, native=native) is blamed


def test_exit_codes_equal_the_verdict() -> None:
    assert [exit_code(verdict) for verdict in get_args(Verdict)] == [0, 4, 5, 6, 75]
