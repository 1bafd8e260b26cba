"""Pauses, services and places, on both databases."""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta

import pytest

from backupctl.catalog.catalog import Catalog, FencedError
from backupctl.catalog.models import Pause, Run, Scheduler
from backupctl.clock import FakeClock
from backupctl.errors import SkippedError
from tests.catalog.conftest import START

HOUR = timedelta(hours=1)


def pause(catalog: Catalog, job: str, hours: int, name: str = "p") -> None:
    catalog.add_pause(
        Pause(id=name, job=job, reason="a reason \udcff", owner="ops", created=START, until=START + hours * HOUR)
    )


def test_a_pause_is_in_force_until_its_end_or_until_it_is_ended(catalog: Catalog, clock: FakeClock) -> None:
    pause(catalog, "site", 2)
    pause(catalog, "", 4, "wide")
    assert [one.job for one in catalog.pauses(at=START + HOUR)] == ["site", ""]
    assert [one.job for one in catalog.pauses(at=START + 2 * HOUR)] == [""]
    assert catalog.pauses(at=START - HOUR) == [] == catalog.pauses(at=START + 4 * HOUR)
    clock.advance(3600)
    assert catalog.end_pauses("other") == []
    (ended,) = catalog.end_pauses("site")
    assert ended.ended == START + HOUR and ended.reason == "a reason \\udcff"
    assert [one.job for one in catalog.pauses(at=START + HOUR)] == [""]
    assert len(catalog.pauses()) == 2, "what was paused is remembered"
    assert catalog.end_pauses("site") == []


def test_a_service_says_what_became_of_a_new_configuration(catalog: Catalog, clock: FakeClock) -> None:
    for worker in ("one", "two"):
        catalog.add_scheduler(Scheduler(worker=worker, config="/c", started=START, loaded=START, refused=""))
    clock.advance(60)
    catalog.answer("one", refused="line 3")
    clock.advance(60)
    one, two = catalog.schedulers()
    assert (one.refused, one.loaded, one.asked) == ("line 3", START, START + timedelta(seconds=60))
    assert (two.refused, two.asked) == ("", None)
    catalog.answer("one")
    assert (catalog.schedulers()[0].refused, catalog.schedulers()[0].loaded) == ("", START + timedelta(seconds=120))
    catalog.remove_schedulers(["one"])
    assert [one.worker for one in catalog.schedulers()] == ["two"]


def test_a_wish_to_stop_is_read_with_the_heartbeat_once(catalog: Catalog) -> None:
    run = catalog.enqueue("backup", "site", START, trigger="schedule")
    assert run is not None
    assert not catalog.ask_to_stop(run.id, message="x"), "it does not run"
    claimed = catalog.claim(run.id, "w")
    assert claimed is not None and catalog.heartbeat(run.id, claimed.epoch) == ""
    assert catalog.ask_to_stop(run.id, message="replaced") and not catalog.ask_to_stop(run.id, message="again")
    assert catalog.heartbeat(run.id, claimed.epoch) == "replaced"
    catalog.guard(run.id, claimed.epoch)  # it may still commit: it was asked, not written off
    catalog.finish(run.id, claimed.epoch, "cancelled", exit_code=130, message="replaced")
    with pytest.raises(FencedError):
        catalog.heartbeat(run.id, claimed.epoch)


def test_the_newest_firing_up_to_an_instant(catalog: Catalog) -> None:
    for hours, trigger in ((0, "schedule"), (1, "retry"), (2, "after"), (3, "manual"), (9_000, "catch_up")):
        catalog.enqueue("backup", "site", START + hours * HOUR, trigger=trigger, skipped="x")
    assert catalog.last_scheduled("backup", "site") == START + 9_000 * HOUR
    assert catalog.last_scheduled("backup", "site", until=START + 4 * HOUR) == START


def test_of_many_that_claim_at_once_no_more_than_admitted_run(url: str, catalog: Catalog, clock: FakeClock) -> None:
    runs = [catalog.enqueue("backup", f"job{number}", START, trigger="schedule") for number in range(8)]
    barrier, refused = threading.Barrier(8), []

    def admit(run: Run, running: list[Run]) -> None:
        if len(running) >= 2:
            refused.append(run.name)
            raise SkippedError("full")

    def claim(run: Run) -> None:
        mine = Catalog.open(url, clock=clock)
        barrier.wait()
        with contextlib.suppress(SkippedError):
            mine.claim(run.id, "w", admit=admit)
        mine.close()

    threads = [threading.Thread(target=claim, args=(run,)) for run in runs if run is not None]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(catalog.runs(states=("running",))) == 2 and len(refused) == 6
    assert len(catalog.runs(states=("queued",))) == 6, "a refused run stays queued"
