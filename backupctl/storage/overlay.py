"""A store that can be damaged, repaired and written to without harm: what changes stays in memory, the store below is only
read. For rehearsals on a real repository."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from datetime import datetime

from backupctl.clock import Clock
from backupctl.errors import Exists, NotFound
from backupctl.storage.memory import MemoryStore
from backupctl.storage.names import check_name
from backupctl.storage.probing import probe_basics, scratch_name
from backupctl.storage.protocol import Inspection, ObjectInfo, ObjectStore, ProbeResult


class OverlayStore:
    """`below` and, over it, what was put or deleted here. Names that begin with one of `hidden` are not seen below: with
    `locks/`, a repository is locked here alone. `close` leaves the store below open."""

    def __init__(self, below: ObjectStore, *, clock: Clock, hidden: Sequence[str] = ()) -> None:
        self.location = below.location
        self._below, self._hidden = below, tuple(hidden)
        self._own = MemoryStore(clock=clock, location=self.location)
        self._gone: set[str] = set()

    def put(self, name: str, data: bytes, *, if_absent: bool = False) -> None:
        if if_absent and self._is_below(name):
            try:
                self._below.stat(name)
            except NotFound:
                pass
            else:
                raise Exists(f"{self.location}: {name} exists already", name=name, location=self.location)
        self._own.put(name, data, if_absent=if_absent)
        self._gone.add(name)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        return self._holder(name).get(name, offset=offset, length=length)

    def stat(self, name: str) -> ObjectInfo:
        return self._holder(name).stat(name)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        below = (info for info in self._below.list(prefix) if self._is_below(info.name))
        return heapq.merge(below, self._own.list(prefix), key=lambda info: info.name)

    def delete(self, name: str) -> None:
        self._own.delete(name)
        self._gone.add(name)

    def retain(self, name: str, until: datetime) -> None:
        """Of what is below, nothing is deleted here anyway."""
        if not self._is_below(name):
            self._own.retain(name, until)
        else:
            self._below.stat(name)

    def locked_until(self, name: str) -> datetime | None:
        return self._holder(name).locked_until(name)

    def inspect(self) -> Inspection:
        return self._below.inspect()

    def probe(self) -> ProbeResult:
        return ProbeResult(probe_basics(self, scratch_name()))

    def close(self) -> None:
        self._own.close()

    def _is_below(self, name: str) -> bool:
        check_name(name, self.location)
        return name not in self._gone and not name.startswith(self._hidden)

    def _holder(self, name: str) -> ObjectStore:
        return self._below if self._is_below(name) else self._own
