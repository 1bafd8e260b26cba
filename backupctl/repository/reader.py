"""Reads a snapshot: its directories by path, its files as streams. Trusts nothing that it finds in a tree.

Paths are bytes without a leading slash; the first part is the source's name in our snapshots, and anything at all in
those that stock restic wrote. b"" is the snapshot's root.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from operator import lt
from threading import Lock

from backupctl.errors import DamageError, NoSuchError
from backupctl.hosts.posix import translate
from backupctl.hosts.protocol import Placer
from backupctl.repository.endless import WalkLimits
from backupctl.repository.format import FormatError
from backupctl.repository.format.names import display_name
from backupctl.repository.format.node import Node
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree_reading import read_tree
from backupctl.repository.repository import CHECK, Repository

_LOADERS = 8  # threads: enough to hide the latency of an object store
_AHEAD_BYTES = 16 << 20
_CACHE_BYTES = 16 << 20
_CACHED_TREES = 16


class SnapshotReader:
    """Use as a context manager, or call `close`: it may hold threads. Not for use by several threads at once.

    Raises NoSuchError for a path that is not there, DamageError for content that is not what it must be."""

    def __init__(self, repo: Repository, snapshot: Snapshot) -> None:
        self.repo = repo
        self.snapshot = snapshot
        self._trees: OrderedDict[bytes, Sequence[Node]] = OrderedDict()
        self._blobs = _BlobCache(repo)
        self._loaders: ThreadPoolExecutor | None = None

    def __enter__(self) -> SnapshotReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self._loaders is not None:
            self._loaders.shutdown(cancel_futures=True)
            self._loaders = None

    def node(self, path: bytes) -> Node:
        """The node at `path`; for b"" a directory that stands for the root."""
        node = Node(b"", "dir", 0o755, subtree=self.snapshot.tree)
        seen = b""
        for part in filter(None, path.split(b"/")):
            children = self.children(seen, node) if node.type == "dir" else ()
            found = next((child for child in children if child.name == part), None)
            if found is None:
                raise NoSuchError(
                    f"snapshot {self.snapshot.short_id} holds nothing at /{display_name(path)}",
                    next_step=f"look around: backupctl ls {self.snapshot.short_id}",
                )
            node, seen = found, join(seen, part)
        return node

    def children(self, path: bytes, node: Node) -> Sequence[Node]:
        """What the directory `node`, found at `path`, holds, in byte order. Raises DamageError, which names `path`."""
        if node.subtree is None:
            raise _damage(path, "the directory has no tree")
        if node.subtree in self._trees:
            self._trees.move_to_end(node.subtree)
            return self._trees[node.subtree]
        try:
            nodes = read_tree(self.repo.load_blob("tree", node.subtree))
            names = [child.name for child in nodes]
            if not all(map(lt, names, names[1:])):  # all that we write is in order
                nodes.sort(key=lambda child: child.name)
                for before, after in pairwise(nodes):
                    if before.name == after.name:
                        raise FormatError(f"two entries are named {display_name(after.name)}")
        except DamageError as error:
            raise _damage(path, error.message, error.name) from error
        except FormatError as error:
            tree = node.subtree.hex()
            raise _damage(path, f"tree {tree}: {error}", f"tree/{tree}") from None
        self._trees[node.subtree] = nodes
        if len(self._trees) > _CACHED_TREES:
            self._trees.popitem(last=False)
        return nodes

    def walk(self, path: bytes = b"") -> Iterator[tuple[bytes, Node]]:
        """Everything below `path`, depth first in byte order, a directory before what it holds. A `path` that is no
        directory yields itself."""
        path = clean(path)
        node = self.node(path)
        if node.type != "dir":
            yield path, node
            return
        stack = [(path, iter(self.children(path, node)))]
        limits = WalkLimits()
        while stack:
            where, nodes = stack[-1]
            child = next(nodes, None)
            if child is None:
                stack.pop()
                continue
            child_path = join(where, child.name)
            yield child_path, child
            if child.type == "dir":
                limits.enter(child_path, child)
                stack.append((child_path, iter(self.children(child_path, child))))

    def list(self, path: bytes = b"", *, recursive: bool = False) -> Iterator[tuple[bytes, Node]]:
        """What the directory at `path` holds, or everything below it; a file lists itself."""
        path = clean(path)
        node = self.node(path)
        if recursive or node.type != "dir":
            yield from self.walk(path)
        else:
            for child in self.children(path, node):
                yield join(path, child.name), child

    def find(self, pattern: str, path: bytes = b"") -> Iterator[tuple[bytes, Node]]:
        """What `pattern` matches below `path`: names at any depth, or with a `/` whole paths that begin with one (`*`
        does not cross `/`, `**` does)."""
        matcher = re.compile(translate(pattern), re.DOTALL)
        for found, node in self.walk(path):
            subject = b"/" + found if "/" in pattern else node.name
            if matcher.fullmatch(os.fsdecode(subject)):
                yield found, node

    def open(self, path: bytes) -> BlobStream:
        """The content of the regular file at `path`."""
        return self.open_node(clean(path), self.node(path))

    def open_node(self, path: bytes, node: Node) -> BlobStream:
        """The same for a node already found. Loading begins at once, so open a file only when it will be read soon."""
        if node.type != "file":
            raise NoSuchError(
                f"/{display_name(path)} is a {node.type}, not a regular file",
                next_step=f"list it: backupctl ls {self.snapshot.short_id} {display_name(path)}",
            )
        if self._loaders is None:
            self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="load")
        return BlobStream(self._loaders, self._blobs, node.content or [], self.size(node), path)

    def require(self, path: bytes, blob: bytes) -> None:
        """Raises DamageError, which names `path`, when no copy of a data blob of the file there can be read."""
        try:
            self._blobs.load(blob)
        except DamageError as error:
            raise _damage(path, error.message, error.name) from error

    def size(self, node: Node) -> int:
        """The size of a file. Streams that stock restic stored say none: then what the index says of its blobs."""
        if node.size or node.inode or not node.content:
            return node.size
        return sum(places[0].blob.size for blob in node.content if (places := self.repo.locate("data", blob)))

    def files(self, source: str) -> SourceFiles:
        """One source's directory, as a restore of that source sees it. Raises NoSuchError."""
        self.node(source.encode())
        return SourceFiles(self, source.encode())


