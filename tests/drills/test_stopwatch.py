from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backupctl.clock import FakeClock
from backupctl.drills.model import Phase
from backupctl.drills.stopwatch import Stopwatch, rpo_seconds

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_recovery_time_counts_from_the_declaration_and_leaves_out_cleaning_up() -> None:
    clock = FakeClock(NOON)
    clock.advance(10)
    watch = Stopwatch(clock, NOON, [Phase("open repository", 4.0)])
    with watch.phase("boot"):
        clock.advance(3)
    with watch.phase("load"):
        clock.advance(20)
    with watch.phase("boot"):
        clock.advance(2)
    watch.validated()
    with watch.phase("clean up"):
        clock.advance(100)
    assert watch.rto_seconds == pytest.approx(35)
    assert watch.phases == [
        Phase("decide", 6.0),
        Phase("open repository", 4.0),
        Phase("boot", 5.0),
        Phase("load", 20.0),
        Phase("clean up", 100.0),
    ]


def test_a_phase_that_fails_is_timed_too_and_service_is_not_validated() -> None:
    clock = FakeClock(NOON)
    watch = Stopwatch(clock, NOON)

    def fail() -> None:
        with watch.phase("load"):
            clock.advance(7)
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()
    assert watch.phases[-1] == Phase("load", 7.0)
    assert watch.rto_seconds is None


def test_a_declaration_in_the_future_does_not_shorten_the_recovery() -> None:
    clock = FakeClock(NOON)
    watch = Stopwatch(clock, NOON + timedelta(hours=1), [Phase("open repository", 4.0)])
    watch.validated()
    assert watch.rto_seconds == 4.0


def test_the_source_that_lost_most_sets_the_recovery_point() -> None:
    assert rpo_seconds(NOON, [NOON - timedelta(hours=1), NOON - timedelta(hours=8)]) == 8 * 3600


def test_one_source_that_is_not_proven_leaves_no_recovery_point() -> None:
    assert rpo_seconds(NOON, [NOON - timedelta(hours=1), None]) is None
    assert rpo_seconds(NOON, []) is None


def test_a_view_opened_after_the_declaration_lost_nothing() -> None:
    assert rpo_seconds(NOON, [NOON + timedelta(seconds=2)]) == 0
