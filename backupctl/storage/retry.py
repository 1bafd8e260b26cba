"""The only place that tries again. Stores classify their errors; this decides."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, TypeVar

from backupctl.clock import Clock
from backupctl.errors import Corrupt, Exists, StoreUnreachableError, Transient
from backupctl.storage.drafts import Draft, draft_in
from backupctl.storage.nearby import Directory, directory_of
from backupctl.storage.protocol import Inspection, ObjectInfo, ObjectStore, ProbeResult

T = TypeVar("T")


class RetryingStore:
    """Repeats a call that failed with Transient, at most `attempts` times and not beyond `total_seconds`, waiting
    `first_delay_seconds`, twice that, and so on up to `max_delay_seconds`, each shortened by up to half at random so
    that many clients do not come back together. Then: StoreUnreachableError. A `get` that came back Corrupt is repeated
    once. `total_seconds` bounds when an attempt may begin; how long one takes is the store's own time limit."""

    def __init__(
        self,
        store: ObjectStore,
        clock: Clock,
        *,
        attempts: int = 6,
        first_delay_seconds: float = 0.5,
        max_delay_seconds: float = 20.0,
        total_seconds: float = 180.0,
        seed: int | None = None,
    ) -> None:
        self.location = store.location
        self._store = store
        self._clock = clock
        self._attempts = attempts
        self._first_delay = first_delay_seconds
        self._max_delay = max_delay_seconds
        self._total = total_seconds
        self._random = random.Random(seed)  # noqa: S311 - jitter of waiting times, no secret

    @property
    def directory(self) -> Directory | None:
        return directory_of(self._store)

    def put(self, name: str, data: bytes, *, if_absent: bool = False) -> None:
        tries = 0

        def attempt() -> None:
            nonlocal tries
            tries += 1
            try:
                self._store.put(name, data, if_absent=if_absent)
            except Exists:
                # an earlier try of ours may have arrived although its answer did not
                if tries == 1 or self._store.get(name) != data:
                    raise

        self._call(f"write {name}", attempt)

    def draft(self) -> Draft | None:
        draft = draft_in(self._store)
        return _RetriedDraft(draft, self._call) if draft is not None else None

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        def attempt() -> bytes:
            return self._store.get(name, offset=offset, length=length)

        try:
            return self._call(f"read {name}", attempt)
        except Corrupt:
            return self._call(f"read {name}", attempt)

    def stat(self, name: str) -> ObjectInfo:
        return self._call(f"look up {name}", lambda: self._store.stat(name))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """After a failure half-way the listing starts again and goes on behind the last name it gave out."""
        patience, last = self._patience(f"list {prefix or 'everything'}"), ""
        while True:
            try:
                for info in self._store.list(prefix):
                    if info.name > last:
                        patience, last = self._patience(f"list {prefix or 'everything'}"), info.name
                        yield info
                return
            except Transient as error:
                patience.wait(error)

    def delete(self, name: str) -> None:
        self._call(f"delete {name}", lambda: self._store.delete(name))

    def retain(self, name: str, until: datetime) -> None:
        self._call(f"retain {name}", lambda: self._store.retain(name, until))

    def locked_until(self, name: str) -> datetime | None:
        return self._call(f"ask how long {name} is locked", lambda: self._store.locked_until(name))

    def inspect(self) -> Inspection:
        return self._call("ask for the settings", self._store.inspect)

    def probe(self) -> ProbeResult:
        return self._store.probe()

    def close(self) -> None:
        self._store.close()

    def _call(self, what: str, attempt: Callable[[], T]) -> T:
        patience = self._patience(what)
        while True:
            try:
                return attempt()
            except Transient as error:
                patience.wait(error)

    def _patience(self, what: str) -> _Patience:
        delays = (min(self._max_delay, self._first_delay * 2**n) for n in range(self._attempts - 1))
        return _Patience(
            self.location, what, self._clock, self._total, (d * self._random.uniform(0.5, 1) for d in delays)
        )


class _RetriedDraft:
    def __init__(self, draft: Draft, call: Callable[[str, Callable[[], Any]], Any]) -> None:
        self._draft, self._call = draft, call

    def write(self, data: bytes | bytearray) -> None:
        self._call("write an object", lambda: self._draft.write(data))

    def read(self) -> bytes:
        found: bytes = self._call("read an object", self._draft.read)
        return found

    def finish(self, name: str) -> None:
        self._call(f"write {name}", lambda: self._draft.finish(name))


class _Patience:
    """What is left of one call's attempts and time."""

    def __init__(self, location: str, what: str, clock: Clock, total: float, delays: Iterator[float]) -> None:
        self._location, self._what, self._clock, self._delays = location, what, clock, delays
        self._deadline = clock.monotonic() + total
        self._failures = 0

    def wait(self, error: Transient) -> None:
        """Sleep before the next attempt, or raise StoreUnreachableError when there is none."""
        self._failures += 1
        delay = next(self._delays, None)
        if delay is None or self._clock.monotonic() + delay > self._deadline:
            raise StoreUnreachableError(
                f"cannot {self._what} in {self._location}: gave up after {self._failures} attempts: {error.message}",
                next_step=error.next_step or "check that the store runs and the network reaches it, then run again",
            ) from error
        self._clock.sleep(delay)
