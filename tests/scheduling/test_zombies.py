"""A worker that is stopped (SIGSTOP) anywhere in its run, presumed dead and wakes up: whatever it then says is refused, and the
run leaves one snapshot."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backupctl.catalog.catalog import Catalog
from backupctl.errors import LockedError
from backupctl.operations import execute
from backupctl.repository.repository import Repository
from tests.scheduling.fleet_site import (
    ELSEWHERE,
    FleetSite,
    code_of,
    new_database,
    stop_before,
    stop_before_put,
    wait_stopped,
)
from tests.servers.databases import PostgresServer

pytestmark = pytest.mark.servers

POINTS: dict[str, Callable[[], None]] = {
    "after it has claimed": lambda: stop_before(execute, "run"),
    "before its first pack is stored": lambda: stop_before_put("data/"),
    "before its index is stored": lambda: stop_before_put("index/"),
    "before it decides": lambda: stop_before_put("backupctl/commit/"),
    "before its snapshot is stored": lambda: stop_before_put("snapshots/"),
    "before it says that it has ended": lambda: stop_before(Catalog, "finish"),
}


@pytest.fixture
def site(tmp_path: Path, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FleetSite]:
    monkeypatch.setenv("BACKUPCTL_WORKERS", "0")
    site = FleetSite(tmp_path, new_database(postgres_server))
    yield site
    site.close()


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_that_wakes_up_after_its_run_was_taken_over(site: FleetSite, point: str) -> None:
    run_id = site.queued()
    zombie = site.fork(run_id, POINTS[point])
    wait_stopped(zombie)
    [taken] = site.take_over()
    assert (taken.state, taken.epoch, taken.options) == ("queued", 2, {"taken_over": 1})
    assert "taken over: its worker on elsewhere is silent" in taken.message
    assert site.execute(run_id) == 0
    before = site.left(run_id)
    os.kill(zombie, signal.SIGCONT)
    assert code_of(zombie) == LockedError.exit_code
    snapshots, run = site.left(run_id)
    assert snapshots == [run.snapshot] == before[0]
    assert (run.state, run.epoch, run.exit_code) == ("complete", 3, 0)
    assert run.worker != ELSEWHERE and run.finished == before[1].finished
    with site.context() as context:
        assert [row.id for row in context.catalog.snapshots()] == snapshots
        assert len(list(context.resources.store("main").list("backupctl/commit/"))) == 1


def test_a_worker_that_wakes_up_before_its_successor_is_done(site: FleetSite) -> None:
    """Both are about to store a snapshot; the one that was taken over is refused, though nothing is decided yet."""
    run_id = site.queued()
    zombie = site.fork(run_id, lambda: stop_before(Repository, "confirm_locks"))
    wait_stopped(zombie)
    assert [run.state for run in site.take_over()] == ["queued"]
    heir = site.fork(run_id, lambda: stop_before_put("backupctl/commit/"))
    wait_stopped(heir)
    os.kill(zombie, signal.SIGCONT)
    assert code_of(zombie) == LockedError.exit_code
    assert site.left(run_id)[0] == []
    os.kill(heir, signal.SIGCONT)
    assert code_of(heir) == 0
    snapshots, run = site.left(run_id)
    assert snapshots == [run.snapshot] and run.state == "complete"


def test_a_run_over_which_every_worker_falls_silent_fails_in_the_end(site: FleetSite) -> None:
    run_id = site.queued()
    for takeover in range(3):
        dying = site.fork(run_id, lambda: stop_before(execute, "run"))
        wait_stopped(dying)
        os.kill(dying, signal.SIGKILL)
        os.waitpid(dying, 0)
        [run] = site.take_over()
        assert run.state == ("queued" if takeover < 2 else "failed")
    assert "3 workers fell silent over it, the last: elsewhere" in run.message
