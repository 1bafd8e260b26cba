"""The registry, and scenarios that need no more than one repository and a staging host."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backupctl.drills import scenario
from backupctl.drills.model import DrillRequest
from backupctl.drills.run import run_drill
from backupctl.drills.scenarios.registry import NAMES, scenario_of
from backupctl.drills.scenarios.single_file import draw
from backupctl.errors import NoSuchError
from backupctl.repository.manifest import ManifestEntry
from tests.drills.helpers import CLOCK, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path).with_files().with_database().registered().back_up()


def following(bench: Bench, name: str) -> DrillRequest:
    request = bench.request()
    settings = request.settings.model_copy(update={"scenario": name})
    return replace(request, settings=settings, job=bench.job(scenario=name))


@pytest.mark.parametrize("name", NAMES)
def test_every_scenario_says_what_it_does(name: str) -> None:
    one = scenario_of(name)
    assert one.name == name
    assert one.proves
    assert one.steps
    assert one.criteria


def test_an_unknown_scenario_is_no_scenario() -> None:
    with pytest.raises(NoSuchError, match="full"):
        scenario_of("earthquake")


def test_single_files_come_back_alone(bench: Bench) -> None:
    result = run_drill(following(bench, "single-file"), clock=CLOCK)
    assert (result.verdict, result.level, result.reasons) == ("pass", 4, [])
    assert {check.name.partition(":")[0] for check in result.checks} == {"uploads"}
    assert any("照片/big.bin" in check.name for check in result.checks)
    assert any("link" in check.name for check in result.checks)
    assert "draw" in [phase.name for phase in result.phases]
    assert result.rto_seconds is not None
    assert result.cleanup.proved
    assert bench.left_behind() == []


def test_a_single_file_that_differs_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    restore = vars(scenario)["restore"]

    def plant(*arguments: Any, **options: Any) -> Any:
        stats = restore(*arguments, **options)
        for path in bench.scratch.glob("drill-*/files/uploads/*/a.html"):
            path.chmod(0o777)
        return stats

    monkeypatch.setattr(scenario, "restore", plant)
    result = run_drill(following(bench, "single-file"), clock=CLOCK)
    assert result.verdict == "fail"
    assert any("a.html: mode 0777 instead of" in reason for reason in result.reasons)


def test_a_single_file_that_is_damaged_fails(bench: Bench) -> None:
    for name in [info.name for info in bench.store.list("data/")]:
        data = bytearray(bench.store.get(name))
        if len(data) > 100_000:  # the packs of content, not those of trees
            bench.store.put(name, bytes(len(data)))
    result = run_drill(following(bench, "single-file"), clock=CLOCK)
    assert result.verdict == "fail"
    assert any("restore of" in reason for reason in result.reasons)


def test_without_files_there_is_no_single_file_to_restore(tmp_path: Path) -> None:
    bench = Bench(tmp_path).with_database().registered().back_up()
    result = run_drill(following(bench, "single-file"), clock=CLOCK)
    assert result.verdict == "inconclusive"
    assert "holds no files" in result.reasons[0]


def test_odd_names_are_drawn_more_often() -> None:
    entries = [ManifestEntry(b"www/%d.txt" % n, "file", size=1) for n in range(95)]
    entries += [ManifestEntry(b"www/a b %d" % n, "file", size=1) for n in range(5)]
    drawn: Counter[bool] = Counter()
    for seed in range(200):
        drawn.update(b" " in entry.path for entry in draw(entries, 5, random.Random(seed)))
    assert drawn.total() == 1000
    assert 200 < drawn[True] < 450  # 5 of 100 without the weight: 50
    assert draw(entries[:3], 5, random.Random(1)) == entries[:3]
