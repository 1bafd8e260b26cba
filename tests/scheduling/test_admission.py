"""Who may begin beside what runs: limits of hosts, repositories and in all, priorities, pauses, windows."""

from __future__ import annotations

import contextlib
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Run
from backupctl.errors import SkippedError
from backupctl.scheduling.admission import Places, admit
from backupctl.scheduling.dispatch import look, ready
from tests.scheduling.night import NIGHTLY, START, Night, configuration

THREE = {"a": NIGHTLY, "b": NIGHTLY + ", priority: 5", "c": NIGHTLY + ", priority: -5"}


def run(kind: str, name: str, **values: object) -> Run:
    return Run(**{"id": f"{kind} {name}", "kind": kind, "name": name, "trigger": "schedule", "options": {}, **values})


@pytest.mark.parametrize(
    ("more", "going", "asked", "reason"),
    [
        ("", ["backup a", "backup b"], "backup c", ""),
        ("", ["backup a"], "backup a", "the last backup of a still runs"),
        ("concurrency: {total: 2}", ["backup a"], "backup c", ""),
        (
            "concurrency: {total: 2}",
            ["backup a", "check vault"],
            "backup c",
            "2 run(s) go on, and concurrency.total is 2",
        ),
        ("concurrency: {host: 1}", ["backup a"], "backup b", "1 run(s) on host local go on, and its limit is 1"),
        ("concurrency: {host: 1}", ["backup a"], "check main", ""),
        ("concurrency: {host: 1}", ["backup a"], "drill a/full", ""),
        ("concurrency: {host: 1}", ["drill b/full"], "drill a/full", "on host staging"),
        ("concurrency: {repository: 1}", ["backup a"], "check main", "1 run(s) in repository main go on"),
        ("concurrency: {repository: 1}", ["backup a"], "check vault", ""),
        ("concurrency: {repository: 1}", ["drill b/full"], "prune a", "in repository main"),
    ],
)
def test_limits(tmp_path: Path, more: str, going: list[str], asked: str, reason: str) -> None:
    each = "drills: {full: {on: staging}}\n    retention: {keep_daily: 1}"
    settings = configuration(tmp_path, THREE, more=more, each=each)
    running = [run(*one.split(" ")) for one in going]
    again = run(*asked.split(" "), id="another")
    assert reason in Places(settings, running).full(again)
    assert bool(Places(settings, running).full(again)) == bool(reason)
    if reason:
        with pytest.raises(SkippedError):
            admit(settings, [], again, running, START)
        admit(settings, [], run(*asked.split(" "), id="another", trigger="manual"), running, START)


def test_a_host_and_a_repository_may_have_a_limit_of_their_own(tmp_path: Path) -> None:
    settings = configuration(tmp_path, THREE, more="concurrency: {host: 1, repository: 1}")
    text = (tmp_path / "backupctl.yaml").read_text()
    text = text.replace("main: {storage:", "main: {concurrency: 2, storage:")
    text = text.replace("hosts: {", "hosts: {local: {local: {}, concurrency: 3}, ")
    (tmp_path / "backupctl.yaml").write_text(text)
    from backupctl.config.load import load

    wider = load(tmp_path / "backupctl.yaml")
    assert Places(settings, [run("backup", "a")]).full(run("backup", "b"))
    assert Places(wider, [run("backup", "a")]).full(run("backup", "b")) == ""
    assert "in repository main" in Places(wider, [run("backup", "a"), run("backup", "b")]).full(run("backup", "c"))


def due(tmp_path: Path, jobs: dict[str, str], more: str = "") -> Night:
    made = Night(configuration(tmp_path, jobs, more=more), tmp_path)
    made.look()
    made.clock._now = datetime(2026, 11, 21, 2, 15, tzinfo=UTC)
    return made


def test_the_higher_priority_starts_first(tmp_path: Path) -> None:
    assert due(tmp_path, THREE).look() == ["backup b", "backup a", "backup c"]


def test_what_finds_no_place_stays_queued_and_the_next_that_fits_goes(tmp_path: Path) -> None:
    made = due(tmp_path, THREE, "concurrency: {host: 1}")
    waiting = look(made.catalog, made.clock, made.settings)
    assert [one.name for one in ready(made.settings, [], [], waiting, made.clock.now())] == ["b"]
    assert sorted(one.name for one in made.catalog.runs(states=("queued",))) == ["a", "b", "c"]
    assert made.look() == ["backup b", "backup a", "backup c"], "one after the other, all of them"


def test_two_workers_never_both_take_the_last_place(tmp_path: Path) -> None:
    made = due(tmp_path, dict.fromkeys("abcdefgh", NIGHTLY), "concurrency: {host: 2}")
    waiting = look(made.catalog, made.clock, made.settings)
    assert len(waiting) == 8
    barrier, taken = threading.Barrier(8), []

    def claim(one: Run) -> None:
        catalog = Catalog.open(f"sqlite:///{tmp_path / 'catalog.db'}", clock=made.clock)
        barrier.wait()
        with contextlib.suppress(SkippedError):
            taken.append(
                catalog.claim(one.id, "w", admit=lambda mine, running: admit(made.settings, [], mine, running, START))
            )
        catalog.close()

    threads = [threading.Thread(target=claim, args=(one,)) for one in waiting]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 2
    assert len(made.catalog.runs(states=("running",))) == 2


def test_what_is_queued_waits_for_its_window(tmp_path: Path) -> None:
    """A run that found no place while its window was open does not begin after it."""
    jobs = {"a": NIGHTLY, "b": NIGHTLY + ', allowed: [{from: "02:00", to: "03:00"}]'}
    made = due(tmp_path, jobs, "concurrency: {total: 1}")
    look(made.catalog, made.clock, made.settings)
    now = made.clock.now() + timedelta(hours=2)
    waiting = made.catalog.runs(states=("queued",))
    assert [one.name for one in ready(made.settings, [], [], waiting, now)] == ["a"]
    assert [one.name for one in ready(made.settings, [], [], waiting[1:], now + timedelta(hours=22))]


def test_a_queued_run_of_a_job_that_is_gone_is_skipped_with_the_reason(tmp_path: Path) -> None:
    made = due(tmp_path, THREE)
    look(made.catalog, made.clock, made.settings)
    made.settings = configuration(tmp_path, {"a": NIGHTLY})
    assert made.look() == ["backup a"]
    gone = made.catalog.runs(states=("skipped",), since=made.clock.now())
    assert {(one.name, one.message) for one in gone} == {(name, "it is no longer configured") for name in "bc"}
