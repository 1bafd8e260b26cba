"""Exactly one run for each (job, instant), and how fast a fleet's dispatch is. Long with BACKUPCTL_SOAK=1: the sizes that
docs/scale.md was measured with."""

from __future__ import annotations

import os
import signal
import statistics
import threading
from collections.abc import Collection
from pathlib import Path

import pytest

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Run
from backupctl.clock import SystemClock
from backupctl.config.models import Settings
from tests.scheduling.fleet_load import (
    database_load,
    executed,
    many_jobs,
    owe_one_instant_each,
    prepare,
    run_all,
    scheduler,
    workers,
)
from tests.scheduling.fleet_site import new_database
from tests.servers.databases import PostgresServer
from tests.soak import rounds

pytestmark = [pytest.mark.servers, pytest.mark.soak]


def test_every_due_instant_is_executed_once(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """Two schedulers look at the same time, every message is left twice, and one worker is killed in the middle of it."""
    count, fleet = rounds(60, 10_000), rounds(2, 8)
    settings = many_jobs(tmp_path, new_database(postgres_server), count)
    catalog = Catalog.open(settings.catalog, clock=SystemClock())
    prepare(catalog)
    instant = owe_one_instant_each(settings, catalog, SystemClock().now())
    catalog.close()
    with workers(settings, fleet) as pids:
        first, second = scheduler(settings, catalog), scheduler(settings, catalog)
        queue = first._queue
        assert queue is not None
        hand_out = queue.hand_out

        def twice(settings: Settings, runs: Collection[Run]) -> None:
            hand_out(settings, runs)
            hand_out(settings, runs)

        queue.hand_out = twice  # type: ignore[method-assign]  # the fault to inject
        other = threading.Thread(target=second.tick)
        other.start()
        first.tick()
        other.join()
        os.kill(pids[0], signal.SIGKILL)
        os.waitpid(pids.pop(0), 0)
        run_all(first, catalog, count, seconds=rounds(90, 1800))
    total, different = executed(catalog)
    runs = [run for run in catalog.runs(kind="backup") if run.trigger != "first_seen"]
    catalog.close()
    assert different == count
    assert {(run.name, run.scheduled) for run in runs} == {(name, instant) for name in settings.jobs}
    assert len(runs) == count
    again = sum(int(run.options.get("taken_over", 0)) for run in runs)  # what the killed worker had in its hands
    assert count <= total <= count + again
    assert again <= 4  # its `parallel`
    assert {run.state for run in runs} == {"complete"}


def test_many_jobs_due_at_once(tmp_path: Path, postgres_server: PostgresServer) -> None:
    count, fleet = rounds(60, 2_000), rounds(2, 8)
    settings = many_jobs(tmp_path, new_database(postgres_server), count)
    catalog = Catalog.open(settings.catalog, clock=SystemClock())
    prepare(catalog)
    owe_one_instant_each(settings, catalog, SystemClock().now())
    catalog.close()
    with workers(settings, fleet):
        service = scheduler(settings, catalog)
        before = database_load(postgres_server, catalog)
        seconds = run_all(service, catalog, count, seconds=rounds(90, 900))
        after = database_load(postgres_server, catalog)
    assert executed(catalog) == (count, count)
    runs = [run for run in catalog.runs(kind="backup") if run.trigger != "first_seen"]
    catalog.close()
    assert {run.state for run in runs} == {"complete"} and len(runs) == count
    waits = sorted((run.started - run.created).total_seconds() for run in runs if run.started is not None)
    cuts = statistics.quantiles(waits, n=100)
    print(
        f"\n{count} runs on {fleet} workers in {seconds:.1f} s: {count / seconds:.0f} runs/s;"
        f" dispatch latency p50 {cuts[49]:.2f} s, p95 {cuts[94]:.2f} s, p99 {cuts[98]:.2f} s, longest {waits[-1]:.2f} s;"
        f" database: {(after.commits - before.commits) / count:.1f} commits,"
        f" {(after.rows_written - before.rows_written) / count:.1f} rows written,"
        f" {(after.rows_read - before.rows_read) / count:.0f} rows read,"
        f" {1000 * (after.cpu_seconds - before.cpu_seconds) / count:.1f} ms of processor for each run"
    )
