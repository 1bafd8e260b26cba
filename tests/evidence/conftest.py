"""A quarter with everything in it: passes, a failure, a drill that left no result, a job never drilled, damage, findings."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Check, Drill, DrillCheck, Finding, Hold, Run, SnapshotRow
from backupctl.clock import FakeClock
from backupctl.config.models import Settings
from backupctl.evidence.quarter import Quarter
from backupctl.evidence.recovery import build

ZONE = "Asia/Taipei"
NOW = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)
QUARTER = Quarter(2026, 4, ZONE)
HOSTILE = "<script>alert('\"x\"')</script> #strong[馬達] \\ $x$ \x1b[31m\nnext"


def job(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "job": name,
        "class": "high",
        "owner": "web team",
        "sources": {"uploads": {"files": {"paths": ["/srv/www"]}}},
        "repository": "offsite",
        "schedule": {"cron": "15 2 * * *"},
        "objectives": {"rpo": "24h", "rto": "2h"},
        "drills": {"monthly": {"on": "staging", "cron": "0 10 5 * *"}},
        "timezone": ZONE,
        **changes,
    }


def make_settings(
    jobs: dict[str, dict[str, Any]] | None = None, organisation: str = "Agency of Examples", within: str = ""
) -> Settings:
    if jobs is None:
        jobs = {
            "website": job("website"),
            "payroll": job("payroll", owner="finance", objectives={"rpo": "1h", "rto": "30m"}, **{"class": "medium"}),
            "wiki": job("wiki", owner="", drills={}, **{"class": "low"}),
        }
    return Settings.model_validate(
        {
            "defaults": {"timezone": ZONE},
            "repositories": {
                name: {
                    "storage": {"local": {"path": f"/srv/{name}"}},
                    "password": {"file": "/etc/key"},
                    **({"check": {"cron": "0 5 * * *", "budget": "5%", "within": within}} if within else {}),
                }
                for name in ("offsite", "vault")
            },
            "hosts": {"staging": {"local": {}, "role": "staging", "scratch": "/srv/staging"}},
            "jobs": jobs,
            "reports": {"organisation": organisation},
        }
    )


@dataclass
class Quarterly:
    """A catalog to fill, and the report it makes."""

    catalog: Catalog
    clock: FakeClock
    settings: Settings

    def report(self, quarter: Quarter = QUARTER) -> dict[str, Any]:
        return build(self.catalog, self.settings, quarter, clock=self.clock)

    def backup(self, name: str, scheduled: datetime, state: str = "complete", trigger: str = "schedule") -> None:
        identity = f"run-{name}-{scheduled:%m%d%H%M}"
        finished = None if state in ("queued", "running") else scheduled + timedelta(minutes=9)
        self.catalog.add_run(
            Run(
                id=identity, kind="backup", name=name, scheduled=scheduled, trigger=trigger, state=state, epoch=1, worker="",
                created=scheduled, started=scheduled, finished=finished, exit_code=0, message="", repository="offsite",
                snapshot="", problems=[], summary={}, options={},
            )
        )  # fmt: skip
        if state in ("complete", "incomplete"):
            self.catalog.add_snapshot(
                SnapshotRow(
                    id=_id(identity), repository="offsite", job=name,
                    run=identity, time=scheduled, status=state, fingerprint=_id("f" + identity), sources=[], files=1200,
                    bytes=3_500_000_000, stored_bytes=900_000_000,
                )
            )  # fmt: skip

    def drill(self, name: str, declared: datetime, verdict: str = "pass", checks: int = 3, **changes: Any) -> str:
        identity = f"drill-{name.replace('/', '-')}-{declared:%m%d}"
        values: dict[str, Any] = {
            "rto_seconds": 1000.0, "rpo_seconds": 30000.0, "rto_objective": 7200.0, "rpo_objective": 86400.0, "level": 5,
            "phases": [{"name": "decide", "seconds": 12.0}, {"name": "restore files", "seconds": 640.5},
                       {"name": "start database", "seconds": 7.25}, {"name": "load", "seconds": 210.0},
                       {"name": "compare", "seconds": 130.25}],
            "reasons": [], "cleanup": {"proved": True, "facts": ["directory removed", "0 processes left"]},
            "record": _id(identity), "snapshot": _id("s" + identity), "snapshot_time": declared - timedelta(hours=7, minutes=45),
            "restored_bytes": 3_400_000_000,
        } | changes  # fmt: skip
        row = Drill(
            id=identity, job=name.split("/")[0], drill=name, scenario="full", host="staging", repository="offsite",
            declared=declared, finished=declared + timedelta(minutes=20), verdict=verdict, **values,
        )  # fmt: skip
        bad = verdict == "fail"
        rows = [
            DrillCheck(
                name=f"table site.articles_{number} equals the fingerprint", expected="12345 rows, sha256 aa11…",
                actual="12344 rows, sha256 bb22…" if bad and number == 2 else "12345 rows, sha256 aa11…",
                ok=not (bad and number == 2), level=4, seconds=0.5, detail="",
            )
            for number in range(1, checks + 1)
        ]  # fmt: skip
        self.catalog.add_drill(row, rows)
        return identity

    def check(self, finished: datetime, verdict: str = "pass", mode: str = "read-data", **changes: Any) -> None:
        repository = changes.pop("repository", "offsite")
        values: dict[str, Any] = {"pack_bytes": 5_000_000_000, "bytes_read": 5_000_000_000, "problems": []} | changes
        self.catalog.add_check(
            Check(
                id=f"check-{repository}-{finished:%m%d}", repository=repository, mode=mode, started=finished - timedelta(minutes=5),
                finished=finished, verdict=verdict, snapshots=12, packs=300, record=_id(f"c{finished}"), **values,
            )
        )  # fmt: skip

    def finding(self, number: int, severity: str, opened: datetime, **changes: Any) -> None:
        values: dict[str, Any] = {"title": f"finding {number}", "job": "payroll", "owner": "finance"} | changes
        self.catalog.open_finding(
            Finding(id=f"finding-{number}", source="drill", run="r", severity=severity, opened=opened, **values)
        )

    def hold(self, **changes: Any) -> None:
        values: dict[str, Any] = {"reason": "litigation 2026-17", "owner": "legal", "expires": None} | changes
        self.catalog.add_hold(
            Hold(id=_id("hold"), repository="offsite", snapshot=_id("held"), created=NOW - timedelta(days=3), **values)
        )


def _id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def quarterly(tmp_path: Path) -> Iterator[Quarterly]:
    """An empty catalog and three configured jobs."""
    with opened(tmp_path / "catalog.db") as found:
        yield found


@pytest.fixture
def full(tmp_path: Path, full_database: Path) -> Iterator[Quarterly]:
    """The quarter described at the top of this file, for this test alone."""
    shutil.copyfile(full_database, tmp_path / "full.db")
    with opened(tmp_path / "full.db") as found:
        yield found


@pytest.fixture(scope="session")
def full_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Filled once: some hundred short transactions."""
    path = tmp_path_factory.mktemp("evidence") / "full.db"
    with opened(path) as quarterly:
        _fill(quarterly)
    return path


