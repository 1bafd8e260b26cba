"""What a scheduler asks for all its jobs at once, on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backupctl.catalog.catalog import Catalog, FencedError
from tests.catalog.conftest import START

HOUR = timedelta(hours=1)
NAMES = [("backup", f"job{number}") for number in range(600)]  # more than one statement takes


def test_many_are_inserted_once_and_in_order(catalog: Catalog) -> None:
    drafts = [catalog.draft(*name, START, trigger="schedule") for name in NAMES]
    assert [(run.kind, run.name) for run in catalog.enqueue_all(drafts)] == NAMES
    again = [catalog.draft(*name, START, trigger="catch_up", options={"job": "x"}) for name in NAMES[:3]]
    more = catalog.draft("check", "main", START, trigger="first_seen", skipped="nothing was due before")
    inserted = catalog.enqueue_all([*again, more])
    assert [(run.name, run.state, run.epoch, run.options) for run in inserted] == [("main", "skipped", 0, {})]
    assert {run.trigger for run in catalog.runs(kind="backup")} == {"schedule"}


def test_the_newest_of_each_name_and_exact_instants(catalog: Catalog) -> None:
    catalog.enqueue_all(
        catalog.draft(
            *name, START + hours * HOUR, trigger="manual" if hours == 3 else "schedule", skipped="x" * (hours % 2)
        )
        for name in NAMES[:3]
        for hours in range(4)
    )
    asked = [*NAMES[:3], ("backup", "unknown")]

    def hours(**how: object) -> set[tuple[str, float]]:
        return {(name, (run.scheduled - START) / HOUR) for (_, name), run in catalog.newest(asked, **how).items()}

    three = [name for _, name in NAMES[:3]]
    assert hours() == {(name, 3) for name in three}
    assert hours(until=START + HOUR) == {(name, 1) for name in three}
    assert hours(triggers=("schedule",)) == {(name, 2) for name in three}
    assert hours(triggers=("schedule",), skipped=False, until=START + HOUR) == {(name, 0) for name in three}
    assert catalog.newest([]) == {}
    found = catalog.at(
        [("backup", "job1", START + HOUR), ("backup", "job1", START + 9 * HOUR), ("check", "job1", START)]
    )
    assert list(found) == [("backup", "job1", START + HOUR)]


def test_a_run_that_is_taken_over_belongs_to_nobody_until_it_is_claimed_again(catalog: Catalog) -> None:
    run = catalog.enqueue("backup", "site", START, trigger="schedule")
    assert run is not None
    first = catalog.claim(run.id, "one")
    assert first is not None
    taken = catalog.take_over(run.id, first.epoch, message="one is silent", options={"taken_over": 1})
    assert taken is not None
    assert (taken.state, taken.epoch, taken.worker, taken.started) == ("queued", first.epoch + 1, "", None)
    assert catalog.take_over(run.id, first.epoch, message="again", options={}) is None
    for zombie in (
        lambda: catalog.heartbeat(run.id, first.epoch),
        lambda: catalog.guard(run.id, first.epoch),
        lambda: catalog.finish(run.id, first.epoch, "complete", exit_code=0),
    ):
        with pytest.raises(FencedError):
            zombie()
    second = catalog.claim(run.id, "two")
    assert second is not None
    assert (second.epoch, second.worker, second.options) == (first.epoch + 2, "two", {"taken_over": 1})
    with pytest.raises(FencedError):
        catalog.finish(run.id, first.epoch, "complete", exit_code=0)
    assert catalog.finish(run.id, second.epoch, "complete", exit_code=0).state == "complete"
