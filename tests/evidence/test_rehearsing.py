"""What the report says of the drills themselves: controls, draws, steps, estimates, the trend."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backupctl.catalog.selection import COMMITTED, DRAWN, choose, commitment_of, population, seed_of
from backupctl.evidence.draws import read_draws
from backupctl.evidence.html import render_html
from tests.evidence.conftest import Quarterly, job, make_settings

AT = datetime(2026, 11, 5, 2, 0, tzinfo=UTC)
MEASURES = {
    "instants": {"t1": 12.0, "t2": 13.0, "t3": 700.0, "t4": 900.0, "t5": 1000.0},
    "key_seconds": 2.5,
    "heartbeat": "2026-11-04T17:59:00Z",
    "estimate": {"seconds": 4321.0, "bytes": 9_000_000_000, "measured_bytes": 3_400_000_000, "scale": 0.5},
}


def control(said: str) -> dict[str, Any]:
    return {"control": {"damage": "cut short", "object": "data/ab/abcdef", "said": said, "reasons": ["x"]}}


def codes(report: dict[str, Any]) -> list[str]:
    return [entry["code"] for entry in report["summary"]["statements"]]


def html(report: dict[str, Any], language: str = "en") -> str:
    return render_html(report, language)


def test_a_control_that_was_seen_counts_as_no_drill(quarterly: Quarterly) -> None:
    quarterly.drill("website/tester", AT, checks=1, facts=control("fail"))
    report = quarterly.report()
    assert report["summary"]["controls"] == {"run": 1, "seen": 1, "missed": 0}
    assert (report["summary"]["drills"]["run"], report["drills"]) == (0, [])
    assert codes(report)[0] == "no_drill"
    assert "no_control" not in [one["code"] for one in report["limits"]]
    assert "cut short" in html(report)


def test_a_control_that_was_not_seen_breaks_the_report(quarterly: Quarterly) -> None:
    quarterly.drill("website/monthly", AT)
    quarterly.drill("website/tester", AT, "fail", checks=1, facts=control("pass"))
    report = quarterly.report()
    assert codes(report)[0] == "controls_missed"
    assert report["summary"]["conclusion"] == "fail"
    assert report["summary"]["drills"]["failed"] == 0  # no backup is bad
    assert "The drill system is broken" in html(report)
    assert "演練系統失效" in html(report, "zh-TW")


def test_a_scheduled_control_is_no_planned_drill_and_drills_no_job(quarterly: Quarterly) -> None:
    tester = {"on": "staging", "cron": "0 10 5 * *", "control": True}
    quarterly.settings = make_settings({"website": job("website", drills={"tester": tester})})
    quarterly.drill("website/tester", AT, checks=1, facts=control("fail"))
    report = quarterly.report()
    assert (report["summary"]["drills"]["planned"], report["summary"]["drills"]["due"]) == (0, 0)
    assert [(row["job"], row["drill_configured"]) for row in report["undrilled"]] == [("website", False)]


def draw(quarterly: Quarterly, run: str, history: list[dict[str, str]], **changes: Any) -> dict[str, str]:
    """One honest draw, as a drill leaves it, but for `changes`."""
    number = len(history)
    secret = b"%032d" % number
    events = quarterly.catalog.events_of([COMMITTED, DRAWN])
    if not events:
        events = [
            quarterly.catalog.append_event("a", COMMITTED, "website/monthly", {"commitment": commitment_of(secret)})
        ]
    points = {place: [(place + str(age), AT - timedelta(days=age)) for age in (90, 1)] for place in ("main", "vault")}
    sources = {one: ["all"] for those in points.values() for one, _ in those}
    there = population(points, {"latest": "latest", "oldest": "oldest"}, sources, {}, AT)
    seed = seed_of(secret, events[-1].hash)
    choice = choose(there, history, seed)
    chosen = {**choice.chosen, "snapshot": there.ages[choice.chosen["age"]][choice.chosen["place"]]}
    detail = {
        "run": run, "committed": events[-1].number, "secret": secret.hex(), "seed": seed.hex(), "population": there.to_json(),
        "candidates": dict(choice.candidates), "chosen": chosen, "commitment": commitment_of(b"%032d" % (number + 1)),
    }  # fmt: skip
    quarterly.catalog.append_event("a", DRAWN, "website/monthly", {**detail, **changes})
    history.append(chosen)
    return chosen


def test_draws_are_computed_again_and_can_be_by_anybody(quarterly: Quarterly) -> None:
    history: list[dict[str, str]] = []
    run = quarterly.drill("website/monthly", AT)
    for _ in range(4):
        draw(quarterly, run, history)
    draw(quarterly, "a run without a record", history)
    report = quarterly.report()
    assert report["summary"]["selection"] == {"draws": 5, "faulty": 0, "without_result": 1}
    assert "draws_without_result" in codes(report)
    for one in report["selection"]:  # as docs/how-to/drill.md says
        secret, committing = bytes.fromhex(one["secret"]), bytes.fromhex(one["committed_hash"])
        assert hashlib.sha256(secret).hexdigest() == one["commitment"]
        seed = hashlib.sha256(secret + committing).digest()
        assert seed.hex() == one["seed"]
        for key, candidates in one["candidates"].items():
            ranked = sorted(
                candidates, key=lambda it: hashlib.sha256(seed + key.encode() + b"\0" + it.encode()).digest()
            )
            assert ranked[0] == one["chosen"][key]
    assert "as recorded" in html(report)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"secret": "00" * 32}, "the secret is not the one that was committed to"),
        ({"seed": "00" * 32}, "the seed does not follow"),
        ({"committed": 1}, "the open commitment is in"),
        ({"candidates": {"age": ["latest"], "place": ["main"], "source": ["all"]}}, "the candidates are not those"),
        ({"chosen": {"age": "latest", "place": "main", "source": "db", "snapshot": "x"}}, "the seed draws"),
        ({"population": None}, "malformed"),
    ],
)
def test_a_draw_that_was_made_up_is_found(quarterly: Quarterly, changes: dict[str, Any], fault: str) -> None:
    history: list[dict[str, str]] = []
    draw(quarterly, "r", history)
    draw(quarterly, "r", history, **changes)
    found = read_draws(quarterly.catalog.events(), {})
    assert found[0]["faults"] == []
    assert any(fault in one for one in found[1]["faults"]), found[1]["faults"]
    report = quarterly.report()
    assert "draws_faulty" in codes(report)
    assert report["summary"]["conclusion"] == "fail"


def test_a_draw_without_a_commitment_is_no_draw(quarterly: Quarterly) -> None:
    quarterly.catalog.append_event("a", DRAWN, "website/monthly", {"chosen": {}})
    assert read_draws(quarterly.catalog.events(), {})[0]["faults"] == ["nothing was committed to before it"]


def test_steps_and_estimates_are_shown_and_kept_apart(quarterly: Quarterly) -> None:
    quarterly.drill(
        "website/monthly", AT, facts={"measures": MEASURES, "interlocks": ["marker of staging: as registered"]}
    )
    report = quarterly.report()
    (entry,) = report["drills"]
    assert entry["instants"]["t5"] == 1000.0
    assert entry["key_seconds"] == 2.5
    assert report["jobs"][1]["rto"]["worst"] == 1000.0  # and not the estimate
    text = html(report)
    for words in (
        "t3 restored",
        "of it keys",
        "Estimate, not measured",
        "marker of staging: as registered",
        "Newest change",
    ):
        assert words in text


def test_the_trend_goes_over_eight_quarters_and_begins_with_the_first_drill(quarterly: Quarterly) -> None:
    for year, month, verdict, rto in (
        (2024, 1, "pass", 1.0),
        (2026, 2, "fail", None),
        (2026, 5, "pass", 7200.0),
        (2026, 11, "pass", 3600.0),
    ):
        quarterly.drill("website/monthly", datetime(year, month, 9, tzinfo=UTC), verdict, rto_seconds=rto)
    quarterly.drill("website/tester", AT, checks=1, facts=control("fail"))
    rows = quarterly.report()["trend"]
    assert [row["quarter"] for row in rows] == ["2026Q1", "2026Q2", "2026Q3", "2026Q4"]
    assert [(row["run"], row["rto_ratio_worst"]) for row in rows] == [(1, None), (1, 1.0), (0, None), (1, 0.5)]
    assert rows[0]["pass_rate"]["share"] == 0.0
