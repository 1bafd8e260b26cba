"""`serve` and `run --due` make the same runs; a service outlives a failing run and waits for what it started."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Run
from backupctl.clock import FakeClock
from backupctl.config.load import load
from backupctl.config.models import Settings
from backupctl.scheduling.identity import worker_identity
from backupctl.scheduling.service import Service

START = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "backupctl.yaml").write_text(
        """\
version: 1
defaults: {timezone: Asia/Taipei}
repositories:
  main: {storage: {local: {path: repository}}, password: {file: key}, check: {cron: "30 4 * * 0", read_data: true}}
hosts: {staging: {local: {}, role: staging, scratch: staging}}
jobs:
  site:
    sources: {www: {files: {paths: [/etc]}}}
    repository: main
    schedule: {cron: "15 2 * * *"}
    objectives: {rpo: 24h, rto: 2h}
    drills: {weekly: {on: staging, cron: "0 10 * * 1"}}
"""
    )
    return load(tmp_path / "backupctl.yaml")


class Machine:
    """A service whose runs are done at once, by closing them."""

    def __init__(self, settings: Settings, place: Path) -> None:
        self.clock = FakeClock(START)
        self.catalog = Catalog.open(f"sqlite:///{place}", clock=self.clock)
        self.service = Service(settings, self.catalog, self.clock, self.launch, parallel=1)

    def launch(self, run: Run) -> int:
        claimed = self.catalog.claim(run.id, worker_identity())
        assert claimed is not None
        self.catalog.finish(claimed.id, claimed.epoch, "complete", exit_code=0)
        return 0

    def made(self) -> set[tuple[str, str, datetime, str]]:
        runs = [run for run in self.catalog.runs() if run.trigger != "first_seen"]
        return {(run.kind, run.name, run.scheduled, run.state) for run in runs}


def test_a_week_of_serve_and_a_week_of_cron_make_the_same_runs(settings: Settings, tmp_path: Path) -> None:
    serving, cron = Machine(settings, tmp_path / "serve.db"), Machine(settings, tmp_path / "cron.db")
    for _ in range(7 * 12):  # a look every two hours
        for future in serving.service.tick():
            assert future.result(timeout=30) == 0
        assert set(cron.service.run_due()) <= {0}
        serving.clock.advance(7200)
        cron.clock.advance(7200)
    assert serving.made() == cron.made()
    kinds = sorted((kind, len([one for one in cron.made() if one[0] == kind])) for kind in ("backup", "check", "drill"))
    assert kinds == [("backup", 7), ("check", 1), ("drill", 1)]


def test_after_three_days_away_everything_is_caught_up_once(settings: Settings, tmp_path: Path) -> None:
    machine = Machine(settings, tmp_path / "catalog.db")
    machine.service.run_due()
    machine.clock.advance(3 * 86_400)
    machine.service.run_due()
    backups = [run for run in machine.catalog.runs(kind="backup") if run.trigger != "first_seen"]
    assert [(run.trigger, run.state) for run in backups] == [("catch_up", "complete")]


def test_a_crashing_launcher_does_not_stop_the_service(settings: Settings, tmp_path: Path) -> None:
    machine = Machine(settings, tmp_path / "catalog.db")
    machine.service.tick()
    machine.clock.advance(86_400)

    def explode(run: Run) -> int:
        raise RuntimeError("no more processes")

    good = machine.service._launch
    machine.service._launch = explode
    (broken,) = [future for future in machine.service.tick() if isinstance(future.exception(timeout=30), RuntimeError)]
    assert broken.done()
    machine.service._launch = good
    (again,) = machine.service.tick()
    assert again.result(timeout=30) == 0, "the run stayed queued and is offered again"


def test_serve_ticks_at_once_and_ends_when_told(settings: Settings, tmp_path: Path) -> None:
    machine = Machine(settings, tmp_path / "catalog.db")
    machine.service.tick()
    machine.clock.advance(86_400)
    stop, started = threading.Event(), threading.Event()
    done = machine.launch

    def launch(run: Run) -> int:
        started.set()
        return done(run)

    machine.service._launch = launch
    thread = threading.Thread(target=machine.service.serve, args=(stop,))
    thread.start()
    assert started.wait(30), "what is due at the start runs without waiting for the next minute"
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert {state for *_, state in machine.made()} == {"complete"}
