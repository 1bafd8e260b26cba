"""Signals and kills at a run, in real processes: locks, half states and the catalog afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Run
from backupctl.clock import SystemClock
from tests.end_to_end.site import PROGRAM, Site

PATIENCE_SECONDS = 60.0
# Python imports a module of this name when it starts: the store then waits before the manifest, with all data uploaded
WAITING_STORE = """
import os, time
from pathlib import Path
from backupctl.storage.local import LocalStore

room = Path(os.environ["WAITING_ROOM"])
put = LocalStore.put

def wait_and_put(self, name, data, **options):
    if name.startswith("backupctl/manifest/") and not (room / "go").exists():
        (room / "arriving").write_text(str(os.getpid()))
        (room / "arriving").rename(room / "waiting")
        while not (room / "go").exists():
            time.sleep(0.02)
    put(self, name, data, **options)

LocalStore.put = wait_and_put
"""


class WaitingSite:
    """A site whose next run stops in the middle of its backup until `go`."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.room = site.root / "room"
        self.room.mkdir()
        (self.room / "sitecustomize.py").write_text(WAITING_STORE)
        self.environment = os.environ | {"PYTHONPATH": str(self.room), "WAITING_ROOM": str(self.room)}

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self.site.root / "said.txt").open("wb") as output:
            process = subprocess.Popen(
                [*PROGRAM, "--config", str(self.site.root / "backupctl.yaml"), *arguments],
                cwd=self.site.root,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield process
        finally:
            self.go()
            if process.poll() is None:
                process.kill()
            process.wait()

    def worker(self) -> int:
        """The process id of the worker, once it waits."""
        until(lambda: (self.room / "waiting").exists(), "the worker reaches the middle of its run")
        return int((self.room / "waiting").read_text())

    def go(self) -> None:
        (self.room / "go").touch()

    @property
    def said(self) -> str:
        return (self.site.root / "said.txt").read_text()

    def runs(self) -> list[Run]:
        with opened_catalog(self.site.root) as catalog:
            return catalog.runs(kind="backup")

    def serves(self) -> bool:
        with opened_catalog(self.site.root) as catalog:
            return bool(catalog.schedulers())

    def assert_nothing_is_left(self) -> None:
        assert not list(self.site.repository.glob("locks/*"))
        assert not list(self.site.repository.glob("snapshots/*"))

    def assert_the_next_run_is_fine(self) -> None:
        self.go()
        self.site.run("run")
        assert not list(self.site.repository.glob("locks/*"))
        assert self.runs()[0].state == "complete"


@contextlib.contextmanager
def opened_catalog(root: Path) -> Iterator[Catalog]:
    catalog = Catalog.open(f"sqlite:///{root / 'catalog.db'}", clock=SystemClock())
    try:
        yield catalog
    finally:
        catalog.close()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS} s in vain until {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def waiting(tmp_path: Path) -> WaitingSite:
    site = Site.create(tmp_path)
    del site.sources["db"]
    site.configure()
    return WaitingSite(site.prepare())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("target", ["parent", "worker"])
def test_asked_to_stop(waiting: WaitingSite, number: signal.Signals, target: str) -> None:
    with waiting.started("run") as process:
        worker = waiting.worker()
        os.kill(process.pid if target == "parent" else worker, number)
        assert process.wait(PATIENCE_SECONDS) == 130, waiting.said
    assert "Traceback" not in waiting.said
    assert not is_alive(worker)
    (run,) = waiting.runs()
    assert (run.state, run.exit_code) == ("cancelled", 130)
    waiting.assert_nothing_is_left()
    waiting.assert_the_next_run_is_fine()


def test_worker_killed(waiting: WaitingSite) -> None:
    with waiting.started("run") as process:
        os.kill(waiting.worker(), signal.SIGKILL)
        assert process.wait(PATIENCE_SECONDS) == 1, waiting.said
    assert "Traceback" not in waiting.said
    assert "ended by signal 9" in waiting.said
    (run,) = waiting.runs()
    assert run.state == "failed"
    assert "signal 9" in run.message
    assert list(waiting.site.repository.glob("locks/*")), "nobody was left to delete it"
    waiting.assert_the_next_run_is_fine()
    waiting.site.run("check", "--read-data")


def test_parent_killed_and_the_worker_finishes(waiting: WaitingSite) -> None:
    with waiting.started("run") as process:
        waiting.worker()
        process.kill()
        process.wait(PATIENCE_SECONDS)
        waiting.go()
        until(lambda: waiting.runs()[0].state == "complete", "the orphaned worker has finished")
    waiting.assert_the_next_run_is_fine()


def seen_before(site: Site, ago: timedelta) -> None:
    """The scheduler met the job `ago`, so that what its schedule said since then is owed."""
    clock = SystemClock()
    with opened_catalog(site.root) as catalog:
        run = catalog.enqueue("backup", "site", clock.now() - ago, trigger="first_seen")
        assert run is not None
        catalog.cancel(run.id, message="met", state="skipped")


def done(waiting: WaitingSite) -> list[Run]:
    return [run for run in waiting.runs() if run.state == "complete"]


def test_serve_runs_what_is_due_and_ends_when_told(waiting: WaitingSite) -> None:
    job = waiting.site.root / "jobs" / "site.yaml"
    job.write_text(job.read_text().replace('"15 2 * * *"', '"* * * * *"'))
    seen_before(waiting.site, timedelta(minutes=3))
    waiting.go()
    with waiting.started("serve") as process:
        until(lambda: bool(done(waiting)), "the due run is complete")
        process.terminate()
        began = time.monotonic()
        assert process.wait(PATIENCE_SECONDS) == 0, waiting.said
    assert time.monotonic() - began < 30
    assert "Traceback" not in waiting.said
    assert [run for run in waiting.runs() if run.state in ("queued", "running")] == []
    assert not list(waiting.site.repository.glob("locks/*"))


def test_serve_told_to_end_in_the_middle_of_a_run(waiting: WaitingSite) -> None:
    seen_before(waiting.site, timedelta(days=2))
    with waiting.started("serve") as process:
        waiting.worker()
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0, waiting.said
    assert "cancelled" in [run.state for run in waiting.runs()]
    waiting.assert_nothing_is_left()
    waiting.assert_the_next_run_is_fine()


def test_serve_and_run_due_at_once_make_one_run(waiting: WaitingSite) -> None:
    seen_before(waiting.site, timedelta(days=2))
    waiting.go()
    with waiting.started("serve") as service:
        said = waiting.site.run("run", "--due", expect=(0, 75))
        until(lambda: bool(done(waiting)), "the due run is complete")
        until(waiting.serves, "the scheduler has begun")
        service.terminate()
        assert service.wait(PATIENCE_SECONDS) == 0, waiting.said + said.text
    assert len(done(waiting)) == 1
    assert len(list(waiting.site.repository.glob("snapshots/*"))) == 1
    assert [run.state for run in waiting.runs()] == ["complete", "skipped"]
