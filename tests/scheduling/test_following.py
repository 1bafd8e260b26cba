"""Retries after what may pass, and the steps after a backup: once each, in order, whoever looks and however often."""

from __future__ import annotations

import contextlib
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupctl.catalog.database import FencedError
from backupctl.catalog.models import Run
from backupctl.errors import (
    ConfigError,
    DamageError,
    Denied,
    Full,
    InterruptedRunError,
    LockedError,
    LoginRefused,
    NoSuchError,
    SourceError,
    StoreUnreachableError,
    Transient,
    UnreachableError,
    UsageError,
    UserError,
    WrongKeyError,
)
from backupctl.scheduling.following import chain
from tests.scheduling.night import NIGHTLY, Ending, Night, configuration

RETRYING = NIGHTLY + ", retries: {times: 3, wait: 10m, longest: 25m}"
UNREACHABLE = Ending("failed", 14, transient=True)
ALL_STEPS = "copies: [vault]\n    retention: {keep_daily: 7}\n    drills: {full: {on: staging}}"
CHAIN = ["backup site", "check main", "prune site", "copy site", "drill site/full"]
DUE = datetime(2026, 11, 21, 2, 15, tzinfo=UTC)


def night(place: Path, schedule: str = RETRYING, *, each: str = "", **endings: list[Ending]) -> Night:
    made = Night(configuration(place, {"site": schedule}, each=each), place)
    made.endings = {name.replace("_", " "): list(all_) for name, all_ in endings.items()}
    made.look()  # first sight
    return made


def chained(place: Path, **endings: list[Ending]) -> Night:
    return night(place, NIGHTLY + ", then: [check, prune, copy, drill]", each=ALL_STEPS, **endings)


@pytest.mark.parametrize("error", [UnreachableError, StoreUnreachableError, LockedError, Transient])
def test_what_may_pass(error: type[UserError]) -> None:
    assert error("x").transient


LASTING = [WrongKeyError, UsageError, ConfigError, NoSuchError, Denied, LoginRefused, Full, SourceError, UserError]


@pytest.mark.parametrize("error", [*LASTING, InterruptedRunError, FencedError])
def test_what_does_not_pass(error: type[UserError]) -> None:
    assert not error("x").transient
    assert not DamageError("x", name="y").transient


def test_a_retry_waits_longer_each_time_up_to_the_longest_and_ends(tmp_path: Path) -> None:
    made = night(tmp_path, backup_site=[UNREACHABLE] * 9)
    assert made.at(DUE) == ["backup site"]
    for _ in range(8 * 60):
        made.look(60)
    starts = [run.started for run in reversed(made.catalog.runs(kind="backup", name="site")) if run.started]
    waits = [(later - earlier) / timedelta(minutes=1) for earlier, later in itertools.pairwise(starts)]
    assert [trigger for _, trigger, _ in made.rows()] == ["schedule", "retry", "retry", "retry"]
    for waited, wanted in zip(waits, (10, 20, 25), strict=True):
        assert wanted <= waited <= wanted * 1.1 + 1, "the wait, up to a tenth more, seen at the next minute"


def test_a_retry_that_succeeds_ends_it(tmp_path: Path) -> None:
    made = night(tmp_path, backup_site=[UNREACHABLE])
    made.at(DUE)
    assert made.look(5 * 60) == [], "not before its time"
    assert made.look(7 * 60) == ["backup site"]
    assert [made.look(3600) for _ in range(3)] == [[], [], []]
    assert [state for _, _, state in made.rows()] == ["failed", "complete"]


@pytest.mark.parametrize(
    "ending",
    [Ending("failed", 12), Ending("failed", 4), Ending("failed", 2), Ending("failed", 1), Ending("cancelled", 130)],
)
def test_what_does_not_pass_is_not_tried_again(tmp_path: Path, ending: Ending) -> None:
    made = night(tmp_path, backup_site=[ending])
    made.at(DUE)
    assert [made.look(3600) for _ in range(5)] == [[]] * 5


def test_a_killed_run_and_one_that_lacks_an_unreachable_source_are_tried_again(tmp_path: Path) -> None:
    made = night(tmp_path, backup_site=[Ending(killed=True), Ending("incomplete", 3, transient=True)])
    made.at(DUE)
    assert made.look(3600) == ["backup site"]
    assert made.look(3600) == ["backup site"]
    assert [state for _, _, state in made.rows()] == ["failed", "incomplete", "complete"]


def test_without_retries_nothing_is_tried_again(tmp_path: Path) -> None:
    made = night(tmp_path, NIGHTLY, backup_site=[UNREACHABLE])
    made.at(DUE)
    assert [made.look(3600) for _ in range(5)] == [[]] * 5


def test_two_looks_at_once_make_one_retry(tmp_path: Path) -> None:
    made = night(tmp_path, backup_site=[UNREACHABLE])
    made.at(DUE)
    made.clock.advance(3600)
    job = made.settings.jobs["site"]
    first = chain(made.catalog, made.settings, job, made.clock.now()).next
    second = chain(made.catalog, made.settings, job, made.clock.now()).next
    assert first is not None and first == second
    inserted = [made.catalog.enqueue(one.kind, one.name, one.scheduled, trigger=one.trigger) for one in (first, second)]
    assert [run is not None for run in inserted] == [True, False]


