"""Looking before a drill; tidying after a killed one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backupctl.catalog.models import Run
from backupctl.clock import FakeClock
from backupctl.config.models import PriceSettings
from backupctl.errors import NoSuchError, UsageError, UserError
from backupctl.hosts.staging import register
from backupctl.operations.context import Context
from backupctl.operations.plan import abort_drills, clean_staging, cost_of, plan_drill, staging_hosts
from tests.end_to_end.site import Site


@pytest.fixture
def scratch(context: Context) -> Path:
    options = context.settings.hosts["staging"]
    register(context.resources.host("staging"), str(options.scratch).encode(), "staging")
    return Path(str(options.scratch))


def test_without_a_snapshot_there_is_nothing_to_rehearse(context: Context) -> None:
    with pytest.raises(NoSuchError, match="no complete snapshot to rehearse"):
        plan_drill(context, "site/full")


def test_a_plan_says_what_where_and_how_much(tmp_path: Path) -> None:
    site = Site.create(tmp_path).prepare()
    site.run("run")
    planned = site.run("drill", "plan", "site/full", "--json").line("plan")
    assert (planned["drill"], planned["host"], planned["scratch"]) == (
        "site/full",
        "staging",
        str(tmp_path / "staging"),
    )
    assert planned["sources"] == ["db", "www"]
    assert planned["files"] == 5
    assert planned["bytes"] > 700_000
    (reading,) = planned["readings"]
    assert 700_000 < reading["stored_bytes"] < planned["bytes"]
    assert (reading["packs"] >= 1, reading["cost"], planned["seconds"]) == (True, None, None)
    assert planned["free"] > 0
    shown = site.run("drill", "plan", "site/full").out
    assert "Nothing outside that directory is touched." in shown
    assert [one.name for one in (tmp_path / "staging").iterdir()] == ["backupctl-staging.json"], "nothing was done"


def test_what_a_killed_drill_left_is_removed_and_nothing_else(context: Context, scratch: Path) -> None:
    left = scratch / "drill-0123456789ab"
    (left / "files" / "deep").mkdir(parents=True)
    (left / "files" / "deep" / "secret.txt").write_text("restored")
    os.utime(left, (1_000_000_000, 1_000_000_000))
    (scratch / "mine").mkdir()
    removed = clean_staging(context, "staging")
    assert any(left.name in line for line in removed)
    assert sorted(one.name for one in scratch.iterdir()) == ["backupctl-staging.json", "mine"]
    assert clean_staging(context, "staging") == []
    assert [event.action for event in context.catalog.events()].count("drill.cleanup") == 1


def test_without_the_marker_nothing_is_removed(context: Context) -> None:
    scratch = Path(str(context.settings.hosts["staging"].scratch))
    (scratch / "drill-0123456789ab").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        clean_staging(context, "staging")
    assert "host register" in caught.value.next_step
    assert (scratch / "drill-0123456789ab").is_dir()


@pytest.mark.parametrize("name", ["local", "nope"])
def test_only_a_staging_host_is_cleaned(name: str, context: Context) -> None:
    with pytest.raises(NoSuchError, match="known: staging"):
        clean_staging(context, name)


def waiting(context: Context, state: str = "queued") -> Run:
    run = context.catalog.enqueue("drill", "site/full", context.clock.now(), trigger="manual")
    assert run is not None
    if state == "running":
        claimed = context.catalog.claim(run.id, "somewhere")
        assert isinstance(claimed, Run)
        return claimed
    return run


def test_a_drill_that_waits_is_taken_out_of_the_queue_and_one_that_runs_is_asked_to_stop(
    context: Context, clock: FakeClock
) -> None:
    with pytest.raises(NoSuchError, match="no drill runs or waits"):
        abort_drills(context, None)
    queued = waiting(context)
    assert [run.id for run in abort_drills(context, "site/full")] == [queued.id]
    assert context.catalog.runs(states=("queued", "running")) == []
    clock.advance(1)
    running = waiting(context, "running")
    assert [run.id for run in abort_drills(context, running.id[:8])] == [running.id]
    assert context.catalog.heartbeat(running.id, running.epoch).startswith("aborted by ")
    clock.advance(1)
    waiting(context)
    with pytest.raises(UsageError, match="2 drills run or wait: site/full"):
        abort_drills(context, None)
    with pytest.raises(NoSuchError, match="no drill 'other/full' runs or waits"):
        abort_drills(context, "other/full")
    assert [event.action for event in context.catalog.events()].count("drill.abort") == 2


def test_hosts_are_named_by_themselves_or_by_their_drill(context: Context) -> None:
    assert staging_hosts(context, None) == staging_hosts(context, "staging") == ["staging"]
    assert staging_hosts(context, "site/full") == ["staging"]
    with pytest.raises(NoSuchError):
        staging_hosts(context, "site/other")


def test_the_cost_of_reading_is_rounded_up() -> None:
    price = PriceSettings(read_per_gib=0.09, per_1000_requests=0.4)
    assert cost_of(price, 10 << 30, 1000) == 1.3
    assert cost_of(price, 1, 0) == 0.01
    assert cost_of(price, 0, 0) == 0.0
