"""A store that is only read: whatever would write is refused before it leaves this machine."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from backupctl.errors import Denied
from backupctl.storage.nearby import Directory, directory_of
from backupctl.storage.protocol import Inspection, ObjectInfo, ObjectStore, ProbeResult


class ReadOnlyStore:
    def __init__(self, store: ObjectStore) -> None:
        self.location = store.location
        self._store = store

    @property
    def directory(self) -> Directory | None:
        return directory_of(self._store)

    def put(self, name: str, data: bytes, *, if_absent: bool = False) -> None:
        raise self._refused("write", name)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        return self._store.get(name, offset=offset, length=length)

    def stat(self, name: str) -> ObjectInfo:
        return self._store.stat(name)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._store.list(prefix)

    def delete(self, name: str) -> None:
        raise self._refused("delete", name)

    def retain(self, name: str, until: datetime) -> None:
        raise self._refused("retain", name)

    def locked_until(self, name: str) -> datetime | None:
        return self._store.locked_until(name)

    def inspect(self) -> Inspection:
        return self._store.inspect()

    def probe(self) -> ProbeResult:
        raise self._refused("write scratch objects", "")

    def close(self) -> None:
        self._store.close()

    def _refused(self, what: str, name: str) -> Denied:
        message = f"{self.location}: this command only reads, and does not {what} {name}".rstrip()
        return Denied(message, name=name, location=self.location, next_step="leave out --read-only")
