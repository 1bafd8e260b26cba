"""A repository in memory, and entries for the writer without a host."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from io import BytesIO

from backupctl.clock import FakeClock
from backupctl.hosts.protocol import ByteSource
from backupctl.repository.entry import Entry
from backupctl.repository.format.node import Node
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.manifest import ManifestReader, read_manifest
from backupctl.repository.repository import Repository
from backupctl.repository.writer import SnapshotWriter
from backupctl.repository.written import WrittenSnapshot
from backupctl.storage.memory import MemoryStore

NOW = datetime(2026, 11, 22, tzinfo=UTC)
OLD_NS = 1_700_000_000_123_456_789


def new_repository() -> Repository:
    return Repository.create(MemoryStore(), "secret", clock=FakeClock(NOW), scrypt_n=2)


def directory(path: bytes, **fields: object) -> Entry:
    return Entry(path, Node(path.rpartition(b"/")[2], "dir", 0o755, OLD_NS, ctime_ns=OLD_NS, **fields))  # type: ignore[arg-type]  # node fields by name


def file(
    path: bytes,
    content: bytes = b"",
    *,
    opener: Callable[[], ByteSource] | None = None,
    stable: bool = True,
    **fields: object,
) -> Entry:
    values = {"mode": 0o644, "mtime_ns": OLD_NS, "ctime_ns": OLD_NS, "inode": 7, "size": len(content), "links": 1}
    node = Node(path.rpartition(b"/")[2], "file", **(values | fields))  # type: ignore[arg-type]  # node fields by name
    return Entry(path, node, opener or (lambda: BytesIO(content)), stable)


def other(path: bytes, kind: str, **fields: object) -> Entry:
    return Entry(path, Node(path.rpartition(b"/")[2], kind, 0o644, OLD_NS, **fields))  # type: ignore[arg-type]  # as above


def backup(
    repo: Repository,
    sources: dict[str, Iterable[Entry]],
    *,
    parent: tuple[Snapshot, ManifestReader] | None = None,
) -> tuple[SnapshotWriter, WrittenSnapshot, tuple[Snapshot, ManifestReader]]:
    """One run of the writer; the writer, its result, and what the next run needs as its parent."""
    previous, manifest = parent or (None, None)
    with SnapshotWriter(repo, parent=previous, parent_manifest=manifest, clock=repo.clock) as writer:
        for name, entries in sources.items():
            writer.add_source(name, entries)
        written = writer.finish()
    snapshot = Snapshot(NOW, written.tree, [f"/{name}" for name in sorted(sources)], program_version="backupctl test")
    repo.save_snapshot(snapshot)
    return writer, written, (snapshot, read_manifest(repo, written.manifest))
