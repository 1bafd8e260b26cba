"""Many runs, many workers, and a data plane that does nothing: what remains is dispatch and the catalog."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Run
from backupctl.clock import SystemClock
from backupctl.config.load import load
from backupctl.config.models import Settings
from backupctl.operations.context import Context
from backupctl.scheduling.admission import admit
from backupctl.scheduling.fleet import FleetQueue, FleetWorker
from backupctl.scheduling.identity import worker_identity
from backupctl.scheduling.messages import Messages
from backupctl.scheduling.service import Service
from tests.servers.databases import PostgresServer

MAIN = """\
version: 1
catalog: "{url}"
fleet: {{heartbeat: 2s, stalled_after: 8s}}
repositories: {{main: {{storage: {{local: {{path: repository}}}}, password: {{file: key}}}}}}
jobs:
  job:
    sources: {{www: {{files: {{paths: [/etc]}}}}}}
    repository: main
    objectives: {{rpo: 24h, rto: 2h}}
    schedule: {{cron: "0 0 1 1 *"}}
"""


def many_jobs(place: Path, url: str, count: int) -> Settings:
    (place / "backupctl.yaml").write_text(MAIN.format(url=url))
    settings = load(place / "backupctl.yaml")
    job = settings.jobs["job"]
    jobs = {f"job{number}": job.model_copy(update={"job": f"job{number}"}) for number in range(count)}
    return settings.model_copy(update={"jobs": jobs})


def owe_one_instant_each(settings: Settings, catalog: Catalog, now: datetime) -> datetime:
    """Every job was met half an hour before the last new year: that is due now. Returns it."""
    year = now.replace(month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
    catalog.enqueue_all(
        catalog.draft("backup", name, year - timedelta(minutes=30), trigger="first_seen", skipped="met")
        for name in settings.jobs
    )
    return year


@dataclass
class FakeRun:
    """What a run says to the catalog, without what it does to the repository; each execution is written down."""

    context: Context

    def __call__(self, run: Run) -> int:
        catalog, settings, now = self.context.catalog, self.context.settings, self.context.clock.now()
        pauses = catalog.pauses(at=now)
        claimed = catalog.claim(
            run.id, worker_identity(), admit=lambda one, running: admit(settings, pauses, one, running, now)
        )
        if claimed is None:
            return 75
        with catalog.writing() as session:
            session.execute(
                text("INSERT INTO executed VALUES (:name, :scheduled)"),
                {"name": run.name, "scheduled": run.scheduled},
            )
        catalog.heartbeat(run.id, claimed.epoch)
        catalog.guard(run.id, claimed.epoch)
        catalog.finish(run.id, claimed.epoch, "complete", exit_code=0)
        catalog.append_event("fleet", "backup.finished", run.name, {"run": run.id})
        return 0


def fork_worker(settings: Settings, name: str, *, parallel: int = 4) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with Context.open(settings, clock=SystemClock()) as context:
            worker = FleetWorker(context, FakeRun(context), name=name, parallel=parallel)
            signal.signal(signal.SIGTERM, lambda *_: worker.drain())
            worker.serve()
            code = 0
    except BaseException:  # noqa: BLE001  nothing of the test may run in this process, whatever it was
        traceback.print_exc()
    finally:
        os._exit(code)


@contextmanager
def workers(settings: Settings, count: int) -> Iterator[list[int]]:
    """So many, until the context ends; they must drain and end well, but for those that the test has killed."""
    pids = [fork_worker(settings, f"worker{number}") for number in range(count)]
    try:
        yield pids
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        for pid in list(pids):
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            pids.remove(pid)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def scheduler(settings: Settings, catalog: Catalog) -> Service:
    assert settings.fleet is not None
    messages = Messages(settings.catalog, settings.fleet)
    messages.prepare()
    return Service(settings, catalog, SystemClock(), lambda run: 1, queue=FleetQueue(messages))


def prepare(catalog: Catalog) -> None:
    with catalog.writing() as session:
        session.execute(text("CREATE TABLE executed (name text, scheduled timestamptz)"))


def executed(catalog: Catalog) -> tuple[int, int]:
    """How many executions, of how many different (job, instant)."""
    with catalog.reading() as session:
        total = session.execute(text("SELECT count(*), count(DISTINCT (name, scheduled)) FROM executed")).one()
    return int(total[0]), int(total[1])


def run_all(service: Service, catalog: Catalog, expected: int, *, seconds: float, tick_seconds: float = 2.0) -> float:
    """Tick until everything was executed; the seconds that took."""
    began = time.monotonic()
    while True:
        service.tick()
        until = time.monotonic() + tick_seconds
        while time.monotonic() < until:
            if _all_done(catalog, expected):
                return time.monotonic() - began
            assert time.monotonic() - began < seconds, f"only {executed(catalog)} of {expected} after {seconds} s"
            time.sleep(0.2)


def _all_done(catalog: Catalog, expected: int) -> bool:
    with catalog.reading() as session:
        live = session.scalar(text("SELECT count(*) FROM runs WHERE state IN ('queued', 'running')"))
    return not live and executed(catalog)[1] >= expected


@dataclass(frozen=True)
class DatabaseLoad:
    commits: int
    rolled_back: int
    rows_read: int
    rows_written: int
    cpu_seconds: float


def database_load(server: PostgresServer, catalog: Catalog) -> DatabaseLoad:
    with catalog.reading() as session:
        session.execute(text("SELECT pg_stat_clear_snapshot()"))
        query = (
            "SELECT xact_commit, xact_rollback, tup_returned + tup_fetched, tup_inserted + tup_updated + tup_deleted"
            " FROM pg_stat_database WHERE datname = current_database()"
        )
        row = session.execute(text(query)).one()
    return DatabaseLoad(*(int(value) for value in row), cpu_seconds=_cpu(server))


def _cpu(server: PostgresServer) -> float:
    """Of the server and all its processes, those that have ended included."""
    pid = int((server.directory / "data" / "postmaster.pid").read_text().splitlines()[0])
    ticks = 0
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for number, fields in (*((int(child), slice(11, 13)) for child in children), (pid, slice(11, 15))):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended: its time is its parent's, who is asked last
            stat = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(value) for value in stat[fields])
    return ticks / os.sysconf("SC_CLK_TCK")
