"""Snapshots as a read-only file system: the calls that a FUSE library makes, free of any such library.

Paths and names arrive and leave as text with surrogates for what is not UTF-8, errors as OSError with the number that the
kernel is to give. `SnapshotFileSystem` fits mfusepy and fusepy as it stands.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import Any

from backupctl.errors import DamageError, NoSuchError, UserError
from backupctl.repository.format.names import display_name
from backupctl.repository.format.node import Node
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.random_access import BlobLoader, RandomReader
from backupctl.repository.reader import SnapshotReader, clean, join
from backupctl.repository.repository import Repository

log = logging.getLogger(__name__)

_KINDS = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "dev": stat.S_IFBLK,
    "chardev": stat.S_IFCHR,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}
_BLOCK_BYTES = 4096
_CACHED_NODES = 50_000


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory of the mount itself: folders, links to a name beside them, and snapshots."""

    entries: Mapping[bytes, Folder | Snapshot | bytes]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a path leads: a folder of ours, a link of ours, or a node of a snapshot."""

    entry: Folder | bytes | None
    snapshot: Snapshot | None = None
    path: bytes = b""  # in the snapshot
    node: Node | None = None


class SnapshotFileSystem:
    """Thread-safe; `close` it. Damage, and whatever else cannot be read, is EIO and one line in the log that names file and
    object. Inode numbers are the same in every mount; hard links of one file share theirs."""

    use_ns = True

    def __init__(
        self, repository: Repository, root: Folder, *, uid: int, gid: int, ready: Callable[[], None] | None = None
    ) -> None:
        """`uid` and `gid` own the folders; `ready` is called when the mount stands."""
        self._repository = repository
        self._root = root
        now_ns = int(repository.clock.now().timestamp()) * 1_000_000_000
        self._folder = {"st_uid": uid, "st_gid": gid, "st_mtime": now_ns, "st_nlink": 1}
        self._ready = ready
        self._blobs = BlobLoader(repository)
        self._directories = _Directories(repository)
        self._numbers = count(1)
        self._open: dict[int, RandomReader] = {}
        self._guard = Lock()
        self.mounted = False
        self.unmounted = False

    def close(self) -> None:
        self._directories.close()
        self._blobs.close()

    # what the kernel asks

    def init(self, path: str) -> None:
        self.mounted = True
        if self._ready is not None:
            self._ready()

    def destroy(self, path: str) -> None:
        self.unmounted = True

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        place = self._find(path)
        if place.node is not None and place.snapshot is not None:
            return self._status(place.snapshot, place.path, place.node)
        kind = stat.S_IFLNK | 0o777 if isinstance(place.entry, bytes) else stat.S_IFDIR | 0o555
        size = len(place.entry) if isinstance(place.entry, bytes) else 0
        return {"st_mode": kind, "st_ino": _folder_inode(_bytes(path)), "st_size": size, **self._folder}

    def readdir(self, path: str, fh: int | None = None) -> Iterator[tuple[str, dict[str, int], int]]:
        place = self._find(path)
        for dots in (".", ".."):
            yield dots, {"st_mode": stat.S_IFDIR, "st_ino": 1}, 0  # 0 would hide the entry
        if isinstance(place.entry, Folder):
            for name, entry in place.entry.entries.items():
                kind = stat.S_IFLNK if isinstance(entry, bytes) else stat.S_IFDIR
                yield _text(name), {"st_mode": kind, "st_ino": _folder_inode(join(_bytes(path), name))}, 0
            return
        if place.snapshot is None or place.node is None or place.node.type != "dir":
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        for name, node in self._children(place.snapshot, place.path, place.node).items():
            number = _node_inode(place.snapshot, join(place.path, name), node)
            yield _text(name), {"st_mode": _KINDS[node.type], "st_ino": number}, 0

    def readlink(self, path: str) -> str:
        place = self._find(path)
        if isinstance(place.entry, bytes):
            return _text(place.entry)
        if place.node is None or place.node.type != "symlink":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return _text(place.node.linktarget)

    def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_TRUNC):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        place = self._find(path)
        if place.node is None or place.node.type != "file":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        with _Told(path):
            size = self._directories.size(place.node)
            reader = RandomReader(self._repository, self._blobs, place.node, place.path, size)
        with self._guard:
            number = next(self._numbers)
            self._open[number] = reader
        return number

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        with _Told(path):
            return self._open[fh].read(offset, size)

    def release(self, path: str, fh: int) -> int:
        with self._guard:
            del self._open[fh]
        return 0

    def listxattr(self, path: str) -> list[str]:
        node = self._find(path).node
        return [_text(name) for name, _ in node.xattrs] if node else []

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        node = self._find(path).node
        for key, value in node.xattrs if node else ():
            if key == _bytes(name):
                return value
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))

    def statfs(self, path: str) -> dict[str, int]:
        """A full disk as large as all that its snapshots hold, as far as they say so."""
        total = sum(_bytes_of(snapshot) for snapshot in _snapshots(self._root))
        blocks = -(-total // _BLOCK_BYTES)
        return {
            "f_bsize": _BLOCK_BYTES,
            "f_frsize": _BLOCK_BYTES,
            "f_blocks": blocks,
            "f_bfree": 0,
            "f_bavail": 0,
            "f_namemax": 255,
            "f_flag": os.ST_RDONLY,
        }

    # where it comes from

    def _find(self, path: str) -> _Place:
        entry: Folder | Snapshot | bytes = self._root
        parts = clean(_bytes(path)).split(b"/") if path.strip("/") else []
        for number, part in enumerate(parts):
            if isinstance(entry, Snapshot):
                return self._node(entry, parts[number:], path)
            found = entry.entries.get(part) if isinstance(entry, Folder) else None
            if found is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            entry = found
        if isinstance(entry, Snapshot):
            return _Place(None, entry, b"", _top(entry))
        return _Place(entry)

    def _node(self, snapshot: Snapshot, parts: list[bytes], path: str) -> _Place:
        node, where = _top(snapshot), b""
        for part in parts:
            if node.type != "dir":
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            child = self._children(snapshot, where, node).get(part)
            if child is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            node, where = child, join(where, part)
        return _Place(None, snapshot, where, node)

    def _children(self, snapshot: Snapshot, path: bytes, node: Node) -> Mapping[bytes, Node]:
        with _Told(_text(path)):
            return self._directories.children(snapshot, path, node)

    def _status(self, snapshot: Snapshot, path: bytes, node: Node) -> dict[str, int]:
        with _Told(_text(path)):
            size = self._directories.size(node) if node.type == "file" else len(node.linktarget)
        return {
            "st_mode": _KINDS[node.type] | node.mode,
            "st_ino": _node_inode(snapshot, path, node),
            "st_nlink": max(1, node.links) if node.type != "dir" else 1,  # 1: nobody may reckon with it
            "st_uid": node.uid,
            "st_gid": node.gid,
            "st_size": size,
            "st_blocks": -(-size // 512),
            "st_blksize": _BLOCK_BYTES,
            "st_rdev": node.device,
            "st_mtime": node.mtime_ns,
            "st_atime": node.atime_ns or node.mtime_ns,
            "st_ctime": node.ctime_ns or node.mtime_ns,
        }


class _Directories:
    """Decoded directories by tree id, the last used, and one reader per snapshot that loads them."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._guard = Lock()
        self._trees: OrderedDict[bytes, dict[bytes, Node]] = OrderedDict()
        self._nodes = 0
        self._readers: dict[str, tuple[SnapshotReader, Lock]] = {}
        self._sizes = SnapshotReader(repository, Snapshot(repository.clock.now(), bytes(32)))

    def children(self, snapshot: Snapshot, path: bytes, node: Node) -> dict[bytes, Node]:
        key = node.subtree or b""
        with self._guard:
            if key in self._trees:
                self._trees.move_to_end(key)
                return self._trees[key]
            if snapshot.id not in self._readers:
                self._readers[snapshot.id] = SnapshotReader(self._repository, snapshot), Lock()
            reader, turn = self._readers[snapshot.id]
        with turn:
            found = {child.name: child for child in reader.children(path, node)}
        with self._guard:
            if key not in self._trees:
                self._trees[key] = found
                self._nodes += len(found)
            while self._nodes > _CACHED_NODES and len(self._trees) > 1:
                self._nodes -= len(self._trees.popitem(last=False)[1])
        return found

    def size(self, node: Node) -> int:
        return self._sizes.size(node)

    def close(self) -> None:
        for reader, _ in self._readers.values():
            reader.close()


