from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from backupctl.catalog.models import Finding
from backupctl.evidence import audit
from backupctl.evidence.canonical import canonical
from backupctl.evidence.html import render_html
from backupctl.evidence.quarter import Quarter
from backupctl.evidence.recovery import report_hash
from tests.evidence.conftest import NOW, Quarterly, job, make_settings

FIFTH = datetime(2026, 11, 5, 2, 0, tzinfo=UTC)


def codes(report: dict[str, Any]) -> list[str]:
    return [entry["code"] for entry in report["summary"]["statements"]]


def limits(report: dict[str, Any]) -> dict[str, Any]:
    return {entry["code"]: entry["values"] for entry in report["limits"]}


def test_the_numbers_of_a_full_quarter(full: Quarterly) -> None:
    report = full.report()
    drills = report["summary"]["drills"]
    assert {key: drills[key] for key in ("run", "passed", "failed", "inconclusive", "stale", "skipped")} == {
        "run": 5, "passed": 3, "failed": 1, "inconclusive": 1, "stale": 0, "skipped": 0,
    }  # fmt: skip
    assert (drills["planned"], drills["due"], drills["not_run"], drills["checks"]) == (6, 4, 0, 12)
    assert drills["pass_rate"] == {"successes": 3, "trials": 5, "share": 0.6, "lower95": 0.1892}
    assert report["summary"]["jobs"] == {"total": 3, "drilled": 2, "undrilled": 1, "never_drilled": 1}
    assert report["summary"]["worst_rto"] == {
        "job": "payroll", "drill": "drill-payroll-monthly-1106", "achieved": 2100.0, "objective": 1800.0, "ratio": 1.1667,
    }  # fmt: skip
    assert report["summary"]["worst_rpo"]["ratio"] == 0.8333
    assert report["summary"]["findings"] == {"open": {"critical": 1, "major": 0, "minor": 1}, "overdue": 1}
    assert report["summary"]["conclusion"] == "attention"


def test_failed_drills_come_first(full: Quarterly) -> None:
    verdicts = [entry["verdict"] for entry in full.report()["drills"]]
    assert verdicts == ["fail", "inconclusive", "pass", "pass", "pass"]


def test_a_job_row_has_median_worst_and_count(full: Quarterly) -> None:
    rows = {row["job"]: row for row in full.report()["jobs"]}
    assert rows["website"]["rto"] == {"objective": 7200, "n": 2, "median": 1700.0, "worst": 2400.0, "ratio": 0.3333}
    assert rows["payroll"]["highest_level"] == 5
    assert rows["payroll"]["pass_rate"]["trials"] == 2
    assert rows["website"]["verdict"] == "inconclusive"  # the newest word counts
    assert rows["wiki"]["verdict"] is None
    assert rows["wiki"]["rto"] == {"objective": 7200, "n": 0, "median": None, "worst": None, "ratio": None}


def test_a_quarter_without_a_drill_says_so_first_and_proves_nothing(quarterly: Quarterly) -> None:
    report = quarterly.report()
    assert codes(report)[0] == "no_drill"
    assert report["summary"]["conclusion"] == "none"
    assert report["summary"]["drills"]["pass_rate"]["share"] is None
    assert report["summary"]["worst_rto"] is None
    assert report["summary"]["integrity"]["share"] is None
    assert [row["job"] for row in report["undrilled"]] == ["payroll", "website", "wiki"]
    assert "drills_passed" not in codes(report)


def test_no_job_at_all_is_no_success(quarterly: Quarterly) -> None:
    quarterly.settings = make_settings({})
    report = quarterly.report()
    assert report["summary"]["conclusion"] == "none"
    assert codes(report) == ["no_drill"]


def test_everything_good_is_a_pass(quarterly: Quarterly) -> None:
    quarterly.settings = make_settings(
        {"website": job("website", drills={"monthly": {"on": "staging"}}, schedule=None)}
    )
    quarterly.drill("website/monthly", FIFTH)
    quarterly.check(datetime(2026, 11, 20, tzinfo=UTC))
    report = quarterly.report()
    assert codes(report) == ["drills_passed"]
    assert report["summary"]["conclusion"] == "pass"


