from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backupctl.clock import FakeClock
from backupctl.drills.estimate import estimate
from backupctl.drills.model import Instants, Phase
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


def test_each_step_is_reached_at_an_instant_since_the_declaration() -> None:
    clock = FakeClock(NOON)
    clock.advance(10)
    watch = Stopwatch(clock, NOON)
    for phase, seconds in (
        ("prepare sandbox", 1),
        ("boot", 2),
        ("load", 20),
        ("compare", 3),
        ("restore files", 4),
        ("compare", 5),
    ):
        with watch.phase(phase):
            clock.advance(seconds)
    clock.advance(6)  # probes
    watch.validated()
    assert watch.instants == Instants(t1=10.0, t2=11.0, t3=40.0, t4=45.0, t5=51.0)
    assert watch.instants.t5 == watch.rto_seconds


def test_what_set_the_stage_is_no_step_of_the_recovery() -> None:
    clock = FakeClock(NOON)
    watch = Stopwatch(clock, NOON)
    with watch.phase("restore files"):  # of the world that is to be attacked
        clock.advance(60)
    watch.strike()
    clock.advance(2)
    watch.decided()
    with watch.phase("restore files"):
        clock.advance(3)
    assert watch.instants == Instants(t1=2.0, t2=2.0, t3=5.0, t4=None, t5=None)


def test_the_estimate_grows_what_depends_on_size_and_is_none_where_nothing_was_measured() -> None:
    reached = Instants(t1=10.0, t2=20.0, t3=50.0, t4=60.0, t5=80.0)
    found = estimate(reached, 100, 1000, 0.5)
    assert found is not None
    assert (found.seconds, found.bytes, found.measured_bytes, found.scale) == (20.0 + 60.0 * 10 * 0.5, 1000, 100, 0.5)
    assert estimate(reached, 0, 1000, 1.0) is None
    assert estimate(Instants(t1=1.0), 100, 1000, 1.0) is None
