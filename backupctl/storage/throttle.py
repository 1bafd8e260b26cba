"""A store that is used no faster than it may be.

It stands inside the retries: what is sent again is paid for again. The repository's own locks never wait: a lock that
stood in a queue behind packs could grow stale.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial

from backupctl.clock import Clock
from backupctl.storage.limits import LimitOptions
from backupctl.storage.protocol import Inspection, ObjectInfo, ObjectStore, ProbeResult

BURST_SECONDS = 0.05  # of the rate, saved up while nothing was asked for: what a late wake-up costs
LISTED_PER_REQUEST = 1000  # the page of S3
NEVER_WAITS = "locks/"
SMALL_BYTES = 4096  # a lock is
PIECE_BYTES = 64 << 10


class Budget:
    """So much per second, at a rate that may change. Thread-safe; who asks first is served first."""

    def __init__(self, rate_at: Callable[[datetime], float], clock: Clock) -> None:
        """`rate_at` may change its answer only where a minute begins."""
        self._rate_at = rate_at
        self._clock = clock
        self._guard = threading.Lock()
        self._counted = clock.monotonic()  # until when `_granted` is counted
        self._granted = 0.0
        self._taken = 0.0

    def take(self, amount: float) -> None:
        """Return when `amount` has been granted. An amount beyond a second's worth only takes longer, and nobody who
        comes later gets ahead of it."""
        with self._guard:
            self._count()
            self._taken += amount
            mine = self._taken
        while (seconds := self._missing_seconds(mine)) > 0:
            self._clock.sleep(seconds)

    def _missing_seconds(self, mine: float) -> float:
        """How long to sleep before looking again: at most until the rate may change."""
        with self._guard:
            self._count()
            now = self._clock.now()
            rate = self._rate_at(now)
            if math.isinf(rate):
                self._granted = max(self._granted, self._taken)
            if self._granted >= mine:
                return 0.0
            # a microsecond more, or rounding could make it a long row of ever shorter sleeps
            return min((mine - self._granted) / rate + 1e-6, _next_minute(now) - now.timestamp())

    def _count(self) -> None:
        """Add what was granted since the last time, minute by minute."""
        until, now = self._clock.monotonic(), self._clock.now()
        if self._granted >= self._taken:  # of a time in which nobody waited only the end matters
            self._counted = max(self._counted, until - BURST_SECONDS)
        while self._counted < until:
            start = now - timedelta(seconds=until - self._counted)
            rate = self._rate_at(start)
            step = min(until - self._counted, max(_next_minute(start) - start.timestamp(), 1e-3))
            self._counted += step
            if math.isinf(rate):
                self._granted = max(self._granted, self._taken)
            else:
                most = max(self._granted, self._taken + rate * BURST_SECONDS)
                self._granted = min(self._granted + rate * step, most)


def _next_minute(instant: datetime) -> float:
    return (instant.timestamp() // 60 + 1) * 60


class Throttle:
    """The budgets of one store, shared by all threads of a process."""

    def __init__(self, options: LimitOptions, clock: Clock, *, timezone: str) -> None:
        self._options, self._timezone = options, timezone
        self._known: tuple[float, dict[str, float]] = (0.0, {})  # of the minute that ends then
        self.upload, self.download, self.requests = (
            Budget(partial(self._rate, name), clock) for name in ("upload", "download", "requests")
        )

    def _rate(self, name: str, instant: datetime) -> float:
        end = _next_minute(instant)
        known, rates = self._known
        if known != end:
            rates = self._options.rates(instant, self._timezone)
            self._known = end, rates
        return rates[name]


class PacedBody(io.BytesIO):
    """A body that is read no faster than the budget allows. One too small to matter never waits."""

    def __init__(self, data: bytes, budget: Budget) -> None:
        super().__init__(data)
        self._budget = budget if len(data) > SMALL_BYTES else None

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        if self._budget is not None:
            self._budget.take(len(piece))
        return piece


class ThrottledStore:
    """`paces_bytes` says that the store itself calls the throttle while bytes flow, and only requests are counted here.
    Otherwise an object waits for its whole size before it is sent, and after it came."""

    def __init__(self, store: ObjectStore, throttle: Throttle, *, paces_bytes: bool = False) -> None:
        self.location = store.location
        self._store = store
        self._throttle = throttle
        self._paces_bytes = paces_bytes

    def put(self, name: str, data: bytes, *, if_absent: bool = False) -> None:
        self._request(name)
        if not self._paces_bytes and not name.startswith(NEVER_WAITS):
            self._throttle.upload.take(len(data))
        self._store.put(name, data, if_absent=if_absent)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        self._request(name)
        data = self._store.get(name, offset=offset, length=length)
        if not self._paces_bytes and not name.startswith(NEVER_WAITS):
            self._throttle.download.take(len(data))
        return data

    def stat(self, name: str) -> ObjectInfo:
        self._request(name)
        return self._store.stat(name)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._request(prefix)
        for number, info in enumerate(self._store.list(prefix), start=1):
            yield info
            if number % LISTED_PER_REQUEST == 0:
                self._request(prefix)

    def delete(self, name: str) -> None:
        self._request(name)
        self._store.delete(name)

    def retain(self, name: str, until: datetime) -> None:
        self._request(name)
        self._store.retain(name, until)

    def locked_until(self, name: str) -> datetime | None:
        self._request(name)
        return self._store.locked_until(name)

    def inspect(self) -> Inspection:
        return self._store.inspect()

    def probe(self) -> ProbeResult:
        return self._store.probe()

    def close(self) -> None:
        self._store.close()

    def _request(self, name: str) -> None:
        if not name.startswith(NEVER_WAITS):
            self._throttle.requests.take(1)