def test_a_pass_without_checks_or_with_a_failed_one_is_a_failure(quarterly: Quarterly) -> None:
    quarterly.drill("website/monthly", FIFTH, checks=0)
    entry = quarterly.report()["drills"][0]
    assert (entry["verdict"], entry["reasons"]) == ("fail", ["recorded as pass without a single check"])
    identity = quarterly.drill("website/monthly", FIFTH)
    with quarterly.catalog.engine.begin() as connection:
        connection.execute(text("UPDATE drill_checks SET ok = 0 WHERE number = 2 AND drill = :id"), {"id": identity})
    report = quarterly.report()
    assert report["drills"][0]["reasons"] == ["recorded as pass although a check failed"]
    assert report["summary"]["conclusion"] == "fail"


def test_only_undecided_drills_prove_nothing(quarterly: Quarterly) -> None:
    quarterly.drill("website/monthly", FIFTH, "inconclusive", checks=0, rto_seconds=None, level=0)
    quarterly.drill("payroll/monthly", FIFTH, "stale", checks=0, rto_seconds=None, level=0)
    report = quarterly.report()
    assert report["summary"]["conclusion"] == "none"
    assert "nothing_decided" in codes(report)
    assert report["summary"]["drills"]["pass_rate"]["trials"] == 2
    assert len(report["undrilled"]) == 3


def test_a_failed_drill_has_no_recovery_time(quarterly: Quarterly) -> None:
    quarterly.drill("website/monthly", FIFTH, "fail", rto_seconds=3.0, rpo_seconds=4.0)
    report = quarterly.report()
    assert report["summary"]["worst_rto"] is None
    assert report["drills"][0]["rpo"] == {"achieved": None, "objective": 86400.0, "ratio": None}
    website = next(row for row in report["jobs"] if row["job"] == "website")
    assert (website["rto"]["n"], website["highest_level"]) == (0, None)


def test_an_older_snapshot_tested_on_purpose_misses_no_objective(quarterly: Quarterly) -> None:
    quarterly.backup("website", FIFTH - timedelta(hours=8))
    quarterly.drill("website/monthly", FIFTH, snapshot_time=FIFTH - timedelta(days=30), rpo_seconds=30 * 86400.0)
    report = quarterly.report()
    (entry,) = report["drills"]
    assert entry["older_point"]
    assert entry["rpo"] == {"achieved": 2592000.0, "objective": 86400.0, "ratio": None}
    assert report["summary"]["worst_rpo"] is None
    assert "rpo_missed" not in codes(report)
    assert limits(report)["oldest_restored"]["seconds"] == 30 * 86400


def test_a_failure_that_was_repaired_stays_a_point_to_explain(quarterly: Quarterly) -> None:
    quarterly.drill("website/monthly", FIFTH - timedelta(days=3), "fail")
    quarterly.drill("website/monthly", FIFTH)
    report = quarterly.report()
    assert report["summary"]["conclusion"] == "attention"
    assert codes(report)[0] == "drills_failed"


def test_the_newest_check_decides_about_a_repository(full: Quarterly) -> None:
    full.check(NOW - timedelta(hours=1), "fail", problems=[{"object": "index/aa", "message": "unreadable"}])
    report = full.report()
    assert report["summary"]["conclusion"] == "fail"
    (row,) = report["integrity"]
    assert [problem["object"] for problem in row["problems"]] == ["data/ab/abcdef", "index/aa"]


def test_one_byte_unread_is_not_read_in_full(full: Quarterly) -> None:
    (row,) = full.report()["integrity"]
    assert row["share"] == 0.9999
    assert "not_read_in_full" in limits(full.report())


def test_growth_since_the_full_reading_counts_as_unread(quarterly: Quarterly) -> None:
    quarterly.check(datetime(2026, 11, 1, tzinfo=UTC))
    quarterly.check(datetime(2026, 11, 20, tzinfo=UTC), mode="structure", pack_bytes=10_000_000_000, bytes_read=4096)
    (row,) = quarterly.report()["integrity"]
    assert (row["bytes_there"], row["bytes_read"], row["share"]) == (10_000_000_000, 5_000_000_000, 0.5)
    assert row["last_full_read"] == "2026-11-01T00:00:00Z"