class SourceFiles:
    """`sources.protocol.SnapshotFiles` over a directory of a snapshot."""

    def __init__(self, reader: SnapshotReader, root: bytes) -> None:
        self._reader = reader
        self._root = root

    def names(self, directory: bytes = b"") -> list[bytes]:
        path = join(self._root, clean(directory))
        return [node.name for node in self._reader.children(path, self._reader.node(path))]

    def open(self, path: bytes) -> BlobStream:
        return self._reader.open(join(self._root, clean(path)))

    def size(self, path: bytes) -> int:
        return self._reader.size(self._reader.node(join(self._root, clean(path))))

    def restore(
        self, placer: Placer, path: bytes = b"", progress: Callable[[int], None] = lambda done: None
    ) -> list[str]:
        from backupctl.repository.restore import restore  # which is built on this module

        below = join(self._root, clean(path))
        stats = restore(self._reader, placer, path=below, progress=lambda files, done, where: progress(done))
        return [f"/{problem.path}: {problem.message}" for problem in stats.problems]


class BlobStream:
    """A file's content. The end comes only after exactly `size` bytes; anything else is a DamageError."""

    def __init__(
        self, loaders: ThreadPoolExecutor, blobs: _BlobCache, content: Sequence[bytes], size: int, path: bytes
    ) -> None:
        self.size = size
        self._loaders = loaders
        self._blobs = blobs
        self._content = content
        self._path = path
        self._next = 0
        self._ahead: deque[Future[bytes]] = deque()
        average_bytes = max(1, size // max(1, len(content)))
        self._window = max(2, min(_LOADERS * 2, _AHEAD_BYTES // average_bytes))
        self._data = b""
        self._position = 0  # in _data
        self._delivered = 0
        self._load_ahead()

    def _load_ahead(self) -> None:
        while len(self._ahead) < self._window and self._next < len(self._content):
            self._ahead.append(self._loaders.submit(self._blobs.load, self._content[self._next]))
            self._next += 1

    def blobs(self) -> Iterator[bytes]:
        """The content blob by blob, without copying; instead of `read`, not between two reads."""
        while (data := self._next_blob()) is not None:
            yield data

    def parts(self) -> Iterator[tuple[int, bytes]]:
        """The same with the offset of each."""
        offset = 0
        for data in self.blobs():
            yield offset, data
            offset += len(data)

    def _next_blob(self) -> bytes | None:
        if not self._ahead:
            if self._delivered != self.size:
                raise _damage(self._path, f"its blobs hold {self._delivered} bytes, its size is {self.size}")
            return None
        try:
            data = self._ahead.popleft().result()
        except DamageError as error:
            raise _damage(self._path, error.message, error.name) from error
        self._load_ahead()
        self._delivered += len(data)
        if self._delivered > self.size:
            raise _damage(self._path, f"its blobs hold more than its size, {self.size} bytes")
        return data

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            rest = self._data[self._position :]
            self._data, self._position = b"", 0
            return rest + b"".join(self.blobs())
        while self._position == len(self._data) and size:
            data = self._next_blob()
            if data is None:
                return b""
            self._data, self._position = data, 0
        piece = self._data[self._position : self._position + size]
        self._position += len(piece)
        return piece

    def close(self) -> None:
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._next = len(self._content)
        self._delivered = self.size
        self._data, self._position = b"", 0

    def __enter__(self) -> BlobStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _damage(path: bytes, what: str, name: str = "") -> DamageError:
    where = display_name(b"/" + path)
    return DamageError(f"{where}: {what}", name=name or where, next_step=CHECK)


class _BlobCache:
    """The data blobs used last: a sparse file is one blob many times. Thread-safe."""

    def __init__(self, repo: Repository) -> None:
        self._repo = repo
        self._guard = Lock()
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0

    def load(self, blob_id: bytes) -> bytes:
        with self._guard:
            if blob_id in self._kept:
                self._kept.move_to_end(blob_id)
                return self._kept[blob_id]
        data = self._repo.load_blob("data", blob_id)
        with self._guard:
            if blob_id not in self._kept:
                self._kept[blob_id] = data
                self._bytes += len(data)
            while self._bytes > _CACHE_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return data


def join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory and name else directory or name


def clean(path: bytes) -> bytes:
    """Without a leading, trailing or doubled slash."""
    return b"/".join(filter(None, path.split(b"/")))
