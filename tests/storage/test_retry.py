from __future__ import annotations

from datetime import UTC, datetime

import pytest

from backupctl.clock import FakeClock
from backupctl.errors import Corrupt, Denied, Exists, Full, NotFound, Transient, UnreachableError
from backupctl.storage.memory import MemoryStore
from backupctl.storage.retry import RetryingStore
from tests.faults.faulty_store import FaultyStore


class RecordingClock(FakeClock):
    def __init__(self, start: datetime) -> None:
        super().__init__(start)
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        super().sleep(seconds)


class Bench:
    """A store that retries, around one that goes wrong, on a clock that remembers how long it slept."""

    def __init__(self, **settings: float) -> None:
        self.clock = RecordingClock(datetime(2026, 11, 22, tzinfo=UTC))
        self.sleeps = self.clock.sleeps
        self.inner = MemoryStore(clock=self.clock)
        self.faulty = FaultyStore(self.inner)
        self.store = RetryingStore(self.faulty, self.clock, **{"seed": 7, **settings})


@pytest.fixture
def bench() -> Bench:
    return Bench()


LOST = Transient("connection lost")


def test_a_transient_failure_is_repeated(bench: Bench) -> None:
    bench.inner.put("a", b"1")
    for kind, call in (
        ("put", lambda: bench.store.put("b", b"2")),
        ("get", lambda: bench.store.get("a")),
        ("stat", lambda: bench.store.stat("a")),
        ("list", lambda: list(bench.store.list())),
        ("delete", lambda: bench.store.delete("b")),
        ("retain", lambda: bench.store.retain("a", bench.clock.now())),
    ):
        bench.faulty.fail(kind, 1, LOST, times=2)
        before = bench.faulty.count(kind)
        call()
        assert bench.faulty.count(kind) == before + 3, kind


def test_waits_grow_and_are_jittered_within_bounds(bench: Bench) -> None:
    bench.faulty.fail("any", 1, LOST, times=None)
    with pytest.raises(UnreachableError):
        bench.store.get("a")
    assert len(bench.sleeps) == 5
    for slept, full in zip(bench.sleeps, (0.5, 1, 2, 4, 8), strict=True):
        assert full / 2 <= slept <= full
    assert len({slept / full for slept, full in zip(bench.sleeps, (0.5, 1, 2, 4, 8), strict=True)}) == 5


def test_the_same_seed_waits_the_same() -> None:
    runs = []
    for _ in range(2):
        bench = Bench()
        bench.faulty.fail("any", 1, LOST, times=None)
        with pytest.raises(UnreachableError):
            bench.store.get("a")
        runs.append(bench.sleeps)
    assert runs[0] == runs[1]


def test_giving_up_names_store_object_and_next_step(bench: Bench) -> None:
    bench.faulty.fail("put", 1, LOST, times=None)
    with pytest.raises(UnreachableError) as caught:
        bench.store.put("data/ab/cd", b"x")
    assert caught.value.exit_code == 14
    assert caught.value.message == "cannot write data/ab/cd in memory: gave up after 6 attempts: connection lost"
    assert caught.value.next_step


def test_the_total_time_is_bounded() -> None:
    bench = Bench(attempts=1000, total_seconds=60)
    bench.faulty.fail("get", 1, LOST, times=None)
    with pytest.raises(UnreachableError):
        bench.store.get("a")
    assert 20 < sum(bench.sleeps) <= 60


@pytest.mark.parametrize("error", [Denied("no"), Full("full"), NotFound("none"), Exists("there")])
def test_nothing_else_is_repeated(bench: Bench, error: Exception) -> None:
    bench.faulty.fail("put", 1, error, times=None)
    with pytest.raises(type(error)):
        bench.store.put("a", b"1")
    assert bench.faulty.count("put") == 1
    assert bench.sleeps == []


def test_a_corrupt_answer_is_asked_for_once_more(bench: Bench) -> None:
    bench.inner.put("a", b"123")
    bench.faulty.fail("get", 1, Corrupt("short"))
    assert bench.store.get("a") == b"123"
    bench.faulty.fail("get", 1, Corrupt("short"), times=None)
    before = bench.faulty.count("get")
    with pytest.raises(Corrupt):
        bench.store.get("a")
    assert bench.faulty.count("get") == before + 2


def test_our_own_lost_success_is_not_somebody_elses(bench: Bench) -> None:
    bench.faulty.fail("put", 1, LOST, after=True)
    bench.store.put("config", b"mine", if_absent=True)
    assert bench.inner.get("config") == b"mine"


def test_somebody_else_between_two_tries_still_exists(bench: Bench) -> None:
    bench.faulty.fail("put", 1, LOST)
    bench.faulty.at("put", 1, lambda: bench.inner.put("config", b"theirs"), times=None)
    with pytest.raises(Exists):
        bench.store.put("config", b"mine", if_absent=True)
    assert bench.inner.get("config") == b"theirs"


def test_the_same_bytes_without_a_failure_exist(bench: Bench) -> None:
    bench.store.put("config", b"same", if_absent=True)
    with pytest.raises(Exists):
        bench.store.put("config", b"same", if_absent=True)


def test_a_listing_goes_on_where_it_broke(bench: Bench) -> None:
    names = [f"index/{number:02}" for number in range(20)]
    for name in names:
        bench.inner.put(name, b"")
    seen = []
    for info in bench.store.list("index/"):
        seen.append(info.name)
        if len(seen) == 7:
            bench.inner.delete("index/03")  # already given out: makes no difference
    assert seen == names
    bench.faulty.fail("list", 1, LOST, after=True)  # after the last name, before the end
    remaining = [name for name in names if name != "index/03"]
    assert [info.name for info in bench.store.list("index/")] == remaining


def test_a_listing_that_never_ends_well_is_unreachable(bench: Bench) -> None:
    bench.inner.put("index/1", b"")
    bench.faulty.fail("list", 1, LOST, times=None, after=True)
    listing = bench.store.list("index/")
    assert next(listing).name == "index/1"
    with pytest.raises(UnreachableError, match="list index/"):
        next(listing)