class _Told:
    """Turns what cannot be read into EIO, once told in the log."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, NoSuchError):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
        if isinstance(error, DamageError):
            log.error("%s (object %s): %s", display_name(_bytes(self._path)), error.name, error.message)
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from error
        if isinstance(error, UserError):
            log.error("%s: %s", display_name(_bytes(self._path)), error.message)
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from error


def _top(snapshot: Snapshot) -> Node:
    moment_ns = int(snapshot.time.timestamp()) * 1_000_000_000
    return Node(b"", "dir", 0o755, moment_ns, subtree=snapshot.tree)


def _node_inode(snapshot: Snapshot, path: bytes, node: Node) -> int:
    own = snapshot.id.encode() or snapshot.tree
    if node.type != "dir" and node.links > 1 and node.inode:
        source = path.partition(b"/")[0]  # inode numbers mean something within one source only
        numbers = b"%d:%d:%d" % (node.device_id, node.inode, node.size)
        return _inode(own, b"link", source, numbers, *(node.content or ())[:1], *(node.content or ())[-1:])
    return _inode(own, b"path", path)


def _folder_inode(path: bytes) -> int:
    return _inode(b"folder", clean(path))


def _inode(*parts: bytes) -> int:
    digest = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()
    return int.from_bytes(digest[:8], "big") >> 1 or 1


def _snapshots(folder: Folder) -> Iterator[Snapshot]:
    for entry in folder.entries.values():
        if isinstance(entry, Folder):
            yield from _snapshots(entry)
        elif isinstance(entry, Snapshot):
            yield entry


def _bytes_of(snapshot: Snapshot) -> int:
    total: Any = snapshot.summary.get("total_bytes_processed")
    return total if isinstance(total, int) and total > 0 else 0


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