@contextmanager
def opened(path: Path) -> Iterator[Quarterly]:
    clock = FakeClock(NOW)
    catalog = Catalog.open(f"sqlite:///{path}", clock=clock)
    try:
        yield Quarterly(catalog, clock, make_settings())
    finally:
        catalog.close()


def _fill(quarterly: Quarterly) -> None:
    first = datetime(2026, 10, 1, 18, 15, tzinfo=UTC)  # 2026-10-02 02:15 in Taipei
    for name in ("website", "payroll"):
        for number in range(51):
            state = {7: "failed", 20: "incomplete"}.get(number, "complete") if name == "payroll" else "complete"
            if not (name == "payroll" and number == 30):
                quarterly.backup(name, first + timedelta(days=number), state)
    for number in range(40, 51):
        quarterly.backup("wiki", first + timedelta(days=number))
    quarterly.drill("website/monthly", datetime(2026, 10, 5, 2, 0, tzinfo=UTC), rto_seconds=2400.0)
    quarterly.drill("website/monthly", datetime(2026, 11, 5, 2, 0, tzinfo=UTC))
    quarterly.drill(
        "payroll/monthly", datetime(2026, 10, 5, 2, 0, tzinfo=UTC), "fail", rto_seconds=None, rpo_seconds=None, level=3,
        rto_objective=1800.0, rpo_objective=3600.0, reasons=["table site.articles_2 differs from the fingerprint"],
        cleanup={"proved": False, "facts": ["directory /srv/staging/x is still there"]},
    )  # fmt: skip
    quarterly.drill(
        "payroll/monthly", datetime(2026, 11, 6, 2, 0, tzinfo=UTC), rto_seconds=2100.0, rto_objective=1800.0,
        rpo_seconds=3000.0, rpo_objective=3600.0,
    )  # fmt: skip
    at = datetime(2026, 11, 7, 2, 0, tzinfo=UTC)
    quarterly.catalog.add_run(
        Run(
            id="drill-lost", kind="drill", name="website/monthly", scheduled=at, trigger="manual", state="failed", epoch=1,
            worker="", created=at, started=at, finished=at, exit_code=5, message="staging host did not answer", repository="",
            snapshot="", problems=[], summary={}, options={},
        )
    )  # fmt: skip
    quarterly.check(
        datetime(2026, 10, 20, tzinfo=UTC), "fail",
        problems=[{"object": "data/ab/abcdef", "message": "content does not match its name", "snapshots": []}],
    )  # fmt: skip
    quarterly.check(datetime(2026, 11, 20, tzinfo=UTC), bytes_read=4_999_999_999)
    quarterly.finding(1, "critical", NOW - timedelta(days=20), due=NOW - timedelta(days=6), title="one table differed")
    quarterly.finding(2, "minor", NOW - timedelta(days=30), due=NOW + timedelta(days=6), owner="")
    quarterly.finding(3, "major", NOW - timedelta(days=40), closed=NOW - timedelta(days=9), closure="disk replaced")
    quarterly.hold()
    for number in range(3):
        quarterly.catalog.append_event("cron", "run", "website", {"number": number})