def test_the_calendar_has_one_letter_per_day(full: Quarterly) -> None:
    rows = {row["job"]: row for row in full.report()["operation"]["jobs"]}
    payroll = rows["payroll"]["calendar"]
    assert len(payroll) == 92
    assert payroll[0] == "u"  # 1 October: before the first record
    assert payroll[1 + 7] == "f"
    assert payroll[1 + 20] == "i"
    assert payroll[1 + 30] == "n"
    assert payroll[52] == "n"  # 22 November, 02:15 is past
    assert set(payroll[53:]) == {"."}
    assert rows["payroll"]["missed"] == 2
    assert rows["payroll"]["first_attempt"]["trials"] == 52
    assert rows["payroll"]["first_attempt"]["successes"] == 48
    assert rows["wiki"]["calendar"].count("c") == 11


def test_a_manual_run_repairs_a_day_but_not_the_first_attempt(quarterly: Quarterly) -> None:
    at = datetime(2026, 11, 19, 18, 15, tzinfo=UTC)
    quarterly.backup("website", at, "failed")
    quarterly.backup("website", at + timedelta(hours=2), trigger="manual")
    row = next(row for row in quarterly.report()["operation"]["jobs"] if row["job"] == "website")
    assert row["calendar"][50] == "c"  # 20 November in Taipei
    assert row["first_attempt"]["successes"] == 0


def test_an_hourly_job_is_complete_only_with_every_run(quarterly: Quarterly) -> None:
    quarterly.settings = make_settings({"website": job("website", schedule={"cron": "0 */6 * * *"})})
    start = datetime(2026, 11, 9, 16, tzinfo=UTC)  # 10 November, 00:00 in Taipei
    for number in range(8):
        if number != 5:
            quarterly.backup("website", start + timedelta(hours=6 * number))
    calendar = quarterly.report()["operation"]["jobs"][0]["calendar"]
    assert calendar[40:42] == "cn"


def test_a_run_still_going_is_neither_good_nor_bad(quarterly: Quarterly) -> None:
    quarterly.backup("website", datetime(2026, 11, 21, 18, 15, tzinfo=UTC), "running")
    row = next(row for row in quarterly.report()["operation"]["jobs"] if row["job"] == "website")
    assert row["calendar"][52] == "r"
    assert row["first_attempt"]["trials"] == 0


def test_findings_are_aged_and_overdue(full: Quarterly) -> None:
    rows = full.report()["findings"]
    assert [(row["severity"], row["open"], row["overdue"], row["age_days"]) for row in rows] == [
        ("critical", True, True, 20), ("minor", True, False, 30), ("major", False, False, 31),
    ]  # fmt: skip


def test_a_suspicious_snapshot_is_told_with_what_people_said_of_it(quarterly: Quarterly) -> None:
    catalog = quarterly.catalog
    assert quarterly.report()["suspicious"] == [] and quarterly.report()["summary"]["suspicious"]["total"] == 0
    for number in range(4):
        quarterly.backup("payroll", NOW - timedelta(days=9 - number))
        run = catalog.runs(kind="backup", limit=1)[0]
        detail = f"www: {number + 50} of 60 rewritten files turned random"
        closed = {"closed": NOW - timedelta(days=1), "closure": "cleared by ops: moved"} if number == 3 else {}
        finding = Finding(
            id=f"odd {number}", source="anomaly", run=run.id, job="payroll", severity="critical", title="suspicious",
            detail=detail, owner="finance", opened=run.scheduled, due=NOW, **closed,
        )  # fmt: skip
        catalog.open_finding(finding)
    runs = [run.id for run in reversed(catalog.runs(kind="backup"))]
    catalog.append_event("ann", "anomaly.acknowledged", "x", {"run": runs[1], "reason": "forensics have it"})
    catalog.append_event("ann", "anomaly.acknowledged", "x", {"run": runs[2], "reason": "looking"})
    catalog.append_event("bob", "anomaly.cleared", "x", {"run": runs[2], "reason": "pages replaced"})
    report = quarterly.report()
    said = [(row["run"], row["state"], row["by"], row["reason"]) for row in report["suspicious"]]
    assert said == [
        (runs[0], "unseen", None, ""),
        (runs[1], "acknowledged", "ann", "forensics have it"),
        (runs[2], "cleared", "bob", "pages replaced"),
        (runs[3], "cleared", None, "cleared by ops: moved"),
    ]
    assert all(row["snapshot"] and "turned random" in row["signals"] for row in report["suspicious"])
    assert report["summary"]["suspicious"] == {"total": 4, "unseen": 1, "acknowledged": 1, "cleared": 2}
    [statement] = [one for one in report["summary"]["statements"] if one["code"] == "suspicious_open"]
    assert statement["values"]["count"] == 2 and report["summary"]["conclusion"] != "pass"
    told = render_html(report, "en")
    assert "4 suspicious: 1 that nobody has looked at · 1 being dealt with · 2 cleared" in told
    assert "forensics have it" in told and "being dealt with · ann · " in told


