"""A store that goes wrong on demand, around any other store.

    store = FaultyStore(MemoryStore())
    store.fail("put", 3, Transient("lost"))             # the 3rd put fails instead of being done
    store.fail("put", 3, Transient("lost"), after=True)  # the 3rd put is done, then its answer is lost
    store.fail("any", 7, Full("full"), times=None)       # from the 7th call on everything fails
    store.at("put", 2, lambda: os._exit(9))              # die right before the 2nd put (after=True: right after)
    store.flip_bit("data/ab/…", bit=77); store.truncate(name, 10); store.drop(name)   # as seen by get, stat and list
    store.disk_full_after(1_000_000)                     # counted over all puts; small puts no longer fit either
    store.calls                                          # [("put", "config"), ("get", "keys/…"), …] in order

Numbers are counted from the moment the fault is set: `fail("put", 1, …)` is the next put. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from backupctl.errors import Full, NotFound
from backupctl.storage.names import cut
from backupctl.storage.protocol import Inspection, ObjectInfo, ObjectStore, ProbeResult

KINDS = ("put", "get", "stat", "list", "delete", "retain")


@dataclass
class _Fault:
    kind: str
    due: int  # matching calls until it strikes
    times: int | None  # strikes left; None is for ever
    action: Callable[[], None]
    after: bool


class FaultyStore:
    def __init__(self, store: ObjectStore) -> None:
        self.inner = store
        self.location = store.location
        self.calls: list[tuple[str, str]] = []
        self._faults: list[_Fault] = []
        self._damage: dict[str, Callable[[bytes], bytes | None]] = {}
        self._room: int | None = None
        self._guard = threading.Lock()

    def count(self, kind: str = "any") -> int:
        with self._guard:
            return sum(kind in ("any", called) for called, _ in self.calls)

    def fail(self, kind: str, nth: int, error: Exception, *, times: int | None = 1, after: bool = False) -> None:
        def action() -> None:
            raise error

        self.at(kind, nth, action, times=times, after=after)

    def at(
        self, kind: str, nth: int, action: Callable[[], None], *, times: int | None = 1, after: bool = False
    ) -> None:
        if kind not in (*KINDS, "any") or nth < 1:
            raise ValueError(f"no such call: {kind} number {nth}")
        with self._guard:
            self._faults.append(_Fault(kind, nth, times, action, after))

    def flip_bit(self, name: str, bit: int = 0) -> None:
        def flip(data: bytes) -> bytes:
            changed = bytearray(data)
            changed[bit // 8 % len(changed)] ^= 1 << bit % 8
            return bytes(changed)

        self._damage[name] = flip

    def truncate(self, name: str, size: int) -> None:
        self._damage[name] = lambda data: data[:size]

    def drop(self, name: str) -> None:
        self._damage[name] = lambda data: None

    def disk_full_after(self, size: int) -> None:
        self._room = size

    def heal(self) -> None:
        """Forget every fault and all damage; keep the log of calls."""
        with self._guard:
            self._faults.clear()
            self._damage.clear()
            self._room = None

    def put(self, name: str, data: bytes, *, if_absent: bool = False) -> None:
        after = self._called("put", name)
        with self._guard:
            if self._room is not None:
                if len(data) > self._room:
                    raise Full(
                        f"{self.location}: cannot write {name}: no space left", name=name, location=self.location
                    )
                self._room -= len(data)
        self.inner.put(name, data, if_absent=if_absent)
        _run(after)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        after = self._called("get", name)
        if name in self._damage:
            data = self._damaged(name)
            if data is None:
                raise NotFound(f"{self.location}: {name} does not exist", name=name, location=self.location)
            part = cut(data, offset, length, name=name, location=self.location)
        else:
            part = self.inner.get(name, offset=offset, length=length)
        _run(after)
        return part

    def stat(self, name: str) -> ObjectInfo:
        after = self._called("stat", name)
        info = self._seen(self.inner.stat(name))
        if info is None:
            raise NotFound(f"{self.location}: {name} does not exist", name=name, location=self.location)
        _run(after)
        return info

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Counted when the first item is asked for. An `after` fault strikes at the end of the listing."""
        after = self._called("list", prefix)
        for info in self.inner.list(prefix):
            seen = self._seen(info)
            if seen is not None:
                yield seen
        _run(after)

    def delete(self, name: str) -> None:
        after = self._called("delete", name)
        self.inner.delete(name)
        _run(after)

    def retain(self, name: str, until: datetime) -> None:
        after = self._called("retain", name)
        self.inner.retain(name, until)
        _run(after)

    def locked_until(self, name: str) -> datetime | None:
        after = self._called("stat", name)
        found = self.inner.locked_until(name)
        _run(after)
        return found

    def inspect(self) -> Inspection:
        return self.inner.inspect()

    def probe(self) -> ProbeResult:
        return self.inner.probe()

    def close(self) -> None:
        self.inner.close()

    def _called(self, kind: str, name: str) -> Sequence[_Fault]:
        """Log the call, strike with what is due before it, and return what is due after it."""
        due = []
        with self._guard:
            self.calls.append((kind, name))
            for fault in list(self._faults):
                if fault.kind not in (kind, "any"):
                    continue
                fault.due -= 1
                if fault.due > 0:
                    continue
                due.append(fault)
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times == 0:
                        self._faults.remove(fault)
        _run([fault for fault in due if not fault.after])
        return [fault for fault in due if fault.after]

    def _damaged(self, name: str) -> bytes | None:
        return self._damage[name](self.inner.get(name))

    def _seen(self, info: ObjectInfo) -> ObjectInfo | None:
        if info.name not in self._damage:
            return info
        data = self._damaged(info.name)
        return None if data is None else replace(info, size=len(data))


def _run(faults: Sequence[_Fault]) -> None:
    for fault in faults:
        fault.action()
