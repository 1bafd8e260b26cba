"""A limit is a limit: measured over megabytes by the injected clock, on real stores."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from backupctl.clock import FakeClock
from backupctl.errors import Transient
from backupctl.storage.limits import LimitOptions
from backupctl.storage.local import LocalStore
from backupctl.storage.memory import MemoryStore
from backupctl.storage.retry import RetryingStore
from backupctl.storage.throttle import Throttle, ThrottledStore
from tests.faults.faulty_store import FaultyStore

if TYPE_CHECKING:
    from backupctl.storage.s3 import S3Store

SUNDAY = datetime(2026, 11, 22, 3, 0, 17, 250_000, tzinfo=UTC)
MIB = 1 << 20
OFFICE = {"days": "mon-fri", "from": "08:00", "to": "18:00", "upload": "1MiB/s"}


class WaitingClock(FakeClock):
    """Sleepers are woken in the order in which their time comes, as in the world: time goes on only when all threads
    that take part sleep."""

    def __init__(self, start: datetime, threads: int) -> None:
        super().__init__(start)
        self._threads = threads
        self._sleeping: list[float] = []
        self._turn = threading.Condition()

    def sleep(self, seconds: float) -> None:
        with self._turn:
            due = self.monotonic() + seconds
            self._sleeping.append(due)
            self._advance()
            while self.monotonic() < due - 1e-12:
                self._turn.wait(10)
            self._sleeping.remove(due)

    def done(self) -> None:
        with self._turn:
            self._threads -= 1
            self._advance()

    def _advance(self) -> None:
        late = [due for due in self._sleeping if due > self.monotonic()]
        if late and len(late) >= self._threads:
            self.advance(min(late) - self.monotonic())
            self._turn.notify_all()


def limits(**options: Any) -> LimitOptions:
    return LimitOptions(**options)


def throttled(store: Any, clock: FakeClock, timezone: str = "UTC", **options: Any) -> ThrottledStore:
    return ThrottledStore(store, Throttle(limits(**options), clock, timezone=timezone))


def seconds_for(clock: FakeClock, step: Any) -> float:
    start = clock.monotonic()
    step()
    return clock.monotonic() - start


def test_achieved_rates_on_a_disk(tmp_path: Path) -> None:
    clock = FakeClock(SUNDAY)
    store = throttled(LocalStore(tmp_path / "store", create=True), clock, upload="2MiB/s", download="8MiB/s")
    sizes = [random.Random(n).randrange(MIB) for n in range(32)]
    total = sum(sizes)

    def write() -> None:
        for n, size in enumerate(sizes):
            store.put(f"data/{n}", bytes(size))

    def read() -> None:
        for n, size in enumerate(sizes):
            assert len(store.get(f"data/{n}")) == size

    assert total / seconds_for(clock, write) == pytest.approx(2 * MIB, rel=0.05)
    assert total / seconds_for(clock, read) == pytest.approx(8 * MIB, rel=0.05)
    assert seconds_for(clock, lambda: store.get("data/1", offset=10, length=100)) < 0.01
    store.close()


def test_an_object_beyond_a_seconds_worth_only_takes_longer() -> None:
    clock = FakeClock(SUNDAY)
    store = throttled(MemoryStore(), clock, upload="64KiB/s")
    assert seconds_for(clock, lambda: store.put("data/big", bytes(6 * MIB))) == pytest.approx(96, rel=0.01)


def test_requests_are_counted_and_pages_of_a_listing_too() -> None:
    clock = FakeClock(SUNDAY)
    inner = MemoryStore()
    for n in range(2500):
        inner.put(f"data/{n}", b"")
    store = throttled(inner, clock, requests="10/s")

    def call() -> None:
        for _ in range(20):
            store.stat("data/1")
            store.get("data/1")
            store.put("data/x", b"1")
            store.delete("data/x")
            assert len(list(store.list("data/"))) == 2500

    assert 140 / seconds_for(clock, call) == pytest.approx(10, rel=0.05)


def test_locks_never_wait() -> None:
    """A lock that waited behind a big pack could grow stale."""
    clock = FakeClock(SUNDAY)
    store = throttled(MemoryStore(), clock, upload="64KiB/s", download="64KiB/s", requests="6/min")
    store.put("data/big", bytes(MIB))

    def lock() -> None:
        for n in range(100):
            store.put(f"locks/{n}", bytes(300))
            store.get(f"locks/{n}")
            store.delete(f"locks/{n}")
            list(store.list("locks/"))

    assert seconds_for(clock, lock) == 0


def test_threads_share_one_limit_and_take_turns() -> None:
    """One sends big objects, three send small ones: together no more than the limit, and nobody starves."""
    clock = WaitingClock(SUNDAY, threads=4)
    store = throttled(MemoryStore(), clock, upload="1MiB/s")
    ended: dict[str, list[float]] = {}

    def send(name: str, size: int) -> None:
        times = ended.setdefault(name, [])
        for n in range(8):
            store.put(f"data/{name}-{n}", bytes(size))
            times.append(clock.monotonic())
        clock.done()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(send, "big", 4 * MIB), *(pool.submit(send, f"s{n}", MIB // 8) for n in range(3))]:
            done.result(timeout=30)
    total = 8 * 4 * MIB + 3 * MIB
    assert total / clock.monotonic() == pytest.approx(MIB, rel=0.05)
    for name in ("s0", "s1", "s2"):
        gaps = [later - earlier for earlier, later in zip(ended[name], ended[name][1:], strict=False)]
        assert max(gaps) < 4.6, "waits for one object of each of the others, never for two of the big one"


def test_idle_time_saves_up_next_to_nothing() -> None:
    clock = FakeClock(SUNDAY)
    store = throttled(MemoryStore(), clock, upload="1MiB/s")
    store.put("data/a", bytes(MIB))
    clock.advance(100_000)
    assert seconds_for(clock, lambda: store.put("data/b", bytes(MIB))) == pytest.approx(0.95, abs=0.01)


def test_the_rate_changes_while_something_waits() -> None:
    """07:59:50 on a Monday, 64 MiB at 4 MiB/s: 40 MiB until eight, the rest at 1 MiB/s; and the other way at 18:00."""
    zone = "Asia/Taipei"
    morning = datetime(2026, 11, 23, 7, 59, 50, tzinfo=ZoneInfo(zone))
    clock = FakeClock(morning)
    store = throttled(MemoryStore(), clock, zone, upload="4MiB/s", windows=[OFFICE])
    assert seconds_for(clock, lambda: store.put("data/a", bytes(64 * MIB))) == pytest.approx(10 + 24, abs=0.1)
    clock = FakeClock(morning.replace(hour=17))
    store = throttled(MemoryStore(), clock, zone, upload="unlimited", windows=[OFFICE])
    assert seconds_for(clock, lambda: store.put("data/a", bytes(64 * MIB))) == pytest.approx(10, abs=0.1)
    assert seconds_for(clock, lambda: store.put("data/b", bytes(64 * MIB))) == 0, "no limit, no debt"


def test_what_was_sent_without_a_limit_is_not_paid_for_later() -> None:
    clock = FakeClock(datetime(2026, 11, 23, 7, 59, 59, tzinfo=UTC))
    store = throttled(MemoryStore(), clock, windows=[OFFICE])
    store.put("data/a", bytes(64 * MIB))
    clock.advance(1)
    assert seconds_for(clock, lambda: store.put("data/b", bytes(MIB))) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(
    ("zone", "local", "limited"),
    [
        # 25 October 2026, 02:30 twice: at the first, 02:00–03:00 has begun; it lasts two hours of real time
        ("Europe/Berlin", "2026-10-25T00:29:00+00:00", True),
        ("Europe/Berlin", "2026-10-25T01:30:00+00:00", True),
        ("Europe/Berlin", "2026-10-25T01:59:59+00:00", True),
        ("Europe/Berlin", "2026-10-25T02:00:00+00:00", False),
        ("Europe/Berlin", "2026-10-24T23:59:59+00:00", False),
        # 29 March 2026: there is no 02:00–03:00 at all
        ("Europe/Berlin", "2026-03-29T00:59:59+00:00", False),
        ("Europe/Berlin", "2026-03-29T01:00:00+00:00", False),
    ],
)
def test_days_on_which_clocks_change(zone: str, local: str, limited: bool) -> None:
    options = limits(windows=[{"from": "02:00", "to": "03:00", "upload": "1MiB/s"}])
    assert (options.rates(datetime.fromisoformat(local), zone)["upload"] == MIB) is limited


def test_two_hours_of_limit_where_the_clock_goes_back() -> None:
    """From 01:59:00 on: a minute free, then the window, which that night lasts 7200 s; then free again."""
    clock = FakeClock(datetime(2026, 10, 24, 23, 59, tzinfo=UTC))
    window = {"from": "02:00", "to": "03:00", "upload": "64KiB/s"}
    store = throttled(MemoryStore(), clock, "Europe/Berlin", windows=[window])
    clock.advance(60)
    sent = 0
    while clock.now() < datetime(2026, 10, 25, 1, 59, tzinfo=UTC):
        store.put("data/a", bytes(8 * MIB))
        sent += 8 * MIB
    assert sent / clock.monotonic() == pytest.approx(64 << 10, rel=0.02)
    assert seconds_for(clock, lambda: store.put("data/a", bytes(64 * MIB))) <= 60 + 1


def test_windows_over_midnight_belong_to_the_day_they_begin_on() -> None:
    options = limits(windows=[{"days": "fri", "from": "22:00", "to": "06:00", "upload": "1MiB/s"}])
    friday = datetime(2026, 11, 20, tzinfo=UTC)
    for hours, limited in (
        (5, False),
        (22, True),
        (29, True),
        (30, False),
        (46, False),
        (-2 + 24 * 7, False),
        (22 + 24 * 7, True),
    ):
        assert (options.rates(friday + timedelta(hours=hours), "UTC")["upload"] == MIB) is limited, hours


def test_the_first_window_that_fits_counts_and_leaves_alone_what_it_does_not_name() -> None:
    options = limits(
        upload="8MiB/s", requests="50/s", windows=[OFFICE, {**OFFICE, "upload": "2MiB/s", "days": "daily"}]
    )
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert options.rates(noon, "UTC") == {"upload": MIB, "download": float("inf"), "requests": 50}
    assert options.rates(noon - timedelta(days=1), "UTC")["upload"] == 2 * MIB
    assert options.rates(noon + timedelta(hours=6), "UTC")["upload"] == 8 * MIB


def test_what_is_sent_again_is_paid_again() -> None:
    clock = FakeClock(SUNDAY)
    faulty = FaultyStore(MemoryStore())
    faulty.fail("put", 1, Transient("connection lost"), times=2)
    store = RetryingStore(throttled(faulty, clock, upload="1MiB/s"), clock, first_delay_seconds=0.001, seed=1)
    assert seconds_for(clock, lambda: store.put("data/a", bytes(2 * MIB))) == pytest.approx(6, abs=0.3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"upload": "5"}, "write a rate"),
        ({"upload": "1KiB/s"}, "at least 64KiB/s"),
        ({"upload": 3}, "write a rate"),
        ({"requests": "0/s"}, "write a rate"),
        ({"requests": "10"}, "write a rate"),
        ({"windows": [{"from": "08:00", "to": "18:00"}]}, "changes nothing"),
        ({"windows": [{**OFFICE, "days": "mon-fry"}]}, "write days"),
        ({"windows": [{**OFFICE, "from": "8 am"}]}, "pattern"),
        ({"windows": [{**OFFICE, "from": "24:00"}]}, "cannot begin"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        limits(**options)


def test_rates_are_shown_as_they_are_written() -> None:
    options = limits(
        upload="20MiB/s", download="100Mbit/s", requests="90/min", windows=[{**OFFICE, "upload": "unlimited"}]
    )
    shown = options.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert shown == {
        "upload": "20MiB/s",
        "download": "100000kbit/s",
        "requests": "90/min",
        "windows": [{"days": "mon-fri", "from": "08:00", "to": "18:00", "upload": "unlimited"}],
    }


@pytest.mark.servers
def test_s3_paces_the_bytes_themselves(s3_throttled_store: S3Store) -> None:
    """1 MiB/s up, 2 MiB/s down, over TLS; what is small does not wait."""
    store = s3_throttled_store
    clock = store._clock
    assert isinstance(clock, FakeClock)
    data = random.Random(5).randbytes(5 * MIB)
    assert seconds_for(clock, lambda: store.put("data/a", data)) == pytest.approx(5, rel=0.05)
    assert seconds_for(clock, lambda: store.put("data/b", data, if_absent=True)) == pytest.approx(5, rel=0.05)
    assert seconds_for(clock, lambda: store.get("data/a")) == pytest.approx(2.5, rel=0.05)
    assert store.get("data/b") == data
    assert store.get("data/b", offset=3, length=2 * MIB) == data[3 : 3 + 2 * MIB]
    assert seconds_for(clock, lambda: store.put("locks/a", bytes(300))) == 0
