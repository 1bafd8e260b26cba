"""`backupctl cancel` ends what waits, and tells what goes on: in `serve`, in another terminal, on another machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Run
from backupctl.clock import FakeClock
from backupctl.config.resources import Resources
from backupctl.errors import InterruptedRunError, NoSuchError, UsageError
from backupctl.operations.browse import check_run_name
from backupctl.operations.context import Context
from backupctl.operations.reporter import SilentReporter
from backupctl.scheduling.cancelling import cancel
from backupctl.scheduling.dispatch import enqueue_now, look, settle
from backupctl.scheduling.identity import worker_identity
from backupctl.scheduling.sweep import sweep
from tests.faults.test_signals import PATIENCE_SECONDS, WaitingSite, seen_before, until, waiting
from tests.scheduling.fleet_site import FleetSite, code_of, new_database, wait_before_put
from tests.scheduling.night import START, configuration
from tests.servers.databases import PostgresServer

__all__ = ["waiting"]

RETRIED = 'cron: "15 2 * * *", retries: {times: 3}, then: [check]'
DEAD = " ".join([*worker_identity().split(" ")[:2], "1", "1"])  # process 1 did not begin with the machine's first tick


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    clock = FakeClock(START)
    settings = configuration(tmp_path, {"site": RETRIED, "other": RETRIED})
    catalog = Catalog.open(settings.catalog, clock=clock)
    with Context(settings, catalog, Resources(settings, clock), clock, SilentReporter()) as context:
        look(catalog, clock, settings)
        clock.advance(86400)
        look(catalog, clock, settings)
        yield context


def of(context: Context, name: str = "site", kind: str = "backup") -> Run:
    return context.catalog.runs(kind=kind, name=name, limit=1)[0]


def claimed(context: Context, worker: str) -> Run:
    run = context.catalog.claim(of(context).id, worker)
    assert run is not None
    return run


def test_what_waits_ends_at_once_and_nothing_follows(context: Context) -> None:
    run, ended = cancel(context, "site", reason="the disk is being replaced")
    assert ended and of(context).state == "cancelled"
    assert of(context).message.endswith(": the disk is being replaced") and of(context).message.startswith(
        "cancelled by"
    )
    assert [one.name for one in look(context.catalog, context.clock, context.settings)] == ["other"]
    (event,) = context.catalog.events_of(["run.cancel"])
    assert (event.subject, event.detail["run"]) == ("site", run.id)
    broken = [one for one in sweep(context.settings, context.catalog, context.clock.now()) if one.what == "broken"]
    assert [one.message for one in broken] == ["check main did not follow: backup site ended cancelled"]
    context.clock.advance(86400)
    assert "site" in [one.name for one in look(context.catalog, context.clock, context.settings)], "the next night"


def test_what_goes_on_is_told_and_is_written_off_when_it_does_not_listen(context: Context) -> None:
    run = claimed(context, "elsewhere some-boot 1 1")
    meant, ended = cancel(context, run.id[:8], reason="too slow")
    assert not ended and meant.id == run.id
    assert context.catalog.heartbeat(run.id, run.epoch).endswith("too slow")
    context.clock.advance(360)
    settle(context.catalog, context.clock)
    assert of(context).state == "cancelled" and of(context).message.endswith("it did not stop when asked")


def test_one_whose_process_ended_before_it_heard_is_cancelled_and_not_tried_again(context: Context) -> None:
    run = claimed(context, DEAD)
    assert context.catalog.ask_to_stop(run.id, message="cancelled by ops: too slow")
    settle(context.catalog, context.clock)
    assert of(context).state == "cancelled" and of(context).message.endswith("before it heard of it")
    context.clock.advance(7200)
    look(context.catalog, context.clock, context.settings)
    assert [one.trigger for one in context.catalog.runs(name="site")] == ["catch_up", "first_seen"]


def test_a_run_whose_process_is_gone_has_nothing_to_cancel(context: Context) -> None:
    claimed(context, DEAD)
    with pytest.raises(NoSuchError, match=r"no run 'site' waits or goes on; run \w{8} of site is failed"):
        cancel(context, "site", reason="x")


def test_which_run_is_meant(context: Context) -> None:
    with pytest.raises(UsageError, match="say why"):
        cancel(context, "site", reason=" ")
    for word in ("", "nothing"):
        with pytest.raises(NoSuchError, match="waits or goes on"):
            cancel(context, word, reason="x")
    enqueue_now(context.catalog, context.clock, "prune", "site")
    with pytest.raises(UsageError, match=r"may mean \w{8} \(\w+ site, queued\), \w{8} \(\w+ site, queued\)"):
        cancel(context, "site", reason="x")
    prune = of(context, kind="prune")
    assert cancel(context, prune.id, reason="x")[0].id == prune.id
    assert cancel(context, "site", reason="x")[0].kind == "backup"


def test_runs_of_a_name_that_nothing_has_are_not_just_none(context: Context) -> None:
    for name in ("site", "main"):
        check_run_name(context, name)
    with pytest.raises(NoSuchError, match="no job, drill or repository named 'stie'; did you mean site\\?"):
        check_run_name(context, "stie")
    with pytest.raises(NoSuchError, match=r"named 'payroll'; known: site, other, main, vault"):
        check_run_name(context, "payroll")
    enqueue_now(context.catalog, context.clock, "backup", "payroll")  # of before it was taken out of the configuration
    check_run_name(context, "payroll")


@pytest.mark.parametrize("command", ["run", "serve"])
def test_by_the_command_and_the_next_run_goes_on_from_what_is_stored(waiting: WaitingSite, command: str) -> None:
    (waiting.site.root / "input" / "www" / "big").write_bytes(os.urandom(3_000_000))
    hook = waiting.room / "sitecustomize.py"
    hook.write_text(hook.read_text() + "import backupctl.scheduling.worker as worker\nworker.HEARTBEAT_SECONDS = 0.2\n")
    if command == "serve":
        seen_before(waiting.site, timedelta(days=2))
    with waiting.started(command) as process:
        waiting.worker()
        listed = waiting.site.run("runs", "--live", "--json").line("run")
        assert (listed["state"], listed["name"]) == ("running", "site")
        told = waiting.site.run("cancel", listed["run"][:8], "--reason", "the office moves")
        assert "is told to stop" in told.out
        until(lambda: waiting.runs()[0].state != "running", "the worker has heard of it")
        if command == "serve":
            process.terminate()
        assert process.wait(PATIENCE_SECONDS) == (0 if command == "serve" else InterruptedRunError.exit_code)
    run = waiting.runs()[0]
    assert (run.state, run.exit_code) == ("cancelled", 130) and run.message.endswith(": the office moves")
    waiting.assert_nothing_is_left()
    assert "nothing waits or goes on" in waiting.site.run("runs", "--live").out
    assert run.id[:8] in waiting.site.run("cancel", "site", "--reason", "x", expect=10).text
    finished = waiting.site.run("run", "--json").line("finished")
    assert finished["state"] == "complete" and finished["resumed_bytes"] >= 3_000_000
    assert finished["stored_bytes"] < 1_000_000


@pytest.mark.servers
def test_on_another_machine_of_the_fleet(
    tmp_path: Path, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUPCTL_WORKERS", "0")
    site = FleetSite(tmp_path, new_database(postgres_server))
    try:
        run_id, reached = site.queued(), site.place / "reached"
        elsewhere = site.fork(run_id, lambda: wait_before_put("index/", reached, site.place / "never"))
        until(reached.exists, "the worker's first index")
        with site.context() as context:
            assert not cancel(context, "site", reason="wrong night")[1]
        assert code_of(elsewhere) == InterruptedRunError.exit_code
        snapshots, run = site.left(run_id)
        assert snapshots == [] and (run.state, run.epoch) == ("cancelled", 1) and run.message.endswith("wrong night")
        again = site.queued()
        assert site.execute(again) == 0 and site.left(again)[0] == [site.left(again)[1].snapshot]
    finally:
        site.close()
