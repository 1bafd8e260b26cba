"""A small site of a fleet over a real PostgreSQL, and workers that are forked, so that they can be stopped anywhere."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import update

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Run
from backupctl.clock import Clock, FakeClock, SystemClock
from backupctl.config.load import load
from backupctl.config.models import Settings
from backupctl.operations.context import Context
from backupctl.operations.records import SnapshotTags
from backupctl.repository.format.tree import iterate_tree
from backupctl.scheduling import worker
from backupctl.scheduling.dispatch import settle
from backupctl.storage.local import LocalStore
from tests.servers.databases import PostgresServer

MAIN = """\
version: 1
catalog: "{url}"
fleet: {{heartbeat: 1s, stalled_after: {stalled_after}}}
cache: false
hosts: {{shared: {{{shared}, needs: [files]}}}}
repositories: {{main: {{storage: {storage}, password: {{file: key}}}}}}
jobs:
  site:
    sources: {{www: {{files: {{paths: [{place}/data]{options}}}}}}}
    repository: main
    objectives: {{rpo: 24h, rto: 2h}}
    schedule: {{cron: "15 2 * * *"}}
"""
ELSEWHERE = "elsewhere some-boot 1 1"


def new_database(server: PostgresServer) -> str:
    name = f"fleet_{uuid.uuid4().hex}"
    server.sql(f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://postgres@/{name}?host={server.directory}&port={server.port}"


def an_hour_ago() -> datetime:
    return SystemClock().now() - timedelta(hours=1)


@dataclass
class FlyingClock(SystemClock):
    """From the moment that file is there ten minutes pass in each second."""

    file: Path

    def monotonic(self) -> float:
        flies = self.now().timestamp() - self.file.stat().st_mtime if self.file.exists() else 0.0
        return super().monotonic() + 600 * flies


@dataclass
class FleetSite:
    place: Path
    url: str
    storage: str = "{local: {path: repository}}"
    options: str = ""  # of the source, after a comma
    stalled_after: str = "5m"  # a busy machine is not a dead one; whoever shall be taken for silent is made so
    shared: str = "local: {}"  # the host of that name
    forked: set[int] = field(default_factory=set)

    def close(self) -> None:
        """End what a failed test has left stopped."""
        for pid in self.forked:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)

    def __post_init__(self) -> None:
        (self.place / "data").mkdir()
        for number in range(3):
            (self.place / "data" / f"{number}").write_bytes(os.urandom(700_000))
        (self.place / "key").write_text("a password")
        (self.place / "key").chmod(0o600)
        self.settings = self.written(self.url)
        with self.context() as context:
            context.resources.store("main", create=True)
            self._create(context)

    def written(self, url: str, name: str = "backupctl.yaml") -> Settings:
        (self.place / name).write_text(MAIN.format(**{**vars(self), "url": url}))
        return load(self.place / name)

    def _create(self, context: Context) -> None:
        from backupctl.repository.repository import Repository

        store = context.resources.store("main", create=True)
        Repository.create(store, "a password", clock=context.clock, scrypt_n=1024)

    def context(self, settings: Settings | None = None, clock: Clock | None = None) -> Context:
        return Context.open(settings or self.settings, clock=clock or SystemClock())

    def queued(self) -> str:
        with self.context() as context:
            run = context.catalog.enqueue("backup", "site", context.clock.now(), trigger="schedule")
            assert run is not None
            return run.id

    def take_over(self) -> list[Run]:
        """What a scheduler does ten minutes later."""
        clock = FakeClock(SystemClock().now() + timedelta(minutes=10))
        catalog = Catalog.open(self.url, clock=clock)
        settled = settle(catalog, clock, self.settings.fleet)
        catalog.close()
        return settled

    def silence(self, run_id: str) -> None:
        """As if nothing had been heard of the run's worker for an hour."""
        with self.context() as context, context.catalog.writing() as session:
            session.execute(update(Run).where(Run.id == run_id).values(heartbeat=an_hour_ago()))

    def execute(self, run_id: str) -> int:
        with self.context() as context:
            return worker.execute_run(context, run_id)

    def fork(
        self,
        run_id: str,
        prepare: Callable[[], None],
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> int:
        """The process id of a worker of another machine that executes the run; `prepare` is called in it first."""
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            self.forked.add(pid)
            return pid
        code = 99
        try:
            prepare()
            worker.worker_identity = lambda: ELSEWHERE  # type: ignore[assignment]  # of this process alone
            with self.context(settings, clock) as context:
                code = worker.execute_run(context, run_id)
        except BaseException as error:  # noqa: BLE001  nothing of the test may run in this process: its code tells what it was
            code = getattr(error, "exit_code", 98)
            traceback.print_exc()
        finally:
            os._exit(code)

    def tree(self, run_id: str) -> bytes:
        """The tree of what is backed up: the directories above it have the times of what others do in them."""
        with self.context() as context:
            repository, run = context.resources.repository("main"), context.catalog.run(run_id)
            assert run is not None
            found = repository.load_snapshot(run.snapshot).tree
            for name in ("www", *self.place.parts[1:], "data"):
                nodes = iterate_tree(repository.load_blob("tree", found))
                found = next(node.subtree for node in nodes if node.name == name.encode() and node.subtree)
        return found

    def left(self, run_id: str) -> tuple[list[str], Run]:
        """The snapshots in the repository that name this run, and its row."""
        with self.context() as context:
            snapshots = context.resources.repository("main").snapshots()
            run = context.catalog.run(run_id)
        assert run is not None
        return [one.id for one in snapshots if SnapshotTags.of(one).run == run_id], run


def stop_before_put(prefix: str) -> None:
    """This process stops itself (SIGSTOP) just before it stores the first object of this prefix."""
    put = LocalStore.put

    def stopping(self: LocalStore, name: str, data: bytes, *, if_absent: bool = False) -> None:
        if name.startswith(prefix):
            LocalStore.put = put  # type: ignore[method-assign]  # of this process alone
            os.kill(os.getpid(), signal.SIGSTOP)
        put(self, name, data, if_absent=if_absent)

    LocalStore.put = stopping  # type: ignore[method-assign]  # of this process alone


def stop_before(owner: object, name: str) -> None:
    """The same before this function of a class or module."""
    function = getattr(owner, name)

    def stopping(*arguments: object, **options: object) -> object:
        os.kill(os.getpid(), signal.SIGSTOP)
        return function(*arguments, **options)

    setattr(owner, name, stopping)


def wait_before_put(prefix: str, reached: Path, go: Path) -> None:
    """This process says that it has come to its first object of this prefix, and stores it when it may."""
    put = LocalStore.put

    def waiting(self: LocalStore, name: str, data: bytes, *, if_absent: bool = False) -> None:
        if name.startswith(prefix) and not reached.exists():
            reached.touch()
            until(go.exists, "the test to go on")
        put(self, name, data, if_absent=if_absent)

    LocalStore.put = waiting  # type: ignore[method-assign]  # of this process alone


def wait_before(owner: object, name: str, reached: Path, go: Path) -> None:
    """The same before the first call of this function of a class or module."""
    function = getattr(owner, name)

    def waiting(*arguments: object, **options: object) -> object:
        if not reached.exists():
            reached.touch()
            until(go.exists, "the test to go on")
        return function(*arguments, **options)

    setattr(owner, name, waiting)


def until(look: Callable[[], object], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def wait_stopped(pid: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        found, status = os.waitpid(pid, os.WUNTRACED | os.WNOHANG)
        if found:
            assert os.WIFSTOPPED(status), f"it ended with status {status} before it was stopped"
            return
        assert time.monotonic() < deadline, "it was not stopped"
        time.sleep(0.01)


def code_of(pid: int, seconds: float = 90) -> int:
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError("the worker did not end")
        time.sleep(0.01)
