"""A repository as somebody with the key, or a broken program, could write it: any bytes as a tree, sealed properly."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backupctl.clock import SystemClock
from backupctl.hosts import far
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import Placer
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.restore import RestoreStats, restore
from backupctl.repository.restore_plan import plan_restore
from backupctl.storage.memory import MemoryStore
from tests.repository.helpers import NOW, new_repository

HERE = LocalHost("here")
TIME = "2026-11-22T00:00:00Z"


class Evil:
    """Trees are lists of nodes as JSON objects, so that a node may say anything."""

    def __init__(self) -> None:
        self.repo: Repository = new_repository()
        self._saver = self.repo.blob_saver()

    def data(self, content: bytes) -> str:
        return self._saver.save("data", content).hex()

    def raw_tree(self, data: bytes) -> str:
        return self._saver.save("tree", data).hex()

    def tree(self, *nodes: dict[str, Any]) -> str:
        return self.raw_tree(json.dumps({"nodes": nodes}, separators=(",", ":")).encode())

    def snapshot(self, root: str) -> Snapshot:
        self._saver.flush()
        self._saver = self.repo.blob_saver()
        snapshot = Snapshot(NOW, bytes.fromhex(root), ["/s"], tags=["complete"])
        self.repo.save_snapshot(snapshot)
        return snapshot

    def reader(self, *nodes: dict[str, Any]) -> SnapshotReader:
        """A snapshot whose root holds these nodes."""
        return SnapshotReader(self.repo, self.snapshot(self.tree(*nodes)))

    def file(self, name: str, data: bytes = b"x", **fields: Any) -> dict[str, Any]:
        node = {"name": name, "type": "file", "mode": 0o644, "mtime": TIME, "size": len(data)}
        return node | {"content": [self.data(data)] if data else []} | fields

    def directory(self, name: str, *nodes: dict[str, Any], **fields: Any) -> dict[str, Any]:
        node = {"name": name, "type": "dir", "mode": 1 << 31 | 0o755, "mtime": TIME, "subtree": self.tree(*nodes)}
        return node | fields

    def link(self, name: str, target: str, **fields: Any) -> dict[str, Any]:
        mode = 1 << 27 | 0o777
        return {"name": name, "type": "symlink", "mode": mode, "mtime": TIME, "linktarget": target} | fields


@contextmanager
def placer_on(way: str, root: bytes) -> Iterator[Placer]:
    """`local` in this process, or `agent`: the program that an SSH host runs, in a process of its own."""
    if way == "local":
        with HERE.placer(root) as placer:
            yield placer
        return
    program = far.program()
    with HERE.start(["python3", "-I", "-S", "-c", far.START, str(len(program))]) as process:
        client = far.AgentClient("there", process)
        placer = far.FarPlacer(client, root)
        try:
            yield placer
        finally:
            placer.close()
            client.close()


def restored(reader: SnapshotReader, target: Path, way: str = "local") -> RestoreStats:
    """Plan and restore all of it; whatever is wrong must be in the stats."""
    target.mkdir(exist_ok=True)
    plan_restore(reader)
    with placer_on(way, os.fsencode(target)) as placer:
        return restore(reader, placer)


def world(root: Path, target: Path) -> dict[str, tuple[Any, ...]]:
    """Everything below `root` but `target`, to be compared with later."""
    seen: dict[str, tuple[Any, ...]] = {}
    for directory, names, files in os.walk(root):
        if target.parent == Path(directory):
            names[:] = [name for name in names if name != target.name]
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content = b""
            if stat.S_ISREG(status.st_mode):
                content = Path(path).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.fsencode(os.readlink(path))
            facts = (status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_mtime_ns)
            if stat.S_ISDIR(status.st_mode):
                facts = facts[:-2]
            seen[path] = (*facts, hashlib.sha256(content).hexdigest(), os.listxattr(path, follow_symlinks=False))
    return seen


def memory_repository() -> Repository:
    return Repository.create(MemoryStore(), "other", clock=SystemClock(), scrypt_n=2)
