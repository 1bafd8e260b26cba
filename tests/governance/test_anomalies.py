"""The rules on measures made by hand; what they see of generated days is in `anomaly_corpus`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backupctl.governance.anomalies import WARM_UP, Judgement, carried, judge, robust_z
from tests.governance import anomaly_corpus

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "anomaly-detection.md"


def day(**source: Any) -> dict[str, Any]:
    return {"sources": {"www": {"files": 1000, "files_before": 1000, "bytes": 10**8, "bytes_before": 10**8, **source}}}


def past(days: int = WARM_UP, **source: Any) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for _ in range(days):
        known = carried(known, day(**({"rewritten": 10} | source)))
    return known


def names(measures: dict[str, Any], known: dict[str, Any]) -> list[str]:
    return [one.name for one in judge(measures, known).signals]


def looks(**kinds: list[int]) -> dict[str, Any]:
    return {"looks": {"rewritten": kinds}}


CALM = looks(html=[100, 200, 0, 0, 0, 0])


def test_the_corpus_is_judged_as_the_page_says() -> None:
    """Every attack but the one that is known to pass is seen, and no harmless day alarms."""
    results = anomaly_corpus.measure()
    missed = [name for name, result in results.attacks.items() if None in result.days]
    assert missed == ["slow poisoning (1 file in three days)", "texts encrypted and written in base64"]
    assert sum(results.alarms.values()) == sum(results.many_nights.values()) == 0
    assert PAGE.read_text() == anomaly_corpus.markdown(results)


@pytest.mark.parametrize(
    ("measures", "signal", "suspicious"),
    [
        (day(deleted=300), "deletion", True),
        (day(deleted=299), "", False),
        (day(files_before=20, deleted=10), "deletion", True),
        (day(files_before=18, deleted=9), "", False),
        (day(suffixed={"locked": 200}), "renaming", True),
        (day(suffixed={"locked": 199}), "", False),
        (day(files_before=25, suffixed={"locked": 5}), "renaming", True),
        (day(suffixed={"gz": 900}), "", False),
        (day(rewritten=100), "changed", False),
        (day(rewritten=99), "", False),
        (day(notes=1), "ransom note", False),
        (day(notes=3), "ransom note", True),
        (day(bytes=7 * 10**7), "size", False),
        (day(tables_gone=["shop.orders"]), "tables gone", True),
        (day(rows_lost={"shop.orders": [1000, 700]}), "rows lost", False),
        (day(rows_lost={"shop.orders": [1000, 500]}), "rows lost", True),
        (day(**looks(html=[60, 60, 20, 20, 0, 0])), "encryption", True),
        (day(**looks(html=[60, 60, 7, 7, 0, 0])), "encryption", False),
        (day(**looks(docx=[60, 60, 60, 60, 60, 0])), "", False),
    ],
)
def test_each_rule_and_the_day_just_below_it(measures: dict[str, Any], signal: str, suspicious: bool) -> None:
    judged = judge(measures, past(**CALM))
    assert [one.name for one in judged.signals] == ([signal] if signal else [])
    assert judged.suspicious == suspicious


def test_weak_signals_together_are_suspicious() -> None:
    judged = judge(day(rewritten=400, notes=1), past())
    assert {one.name for one in judged.signals} == {"changed", "ransom note"} and judged.suspicious
    assert "400 of 1,000" in judged.words


def test_without_a_past_only_what_needs_none_is_judged() -> None:
    assert names(day(rewritten=900, **looks(html=[900, 900, 900, 900, 0, 0])), {}) == []
    assert names({"sources": {"www": {"files": 5, "bytes": 1}}}, {}) == []
    assert names(day(rewritten=900), past(WARM_UP - 1)) == []


def test_a_canary_is_compared_with_what_it_was_before_anything_was_suspicious() -> None:
    known = carried({}, day() | {"canaries": {"/bait": "a"}, "canary_tables": {"db/shop.bait": "1"}})
    assert names(day() | {"canaries": {"/bait": "a"}, "canary_tables": {"db/shop.bait": "1"}}, known) == []
    for now in ("b", ""):
        assert judge(day() | {"canaries": {"/bait": now}}, known).suspicious
        assert judge(day() | {"canary_tables": {"db/shop.bait": now}}, known).suspicious
    assert names(day() | {"canaries": {"/new": "c"}}, known) == []


def test_a_canary_table_whose_digest_is_made_in_another_way_since_is_not_a_change() -> None:
    known = carried({}, day() | {"canary_tables": {"db/shop.bait": "a1"}})
    newer = day() | {"canary_tables": {"db/shop.bait": "2:b2"}}
    assert names(newer, known) == []
    known = carried(known, newer)
    for now in ("2:c3", ""):
        assert judge(day() | {"canary_tables": {"db/shop.bait": now}}, known).suspicious


def test_poison_that_seeps_adds_up_and_does_not_become_usual() -> None:
    known = past(**CALM)
    poison = day(**looks(html=[5, 5, 2, 2, 0, 0]))
    days = 1
    while not (judged := judge(poison, known)).suspicious:
        known, days = carried(known, poison), days + 1
        assert days < 30
    assert 3 <= days <= 8 and [one.name for one in judged.signals] == ["seeping"]
    assert f"{2 * days} files within {days} run(s)" in judged.words
    assert known["kinds"]["www"]["html"][3] == 0
    cleared = carried(known, poison, everything=True)
    assert cleared["kinds"]["www"]["html"][3] == 2 * days and cleared["seeping"] == {}
    assert not judge(poison, cleared).suspicious, "somebody said that it was usual"


def test_what_adds_up_goes_down_again_in_quiet_nights() -> None:
    known = past(**CALM)
    for _ in range(3):
        known = carried(known, day(**looks(html=[5, 5, 2, 2, 0, 0])))
    assert known["seeping"]["www"][0] > 4
    for _ in range(60):
        known = carried(known, day(**looks(html=[5, 5, 0, 0, 0, 0])))
    assert known["seeping"] == {}


def test_pictures_and_endings_add_up_as_texts_do() -> None:
    for known, odd in (
        (past(**looks(jpg=[50, 50, 50, 50, 50, 0])), day(**looks(jpg=[9, 9, 9, 9, 9, 3]))),
        (past(suffixed={}), day(suffixed={"locked": 3})),
        (past(suffixed={"old7": 1}), day(suffixed={"locked": 6})),
    ):
        days = 1
        while not (judged := judge(odd, known)).suspicious:
            known, days = carried(known, odd), days + 1
            assert days < 9
        assert days > 1 and [one.name for one in judged.signals] == ["seeping"]
    usual = past(suffixed={"old7": 1})
    for _ in range(60):
        usual = carried(usual, day(suffixed={"old7": 1}))
        assert not judge(day(suffixed={"old7": 1}), usual).suspicious


def test_files_that_are_not_what_their_name_says() -> None:
    known = past(**looks(jpg=[50, 50, 50, 50, 50, 0]))
    assert judge(day(**looks(jpg=[50, 50, 50, 50, 50, 10])), known).suspicious
    assert names(day(**looks(jpg=[50, 50, 50, 50, 50, 4])), known) == []
    sloppy = past(**looks(jpg=[50, 50, 50, 50, 50, 5]))
    assert names(day(**looks(jpg=[50, 50, 50, 50, 50, 50])), sloppy) == []


def test_space_says_little_by_itself() -> None:
    usual = day() | {"added": 10**7, "packed": 4 * 10**6, "total": 10**9}
    known: dict[str, Any] = {}
    for _ in range(WARM_UP):
        known = carried(known, usual)
    judged = judge(day() | {"added": 5 * 10**8, "packed": 5 * 10**8, "total": 10**9}, known)
    assert {one.name for one in judged.signals} == {"compression", "deduplication"} and not judged.suspicious


def test_robust_z_takes_equal_days_for_a_little_different() -> None:
    assert robust_z(10, [10] * 14) == 0
    assert robust_z(100, [10] * 14) > 4
    assert robust_z(12, [10] * 14) < 4


def test_a_judgement_is_what_its_record_says() -> None:
    measures = day(deleted=900, rewritten=10)
    judgement = judge(measures, past())
    assert judgement.signals
    assert Judgement.of(judgement.record(measures, {})) == judgement
    assert Judgement.of({}).signals == ()
