"""Retention decides what may be deleted; every rule, and every way it could delete too much."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupctl.clock import SystemClock
from backupctl.errors import ConfigError
from backupctl.repository.repository import Repository
from backupctl.repository.retention import Decision, RetentionItem, RetentionPolicy, plan_retention
from backupctl.storage.local import LocalStore
from tests.repository.engine import backup

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def nightly(count: int, *, hour: int = 2) -> list[RetentionItem]:
    """One item per night, "0" the newest."""
    start = NOW.replace(hour=hour)
    return [RetentionItem(str(number), start - timedelta(days=number)) for number in range(count)]


def plan(
    items: list[RetentionItem], zone: str = "UTC", held: dict[str, str] | None = None, **rules: object
) -> list[Decision]:
    return plan_retention(items, RetentionPolicy(**rules), now=NOW, zone=zone, held=held or {})  # type: ignore[arg-type]  # rules by name


def kept(decisions: list[Decision]) -> list[str]:
    return [decision.item.id for decision in reversed(decisions) if decision.keep]


def test_last_and_daily() -> None:
    assert kept(plan(nightly(10), keep_last=3)) == ["0", "1", "2"]
    assert kept(plan(nightly(10), keep_daily=4)) == ["0", "1", "2", "3"]


def test_the_newest_of_each_bucket_is_kept() -> None:
    items = [
        RetentionItem("late", NOW),
        RetentionItem("early", NOW - timedelta(hours=5)),
        RetentionItem("before", NOW - timedelta(days=1)),
        RetentionItem("long ago", NOW - timedelta(days=9)),
    ]
    assert kept(plan(items, keep_daily=2)) == ["late", "before"]


def test_the_oldest_is_kept_while_a_rule_is_short() -> None:
    items = [RetentionItem("b", NOW), RetentionItem("a", NOW - timedelta(hours=1))]
    decisions = plan(items, keep_yearly=3)
    assert kept(decisions) == ["b", "a"]
    assert decisions[0].reasons == ("oldest, while yearly has 1 of 3",)


def test_weeks_months_years_and_their_reasons() -> None:
    decisions = plan(nightly(400), keep_weekly=2, keep_monthly=2, keep_yearly=2)
    # 22 November 2026 is a Sunday: "7" is the Sunday before; "22" is 31 October; "326" is 31 December
    assert kept(decisions) == ["0", "7", "22", "326"]
    reasons = {decision.item.id: decision.reasons for decision in decisions}
    assert reasons["0"] == ("weekly 1 of 2", "monthly 1 of 2", "yearly 1 of 2")
    assert reasons["326"] == ("yearly 2 of 2",)
    assert reasons["1"] == ()


def test_buckets_are_local() -> None:
    """15:30 and 16:30 UTC are one day in UTC and two in Taipei."""
    items = [
        RetentionItem("b", datetime(2026, 11, 21, 16, 30, tzinfo=UTC)),
        RetentionItem("a", datetime(2026, 11, 21, 15, 30, tzinfo=UTC)),
        RetentionItem("0", datetime(2026, 11, 1, 15, 30, tzinfo=UTC)),
    ]
    assert kept(plan(items, keep_daily=2)) == ["b", "0"]
    assert kept(plan(items, zone="Asia/Taipei", keep_daily=2)) == ["b", "a"]


def test_the_repeated_hour_is_two_hours() -> None:
    items = [RetentionItem(str(n), datetime(2026, 10, 25, n, 30, tzinfo=UTC)) for n in (0, 1, 2)]
    assert kept(plan(items, zone="Europe/Berlin", keep_hourly=3)) == ["2", "1", "0"]


def test_within_counts_from_the_newest() -> None:
    stopped = [RetentionItem(str(n), NOW - timedelta(days=100 + n)) for n in range(5)]
    assert kept(plan(stopped, keep_within=timedelta(days=2))) == ["0", "1", "2"]
    assert plan(stopped, keep_within=timedelta(days=2))[-1].reasons == ("within 2d",)


def test_a_clock_that_was_ahead_does_not_expire_the_rest() -> None:
    items = [RetentionItem("future", NOW + timedelta(days=400)), *nightly(3)]
    assert kept(plan(items, keep_within=timedelta(days=3))) == ["future", "0", "1", "2"]


def test_incomplete_fills_no_bucket_and_stays_for_a_while() -> None:
    items = nightly(20)
    items[0] = RetentionItem("young", items[0].time, complete=False)
    items[3] = RetentionItem("middle", items[3].time, complete=False)
    items[12] = RetentionItem("old", items[12].time, complete=False)
    decisions = plan(items, keep_last=2)
    assert kept(decisions) == ["young", "1", "2", "middle"]
    reasons = {decision.item.id: decision.reasons for decision in decisions}
    assert reasons["young"] == ("incomplete, no newer complete snapshot",)
    assert reasons["middle"] == ("incomplete, younger than 7 days",)


def test_only_incomplete_ones_all_stay() -> None:
    items = [RetentionItem(str(n), NOW - timedelta(days=30 * n), complete=False) for n in range(4)]
    assert len(kept(plan(items, keep_last=1))) == 4


def test_held_stays_and_says_why() -> None:
    decisions = plan(nightly(5), held={"4": "court order"}, keep_last=1)
    assert kept(decisions) == ["0", "4"]
    assert decisions[0].reasons == ("held: court order",)


@pytest.mark.parametrize("rules", [{}, {"keep_last": 0}, {"keep_last": -1}, {"keep_within": timedelta(0)}])
def test_a_policy_that_keeps_nothing_is_refused(rules: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        RetentionPolicy(**rules)  # type: ignore[arg-type]  # rules by name


ITEMS = st.lists(
    st.tuples(st.integers(0, 4000), st.booleans()), min_size=1, max_size=60, unique_by=lambda row: row[0]
).map(lambda rows: [RetentionItem(str(h), NOW - timedelta(hours=h), complete) for h, complete in rows])
RULES = st.fixed_dictionaries(
    {},
    optional={f"keep_{rule}": st.integers(1, 9) for rule in ("last", "hourly", "daily", "weekly", "monthly", "yearly")},
).filter(bool)


@given(ITEMS, RULES)
def test_properties(items: list[RetentionItem], rules: dict[str, int]) -> None:
    decisions = plan(items, **rules)
    assert sorted(decision.item.id for decision in decisions) == sorted(item.id for item in items)
    assert all(decision.keep == bool(decision.reasons) for decision in decisions)
    complete = [item for item in items if item.complete]
    if complete:
        assert max(complete, key=lambda item: item.time).id in kept(decisions), "the newest complete one always stays"
    assert set(kept(plan([d.item for d in decisions if d.keep], **rules))) <= set(kept(decisions))
    without = plan(complete, **rules) if complete else []
    assert set(kept(without)) == {i for i in kept(decisions) if i in {item.id for item in complete}}


@pytest.mark.servers
@pytest.mark.skipif(shutil.which("restic") is None, reason="needs restic")
def test_the_same_decisions_as_stock_restic(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    repository = Repository.create(LocalStore(tmp_path / "repository"), "geheim", clock=SystemClock(), scrypt_n=1024)
    first = backup(repository, {"a": b"1"})
    choose = random.Random(5)
    items = [RetentionItem(first.id, first.time)]
    for _ in range(70):
        copy = replace(first, time=NOW - timedelta(minutes=choose.randrange(3 * 365 * 24 * 60)))
        items.append(RetentionItem(repository.save_snapshot(copy), copy.time))
    rules = {"last": 2, "hourly": 5, "daily": 9, "weekly": 7, "monthly": 8, "yearly": 2}
    run = subprocess.run(
        ["restic", "forget", "--dry-run", "--json", *(f"--keep-{rule}={number}" for rule, number in rules.items())],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "TZ": "Asia/Taipei",
            "RESTIC_PASSWORD": "geheim",
            "RESTIC_REPOSITORY": str(tmp_path / "repository"),
            "RESTIC_CACHE_DIR": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = {snapshot["id"] for group in json.loads(run.stdout.splitlines()[0]) for snapshot in group["keep"]}
    ours = plan(items, zone="Asia/Taipei", **{f"keep_{rule}": number for rule, number in rules.items()})
    assert set(kept(ours)) == theirs
    assert 9 < len(theirs) < 40
