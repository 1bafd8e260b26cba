"""The fact "every stored byte was read, or written, since …" in the report, and the objective `check.within`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backupctl.clock import iso
from backupctl.evidence.view import document
from tests.evidence.conftest import NOW, QUARTER, Quarterly, job, make_settings

FIFTH = datetime(2026, 11, 5, 2, 0, tzinfo=UTC)


def part_read(quarterly: Quarterly, finished: datetime, oldest: datetime, never: int = 0, **changes: Any) -> None:
    """A check with a budget: it read a twentieth, and knows of the rest by what earlier ones noted."""
    coverage = {"packs": 300, "bytes": 5_000_000_000, "never_read_packs": never // 10**7, "never_read_bytes": never}
    coverage |= {"bad_packs": 0, "oldest": oldest.isoformat()}
    quarterly.check(finished, mode="budget", bytes_read=250_000_000, coverage=coverage, **changes)


def words(quarterly: Quarterly, language: str = "en") -> dict[str, tuple[str, str]]:
    """What the section on integrity says of each repository, and in which tone."""
    (section,) = [
        one for one in document(quarterly.report(), language).sections if one.title in ("Integrity", "完整性檢核")
    ]
    (facts, _) = [block for block in section.blocks if block.kind == "facts"]
    return {label: (cell.text, cell.tone) for label, cell in facts.rows}


def test_parts_that_cover_everything_within_the_quarter_are_a_full_reading(quarterly: Quarterly) -> None:
    part_read(quarterly, FIFTH, QUARTER.start)
    (row,) = quarterly.report()["integrity"]
    assert (row["share"], row["bytes_read"]) == (1, 5_000_000_000)
    assert row["reading"]["read_or_written_since"] == iso(QUARTER.start)


def test_a_byte_that_was_read_before_the_quarter_only_is_not_read_in_it(quarterly: Quarterly) -> None:
    part_read(quarterly, FIFTH, QUARTER.start - timedelta(seconds=1))
    (row,) = quarterly.report()["integrity"]
    assert (row["share"], row["bytes_read"]) == (0, 0)


def test_a_byte_that_was_written_and_never_read_back_is_not_read(quarterly: Quarterly) -> None:
    part_read(quarterly, FIFTH, QUARTER.start, never=1_000_000_000)
    (row,) = quarterly.report()["integrity"]
    assert (row["share"], row["bytes_read"]) == (0.8, 4_000_000_000)
    text, _ = words(quarterly)["Every byte of offsite"]
    assert text == (
        "Read back, or written, since 2026-10-01 00:00, by the check of 2026-11-05 10:00. "
        "Written since then and not read back yet: 953.7 MiB."
    )


@pytest.mark.parametrize(
    ("age", "met", "said", "tone"),
    [
        (timedelta(days=30), True, "Objective 30 d: met (30 d).", "good"),
        (timedelta(days=30, hours=1), False, "Objective 30 d: missed (30 d 01 h).", "bad"),
    ],
)
def test_the_objective_is_judged_at_the_time_of_the_report(
    quarterly: Quarterly, age: timedelta, met: bool, said: str, tone: str
) -> None:
    quarterly.settings = make_settings({"website": job("website")}, within="30d")
    part_read(quarterly, FIFTH, NOW - age)
    report = quarterly.report()
    (row,) = report["integrity"]
    assert (row["reading"]["met"], row["reading"]["within_seconds"]) == (met, 30 * 86400)
    text, shown = words(quarterly)["Every byte of offsite"]
    assert text.endswith(said)
    assert shown == tone
    codes = [one["code"] for one in report["summary"]["statements"]]
    assert ("reading_missed" in codes) is not met


def test_a_quarter_that_is_over_is_judged_at_its_end(quarterly: Quarterly) -> None:
    quarterly.settings = make_settings({"website": job("website")}, within="60d")
    part_read(quarterly, FIFTH, FIFTH)
    quarterly.clock.advance((QUARTER.end - NOW).total_seconds() + 40 * 86400)
    (row,) = quarterly.report()["integrity"]
    assert (row["reading"]["met"], row["reading"]["age_seconds"]) == (True, (QUARTER.end - FIFTH).total_seconds())


def test_what_no_check_noted_is_not_known_and_misses_the_objective(quarterly: Quarterly) -> None:
    quarterly.settings = make_settings({"website": job("website")}, within="30d")
    quarterly.check(FIFTH)  # by a version that noted nothing
    report = quarterly.report()
    assert report["summary"]["integrity"]["reading_missed"] == 1
    assert report["summary"]["integrity"]["read_or_written_since"] is None
    text, tone = words(quarterly)["Every byte of offsite"]
    assert text == "No check on record says since when every byte was read back. Objective 30 d: not shown to be met."
    assert tone == "bad"


def test_copies_are_repositories_too_and_the_oldest_of_them_is_the_summary(quarterly: Quarterly) -> None:
    quarterly.settings = make_settings({"website": job("website", copies=["vault"])})
    part_read(quarterly, FIFTH, FIFTH)
    assert quarterly.report()["summary"]["integrity"]["read_or_written_since"] is None
    part_read(quarterly, FIFTH, FIFTH - timedelta(days=3), repository="vault")
    report = quarterly.report()
    assert [row["repository"] for row in report["integrity"]] == ["offsite", "vault"]
    assert report["summary"]["integrity"]["read_or_written_since"] == iso(FIFTH - timedelta(days=3))


def test_the_fact_in_chinese(quarterly: Quarterly) -> None:
    quarterly.settings = make_settings({"website": job("website")}, within="30d")
    part_read(quarterly, FIFTH, FIFTH, never=10**9)
    text, _ = words(quarterly, "zh-TW")["offsite 全部資料"]
    assert text == (
        "自 2026-11-05 10:00 起皆曾讀取驗證或寫入（依 2026-11-05 10:00 之檢核）。其中 953.7 MiB 於此後寫入，尚未讀取驗證。"
        "目標 30 d：達成（16 d 23 h）。"
    )
