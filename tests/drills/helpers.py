"""One small job, really backed up into a repository in memory, and the request to drill it on this machine."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from backupctl.clock import SystemClock, iso
from backupctl.config.models import Job
from backupctl.drills.model import DrillRequest, DrillResult
from backupctl.drills.run import run_drill
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import Host
from backupctl.hosts.staging import register
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.manifest import read_manifest
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.writer import SnapshotWriter
from backupctl.sources.protocol import Fingerprint, Source
from backupctl.sources.registry import make_source
from backupctl.storage.memory import MemoryStore

DRILL_ID = "6f9619ff-8b86-4d01-b42d-00c04fc964ff"
CLOCK = SystemClock()


def fill_files(directory: Path) -> None:
    (directory / "照片").mkdir(parents=True)
    (directory / "a.html").write_text("<p>hello</p>")
    (directory / "照片" / "big.bin").write_bytes(os.urandom(700_000))
    (directory / "link").symlink_to("a.html")
    (directory / "empty").touch()


def fill_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table articles (id integer primary key, title text)")
        connection.executemany("insert into articles (title) values (?)", [(f"title {n}",) for n in range(500)])
        connection.execute("create table authors (name text)")
        connection.execute("insert into authors values ('陳')")
    connection.close()


@dataclass
class Bench:
    """A machine with something to protect, a repository, a scratch directory for drills."""

    root: Path
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    store: MemoryStore = field(default_factory=MemoryStore)
    host: Host = field(default_factory=lambda: LocalHost("local"))
    staging: Host = field(default_factory=lambda: LocalHost("staging"))
    view_time: datetime | None = None
    break_fingerprint: Callable[[Fingerprint], None] | None = None
    snapshot: Snapshot | None = None
    record: dict[str, Any] = field(default_factory=dict)
    manifest: str = ""

    def __post_init__(self) -> None:
        self.repository = Repository.create(self.store, "secret", clock=CLOCK, scrypt_n=2)

    @property
    def scratch(self) -> Path:
        return self.root / "scratch"

    def with_files(self) -> Bench:
        fill_files(self.root / "www")
        self.sources["uploads"] = {"files": {"paths": [str(self.root / "www")]}}
        return self

    def with_database(self) -> Bench:
        fill_database(self.root / "site.db")
        self.sources["site-db"] = {"sqlite": {"path": str(self.root / "site.db")}}
        return self

    def registered(self) -> Bench:
        register(self.staging, os.fsencode(self.scratch), self.staging.name)
        return self

    def job(self, **drill: Any) -> Job:
        return Job.model_validate(
            {
                "job": "website",
                "sources": self.sources,
                "repository": "offsite",
                "objectives": {"rpo": "24h", "rto": "2h"},
                "drills": {"full": {"on": "staging", **drill}},
            }
        )

    def source(self, job: Job, name: str) -> Source:
        settings = job.sources[name]
        return make_source(name, settings.kind, settings.options, secrets=lambda reference: b"")

    def back_up(self) -> Bench:
        """What `operations.backup` does, without its ceremony."""
        job, facts = self.job(), {}
        with SnapshotWriter(self.repository, clock=CLOCK) as writer:
            for name, settings in job.sources.items():
                with self.source(job, name).open(self.host, CLOCK) as session:
                    assert writer.add_source(name, session.entries()) == []
                    fingerprint = session.fingerprint()
                if self.view_time:
                    fingerprint["time"] = iso(self.view_time)
                if self.break_fingerprint:
                    self.break_fingerprint(fingerprint)
                facts[name] = {
                    "kind": settings.kind,
                    "host": settings.host,
                    "fingerprint": fingerprint,
                    "data_time": fingerprint["time"],
                }
            written = writer.finish()
        self.manifest = written.manifest
        self.record = {"schema": 1, "job": "website", "sources": facts, "manifest": written.manifest}
        self.snapshot = Snapshot(self.view_time or CLOCK.now(), written.tree, [f"/{name}" for name in sorted(facts)])
        self.snapshot.id = self.repository.save_snapshot(self.snapshot)
        return self

    def request(self, *, probes: Sequence[dict[str, Any]] = (), timeout: str | None = None) -> DrillRequest:
        job = self.job(probes=list(probes), **({"timeout": timeout} if timeout else {}))
        assert self.snapshot is not None
        repository = Repository.open(self.store, "secret", clock=CLOCK)
        return DrillRequest(
            id=DRILL_ID,
            name="website/full",
            job=job,
            settings=job.drills["full"],
            snapshot=self.snapshot,
            reader=SnapshotReader(repository, self.snapshot),
            fingerprint=self.record,
            manifest=read_manifest(repository, self.manifest),
            sources={name: self.source(job, name) for name in job.sources if name in self.record["sources"]},
            host=self.staging,
            scratch=os.fsencode(self.scratch),
            declared=CLOCK.now(),
            repository="offsite",
        )

    def drill(self, **options: Any) -> DrillResult:
        return run_drill(self.request(**options), clock=CLOCK)

    def left_behind(self) -> list[str]:
        return sorted(path.name for path in self.scratch.iterdir() if path.name.startswith("drill-"))


def ago(**span: float) -> datetime:
    return CLOCK.now() - timedelta(**span)