def test_the_next_night_ends_the_retries_of_the_last(tmp_path: Path) -> None:
    made = night(tmp_path, NIGHTLY + ", retries: {times: 9, wait: 10h, longest: 30h}", backup_site=[UNREACHABLE])
    made.at(DUE)
    assert made.at(DUE + timedelta(days=1)) == ["backup site"], "its retry was due too, and is not wanted any more"
    assert made.look(36_000) == []
    assert [one[1:] for one in made.rows()] == [("schedule", "failed"), ("schedule", "complete")]


def test_backup_check_retention_copy_drill(tmp_path: Path) -> None:
    made = chained(tmp_path)
    assert made.at(DUE) == CHAIN
    assert [made.look(60) for _ in range(3)] == [[], [], []]
    assert made.at(DUE + timedelta(days=1)) == CHAIN
    (drill,) = made.catalog.runs(kind="drill", since=DUE + timedelta(days=1))
    (copy,) = made.catalog.runs(kind="copy", since=DUE + timedelta(days=1))
    assert drill.trigger == "after" and drill.options == {"job": "site", "after": copy.id}


def test_standbys_are_refreshed_after_a_backup_and_wait_for_another_refresh(tmp_path: Path) -> None:
    more = "standby: {warm: {host: local, jobs: [site], directory: warm}}"
    schedule = RETRYING + ", then: [refresh]"
    made = Night(configuration(tmp_path, {"site": schedule}, more=more), tmp_path)
    made.endings = {"refresh site": [Ending("failed", 11, transient=True)]}
    made.look()
    assert made.at(DUE) == ["backup site", "refresh site"]
    assert made.look(12 * 60) == ["refresh site"]
    assert made.look(3600) == []


@pytest.mark.parametrize("looks", [1, 2, 3, 4, 5])
def test_a_chain_goes_on_where_it_was_when_the_scheduler_ends_in_the_middle(tmp_path: Path, looks: int) -> None:
    """Each run by a scheduler of its own that is gone afterwards, an hour in between."""
    made = chained(tmp_path)
    made.clock._now = DUE
    real = made.launch

    def launch_one(service_ends_after: list[bool]) -> list[str]:
        before = len(made.started)

        def once(run: Run) -> int:
            if service_ends_after:
                raise KeyboardInterrupt
            service_ends_after.append(True)
            return real(run)

        service = made.restarted()
        service._launch = once
        with contextlib.suppress(KeyboardInterrupt):
            service.run_due()
        return made.started[before:]

    for number in range(looks):
        assert launch_one([]) == [CHAIN[number]]
        made.clock.advance(3600)
    assert made.look() == CHAIN[looks:]


@pytest.mark.parametrize(
    ("step", "ending", "went"),
    [
        ("backup_site", Ending("failed", 1), 1),
        ("backup_site", Ending("incomplete", 3), 1),
        ("backup_site", Ending("complete", 3), 5),  # with warnings
        ("check_main", Ending("complete", 4, verdict="fail"), 2),
        ("check_main", Ending("failed", 14), 2),
        ("prune_site", Ending("failed", 11), 3),
        ("copy_site", Ending("incomplete", 4), 4),
    ],
)
def test_what_ends_badly_ends_the_chain_and_is_seen(tmp_path: Path, step: str, ending: Ending, went: int) -> None:
    made = chained(tmp_path, **{step: [ending]})
    assert made.at(DUE) == CHAIN[:went]
    assert [made.look(600) for _ in range(3)] == [[], [], []]
    broken = [one for one in made.told if one.what == "broken"]
    assert bool(broken) == (went < 5)
    if broken:
        assert broken[-1].message.startswith(CHAIN[went]), broken[-1].message
    made.endings.clear()
    assert made.at(DUE + timedelta(days=1)) == CHAIN, "the next night begins anew"


def test_a_drill_that_fails_leaves_the_other_drill_its_turn(tmp_path: Path) -> None:
    drills = "drills: {one: {on: staging}, two: {on: staging}, third: {on: staging, cron: '0 0 1 1 *'}}"
    made = night(tmp_path, NIGHTLY + ", then: [drill]", each=drills)
    made.endings = {"drill site/one": [Ending("complete", 4, verdict="fail")]}
    assert made.at(DUE) == ["backup site", "drill site/one", "drill site/two"]


def test_a_step_is_retried_and_the_chain_goes_on_after_it(tmp_path: Path) -> None:
    made = night(tmp_path, RETRYING + ", then: [check, prune]", each="retention: {keep_daily: 7}")
    made.endings = {"check main": [UNREACHABLE]}
    assert made.at(DUE) == ["backup site", "check main"]
    assert made.look(60) == []
    assert made.look(3600) == ["check main", "prune site"]


def test_a_backup_by_hand_is_followed_by_nothing(tmp_path: Path) -> None:
    made = chained(tmp_path)
    made.clock.advance(60)
    run = made.catalog.enqueue("backup", "site", made.clock.now(), trigger="manual")
    assert run is not None
    made.launch(run)
    assert made.look(60) == []
