"""A scheduler over a real catalog, with a clock that moves only when told and runs that end as the test says."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import event

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Run
from backupctl.clock import FakeClock
from backupctl.config.load import load
from backupctl.config.models import Settings
from backupctl.scheduling.identity import worker_identity
from backupctl.scheduling.service import Service
from backupctl.scheduling.sweep import Lapse

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
MAIN = """\
version: 1
defaults: {{timezone: UTC}}
repositories:
  main: {{storage: {{local: {{path: repository}}}}, password: {{file: key}}}}
  vault: {{storage: {{local: {{path: vault}}}}, password: {{file: key}}}}
hosts: {{staging: {{local: {{}}, role: staging, scratch: staging}}}}
{more}
jobs:
"""
JOB = """\
  {name}:
    sources: {{www: {{files: {{paths: [/etc]}}}}}}
    repository: main
    objectives: {{rpo: 24h, rto: 2h}}
    schedule: {{{schedule}}}
    {more}
"""
NIGHTLY = 'cron: "15 2 * * *"'


def configuration(place: Path, jobs: dict[str, str] | None = None, *, more: str = "", each: str = "") -> Settings:
    """`jobs`: the inside of each job's `schedule`; `more` for the main file, `each` for every job."""
    text = MAIN.format(more=more)
    for name, schedule in ({"site": NIGHTLY} if jobs is None else jobs).items():
        text += JOB.format(name=name, schedule=schedule, more=each)
    (place / "backupctl.yaml").write_text(text)
    return load(place / "backupctl.yaml")


@dataclass
class Ending:
    """How a run ends. `verdict` and `transient` as a worker notes them; `killed`: it says nothing and is gone."""

    state: str = "complete"
    exit_code: int = 0
    verdict: str = ""
    transient: bool = False
    killed: bool = False
    lasts_seconds: float = 0.0


@dataclass
class Night:
    """`endings` by "kind name", one for each run in turn; after the last, and without one, a run is complete at once."""

    settings: Settings
    place: Path
    clock: FakeClock = field(default_factory=lambda: FakeClock(START))
    endings: dict[str, list[Ending]] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    told: list[Lapse] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.catalog = Catalog.open(f"sqlite:///{self.place / 'catalog.db'}", clock=self.clock)
        # nights by the hundred: nothing here is about power cuts, and waiting for the disk is most of the time
        event.listen(self.catalog.engine, "connect", lambda one, _: one.execute("PRAGMA synchronous=OFF"))
        self.service = self.restarted()

    def restarted(self) -> Service:
        """A scheduler that remembers nothing but the catalog."""
        self.service = Service(self.settings, self.catalog, self.clock, self.launch, parallel=1, tell=self.told.extend)
        return self.service

    def launch(self, run: Run) -> int:
        self.started.append(f"{run.kind} {run.name}")
        ending = next(iter(self.endings.get(f"{run.kind} {run.name}", [])), Ending())
        if f"{run.kind} {run.name}" in self.endings:
            self.endings[f"{run.kind} {run.name}"][:1] = []
        claimed = self.catalog.claim(run.id, worker_identity())
        assert claimed is not None
        self.clock.advance(ending.lasts_seconds)
        if ending.killed:
            self.catalog.cancel(run.id, message="the worker process ended without finishing the run")
            return 137
        summary = {"verdict": ending.verdict} if ending.verdict else {}
        summary |= {"transient": True} if ending.transient else {}
        self.catalog.finish(run.id, claimed.epoch, ending.state, exit_code=ending.exit_code, summary=summary)
        return ending.exit_code

    def look(self, after_seconds: float = 0.0) -> list[str]:
        """One `run --due`, by a process of its own; what it started."""
        self.clock.advance(after_seconds)
        before = len(self.started)
        self.restarted().run_due()
        return self.started[before:]

    def at(self, instant: datetime) -> list[str]:
        """A look at that instant, to which the clock is moved, forward or back."""
        self.clock._now = instant
        return self.look()

    def rows(self, kind: str = "backup", name: str = "site") -> list[tuple[str, str, str]]:
        """(scheduled, trigger, state), oldest first, without the scheduler's first sight."""
        found = [run for run in self.catalog.runs(kind=kind, name=name) if run.trigger != "first_seen"]
        return [(f"{run.scheduled:%d %H:%M}", run.trigger, run.state) for run in reversed(found)]