def test_the_limits_follow_from_the_records(full: Quarterly) -> None:
    found = limits(full.report())
    assert found["level_not_reached"] == {"level": 5}
    assert found["staged_here"] == {"hosts": ["staging"]}
    assert found["local_repository"] == {"repositories": ["offsite"]}
    assert found["no_drill_configured"] == {"jobs": ["wiki"]}
    assert found["cleanup_unproved"] == {"drills": ["payroll/monthly"]}
    assert found["quarter_open"] == {"until": "2026-11-22T01:00:00Z"}
    assert found["oldest_restored"]["seconds"] == 7.75 * 3600


def test_another_quarter_knows_nothing_of_this_one(full: Quarterly) -> None:
    full.clock.advance(120 * 86400)
    report = full.report(Quarter(2027, 1, "Asia/Taipei"))
    assert report["drills"] == []
    assert [row["ever"] for row in report["undrilled"]] == [False, True, True]
    assert report["undrilled"][1]["last_drilled"] == "2026-11-06T02:00:00Z"
    earlier = full.report(Quarter(2026, 3, "Asia/Taipei"))
    assert (earlier["drills"], earlier["integrity"][0]["checks"], earlier["evidence"]) == ([], 0, [])


def test_the_same_catalog_at_the_same_instant_gives_the_same_bytes(full: Quarterly) -> None:
    one, two = full.report(), full.report()
    assert canonical(one) == canonical(two)
    assert report_hash(one) == hashlib.sha256(canonical(one)).hexdigest()
    full.clock.advance(1)
    assert report_hash(full.report()) != report_hash(one)
    assert json.loads(canonical(one)) == one


def test_every_evidence_line_names_a_record(full: Quarterly) -> None:
    rows = full.report()["evidence"]
    assert sorted({row["kind"] for row in rows}) == ["check", "drill", "hold"]
    assert all(len(row["sha256"]) == 64 for row in rows)


def test_a_name_that_is_not_unicode_can_be_reported(quarterly: Quarterly) -> None:
    quarterly.drill("website/monthly", FIFTH, "fail", reasons=["/srv/caf\udce9 differs"])
    report = quarterly.report()
    assert report["drills"][0]["reasons"] == ["/srv/caf\\udce9 differs"]
    canonical(report)


def test_a_broken_audit_trail_is_told_with_its_first_event(full: Quarterly) -> None:
    whole = audit.verify(full.catalog)
    assert (whole.intact, whole.events, whole.first_broken) == (True, 3, None)
    with full.catalog.engine.begin() as connection:
        connection.execute(text("UPDATE events SET actor = 'nobody' WHERE number = 2"))
    broken = audit.verify(full.catalog)
    assert (broken.intact, broken.first_broken, len(broken.faults)) == (False, 2, 1)
    report = full.report()
    assert "audit_broken" in codes(report)
    assert report["summary"]["conclusion"] == "fail"


@pytest.mark.parametrize(("removed", "first"), [(1, 1), (2, 2)])
def test_a_removed_event_breaks_the_trail(full: Quarterly, removed: int, first: int) -> None:
    with full.catalog.engine.begin() as connection:
        connection.execute(text("DELETE FROM events WHERE number = :number"), {"number": removed})
    assert audit.verify(full.catalog).first_broken == first
