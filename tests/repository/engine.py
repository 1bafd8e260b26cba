"""Small repositories made directly with the engine, and stores that fail on demand."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from backupctl.clock import FakeClock
from backupctl.errors import Transient
from backupctl.repository.format.node import Node
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import encode_tree
from backupctl.repository.repository import Repository
from backupctl.storage.memory import MemoryStore
from backupctl.storage.protocol import ObjectInfo

NOW = datetime(2026, 11, 22, tzinfo=UTC)
PASSWORD = "geheim"


class FailingStore(MemoryStore):
    """Raises Transient from the `fail_at`-th changing call on (0: never), like a line that was cut."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[str] = []
        self.fail_at = 0

    def _count(self, what: str) -> None:
        self.changes.append(what)
        if self.fail_at and len(self.changes) >= self.fail_at:
            raise Transient(f"cut at {what}", name=what)

    def put(self, name: str, data: bytes, *, if_absent: bool = False) -> None:
        self._count(f"put {name}")
        super().put(name, data, if_absent=if_absent)

    def delete(self, name: str) -> None:
        self._count(f"delete {name}")
        super().delete(name)


def create(store: MemoryStore | None = None) -> Repository:
    return Repository.create(store or MemoryStore(), PASSWORD, clock=FakeClock(NOW), scrypt_n=2)


def reopen(repository: Repository) -> Repository:
    return Repository.open(repository.store, PASSWORD, clock=FakeClock(NOW))


def content(seed: object, size: int) -> bytes:
    return random.Random(repr(seed)).randbytes(size)


def backup(
    repository: Repository, files: dict[str, bytes], *, day: int = 0, target_bytes: int = 64 << 10, records: bool = True
) -> Snapshot:
    """A snapshot with one directory `d` that holds `files`, an empty directory, and our records."""
    from backupctl.repository.blob_saver import BlobSaver

    saver = BlobSaver(repository, target_bytes=target_bytes, choose=random.Random(1))
    nodes = []
    for name, data in files.items():
        blobs = [saver.save("data", data[start : start + 4096]) for start in range(0, len(data), 4096)]
        nodes.append(Node(name.encode(), "file", 0o644, content=blobs, size=len(data)))
    nodes.append(Node(b"empty", "dir", 0o755, subtree=saver.save("tree", encode_tree([]))))
    inner = saver.save("tree", encode_tree(nodes))
    root = saver.save("tree", encode_tree([Node(b"d", "dir", 0o755, subtree=inner)]))
    saver.flush()
    tags = ["complete"]
    if records:
        manifest = repository.save_record("manifest", b"{}\n")
        fingerprint = repository.save_record("fingerprint", json.dumps({"manifest": manifest}).encode())
        tags.append(f"fingerprint:{fingerprint}")
    snapshot = Snapshot(NOW + timedelta(days=day), root, ["/d"], "host", tags=tags)
    repository.save_snapshot(snapshot)
    return snapshot


def restore(repository: Repository, snapshot: Snapshot) -> dict[str, bytes]:
    """What `backup` stored."""
    from backupctl.repository.format.tree import decode_tree

    (directory,) = decode_tree(repository.load_blob("tree", snapshot.tree))
    assert directory.subtree is not None
    return {
        node.name.decode(): b"".join(repository.load_blob("data", blob) for blob in node.content or ())
        for node in decode_tree(repository.load_blob("tree", directory.subtree))
        if node.type == "file"
    }


def objects(repository: Repository, prefix: str = "") -> Iterator[ObjectInfo]:
    return iter(list(repository.store.list(prefix)))


def damage(repository: Repository, name: str, *, bit: int | None = None, cut: int = 0) -> None:
    """Flip one bit (in the middle by default), or cut bytes off the end."""
    data = bytearray(repository.store.get(name))
    if cut:
        del data[-cut:]
    else:
        position = len(data) // 2 if bit is None else bit // 8
        data[position] ^= 1 << (0 if bit is None else bit % 8)
    repository.store.delete(name)
    repository.store.put(name, bytes(data))
