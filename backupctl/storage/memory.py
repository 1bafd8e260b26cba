"""A store in a dict: for tests, ours and those of users of the library. Nothing survives the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

from backupctl.clock import Clock, SystemClock, iso
from backupctl.errors import Denied, Exists, NotFound
from backupctl.storage.names import check_name, cut
from backupctl.storage.probing import probe_basics, scratch_name
from backupctl.storage.protocol import Inspection, ObjectInfo, ProbeResult


class MemoryStore:
    """Thread-safe. `retain` is enforced against `clock`, as a store with object lock would."""

    def __init__(self, *, clock: Clock | None = None, location: str = "memory") -> None:
        self.location = location
        self._clock = clock or SystemClock()
        self._objects: dict[str, tuple[bytes, datetime]] = {}
        self._retained: dict[str, datetime] = {}
        self._guard = threading.Lock()

    def put(self, name: str, data: bytes, *, if_absent: bool = False) -> None:
        check_name(name, self.location)
        with self._guard:
            if if_absent and name in self._objects:
                raise Exists(f"{self.location}: {name} exists already", name=name, location=self.location)
            self._check_retained(name)
            self._objects[name] = (bytes(data), self._clock.now())

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        return cut(self._find(name)[0], offset, length, name=name, location=self.location)

    def stat(self, name: str) -> ObjectInfo:
        data, modified = self._find(name)
        return ObjectInfo(name, len(data), modified)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        with self._guard:
            found = sorted(name for name in self._objects if name.startswith(prefix))
            infos = [ObjectInfo(name, len(self._objects[name][0]), self._objects[name][1]) for name in found]
        return iter(infos)

    def delete(self, name: str) -> None:
        check_name(name, self.location)
        with self._guard:
            self._check_retained(name)
            self._objects.pop(name, None)

    def retain(self, name: str, until: datetime) -> None:
        self._find(name)
        with self._guard:
            self._retained[name] = max(until.astimezone(UTC), self._retained.get(name, until.astimezone(UTC)))

    def locked_until(self, name: str) -> datetime | None:
        self._find(name)
        return self._retained.get(name)

    def inspect(self) -> Inspection:
        return Inspection()

    def probe(self) -> ProbeResult:
        return ProbeResult(probe_basics(self, scratch_name()))

    def close(self) -> None:
        """Nothing to let go of: the objects stay until the store itself is dropped."""

    def _find(self, name: str) -> tuple[bytes, datetime]:
        check_name(name, self.location)
        with self._guard:
            if name not in self._objects:
                raise NotFound(f"{self.location}: {name} does not exist", name=name, location=self.location)
            return self._objects[name]

    def _check_retained(self, name: str) -> None:
        until = self._retained.get(name)
        if until is not None and until > self._clock.now():
            raise Denied(f"{self.location}: {name} is retained until {iso(until)}", name=name, location=self.location)
