"""`--at`: latest, an instant on somebody's wall clock, or an id, against a repository of known snapshots."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backupctl.cli.words import local
from backupctl.errors import NoSuchError, UsageError, UserError
from backupctl.operations.context import Context
from backupctl.operations.records import SnapshotTags
from backupctl.operations.select import parse_time, select_snapshot
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository

ZONE = "Asia/Taipei"


def snapshot(number: int, time: str, *, complete: bool = True) -> Snapshot:
    tags = SnapshotTags(ours=True, job="site", run=str(number), complete=complete).encode()
    return Snapshot(
        time=datetime.fromisoformat(time).astimezone(UTC), tree=bytes(32), tags=tags, id=f"{number:08x}" * 8
    )


EVERY = [
    snapshot(1, "2026-11-18T18:15:00.250000+00:00"),
    snapshot(2, "2026-11-19T18:15:07.764303+00:00"),
    snapshot(3, "2026-11-20T18:15:00+00:00", complete=False),
]


class Told:
    """A context and a repository that are only what selection asks of them."""

    def __init__(self, every: list[Snapshot] = EVERY) -> None:
        self.every = every
        self.warnings: list[str] = []

    def event(self, kind: str, message: str, /, **fields: Any) -> None:
        self.warnings.append(message)

    def snapshots(self) -> list[Snapshot]:
        return self.every

    def load_snapshot(self, word: str) -> Snapshot:
        return next(one for one in self.every if one.id.startswith(word))

    def choose(self, at: str, job: str | None = "site") -> Snapshot:
        context = cast(Context, SimpleNamespace(reporter=self))
        return select_snapshot(context, cast(Repository, self), job, at, ZONE)


def test_latest_is_the_newest_complete_one_and_newer_incomplete_ones_are_told() -> None:
    told = Told()
    assert told.choose("latest") is EVERY[1]
    (warning,) = told.warnings
    assert "1 newer snapshot(s) of site are incomplete" in warning


@pytest.mark.parametrize(
    ("at", "chosen"),
    [
        ("2026-11-19", 0),
        ("2026-11-20", 1),
        ("20261120", 1),
        ("2026-11-20 02:15", 0),
        ("2026-11-20 02:15:07", 1),
        ("2026-11-20T02:15:07.7+08:00", 0),
        ("2026-11-19T18:15:07Z", 1),
        ("2026-11-19 18:15:07 UTC", 1),
        ("2026-11-20 02:15:07 +08:00", 1),
        ("  2026-11-20  ", 1),
        ("2030-01-01", 1),
    ],
)
def test_a_time_takes_the_newest_complete_one_at_or_before_it(at: str, chosen: int) -> None:
    assert Told().choose(at) is EVERY[chosen]


@pytest.mark.parametrize("zone", [ZONE, "UTC", "America/St_Johns"])
def test_the_time_that_a_list_shows_finds_the_snapshot_it_was_shown_for(zone: str) -> None:
    for one in EVERY[:2]:
        assert Told().choose(local(one.time, zone)) is one


def test_an_id_takes_that_snapshot_complete_or_not() -> None:
    assert Told().choose("00000003") is EVERY[2]
    assert Told().choose("00000003", None) is EVERY[2]


@pytest.mark.parametrize("at", ["yesterday", "2026", "2026-13-01", "03:00", "last", "2026-11-20 25:00", ""])
def test_other_words_are_refused_with_an_example(at: str) -> None:
    with pytest.raises(UsageError) as caught:
        Told().choose(at)
    assert "2026-11-20 03:00" in caught.value.next_step


@pytest.mark.parametrize(
    ("every", "at", "words"),
    [
        (EVERY, "2026-11-01", "at or before 2026-11-01 23:59:59 Asia/Taipei; the oldest is of 2026-11-19 02:15:00"),
        ([], "latest", "has no snapshot in this repository"),
        (EVERY[2:], "latest", "1 snapshot(s), all incomplete"),
    ],
)
def test_what_is_not_there_tells_what_there_is(every: list[Snapshot], at: str, words: str) -> None:
    with pytest.raises(NoSuchError) as caught:
        Told(every).choose(at)
    assert words in caught.value.message
    assert caught.value.next_step


def test_a_time_without_a_job_is_refused() -> None:
    with pytest.raises(UserError, match="needs a job"):
        Told().choose("latest", None)


def test_a_day_means_its_end_on_the_wall_clock_of_the_zone() -> None:
    end = parse_time("2026-11-20", ZONE)
    assert end + timedelta(microseconds=1) == datetime(2026, 11, 20, 16, tzinfo=UTC)
