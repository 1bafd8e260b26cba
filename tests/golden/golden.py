"""A golden repository as it is committed: a tar of its objects, and beside it what has to be found in it.

`index.json` holds the digests of both, so that nothing changes unnoticed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backupctl.clock import FakeClock
from backupctl.repository.repository import Repository
from backupctl.storage.memory import MemoryStore

HERE = Path(__file__).parent / "repositories"
INDEX = HERE / "index.json"
PASSWORD = "golden"
NOW = datetime(2027, 1, 1, tzinfo=UTC)
"""Later than any lock in a golden repository, so that each is stale."""

Objects = dict[str, bytes]


@dataclass(frozen=True)
class Golden:
    """`expected` is the JSON beside the tar."""

    name: str

    @property
    def tar(self) -> Path:
        return HERE / f"{self.name}.tar.gz"

    @property
    def json(self) -> Path:
        return HERE / f"{self.name}.json"

    @property
    def expected(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.json.read_text())
        return found

    def objects(self) -> Objects:
        with tarfile.open(self.tar) as tar:
            return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]  # only files

    def store(self) -> MemoryStore:
        return store_of(self.objects())

    def open(self, password: str = PASSWORD) -> Repository:
        return Repository.open(self.store(), password, clock=FakeClock(NOW))

    def extract(self, directory: Path) -> Path:
        """As files, with the folders that stock restic wants to see."""
        write_objects(self.objects(), directory)
        return directory

    def save(self, objects: Mapping[str, bytes], expected: Mapping[str, Any]) -> None:
        """Write it, and its digests."""
        HERE.mkdir(exist_ok=True)
        self.tar.write_bytes(packed(objects))
        self.json.write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")
        index = digests()
        index[self.name] = {"tar": digest(self.tar), "json": digest(self.json)}
        INDEX.write_text(json.dumps(dict(sorted(index.items())), indent=1) + "\n")


def store_of(objects: Mapping[str, bytes]) -> MemoryStore:
    store = MemoryStore(clock=FakeClock(NOW))
    for name, data in objects.items():
        store.put(name, data)
    return store


def write_objects(objects: Mapping[str, bytes], directory: Path) -> None:
    for folder in ("data", "index", "keys", "locks", "snapshots"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    for name, data in objects.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)


def packed(objects: Mapping[str, bytes]) -> bytes:
    """Equal objects give equal bytes."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in sorted(objects.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), mtime=0)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(INDEX.read_text()) if INDEX.exists() else {}
    return found


GOLDEN = [Golden(name) for name in digests()]
