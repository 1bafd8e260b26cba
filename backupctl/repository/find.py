"""Searches many snapshots of one repository: by name, by times, or for whatever uses a damaged object.

A directory in which nothing was found is not read again where it comes back unchanged, so that searching three hundred
nights costs little more than searching one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from backupctl.errors import DamageError, NoSuchError
from backupctl.hosts.posix import translate
from backupctl.repository.endless import WalkLimits
from backupctl.repository.format.node import Node
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.times import datetime_ns
from backupctl.repository.manifest import read_manifest
from backupctl.repository.reader import SnapshotReader, join
from backupctl.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Query:
    """All that is given has to fit. `pattern`: a name like `*.sql`; with a `/` a path, which begins at the snapshot's root
    when the pattern begins with `/` and anywhere otherwise (`*` does not cross `/`, `**` does). `oldest` and `newest`
    bound the time of last change. `blobs` and `trees`: ids of objects that the file or directory has to use."""

    pattern: str = "*"
    ignore_case: bool = False
    oldest: datetime | None = None
    newest: datetime | None = None
    blobs: frozenset[bytes] | None = None
    trees: frozenset[bytes] | None = None

    @property
    def by_path(self) -> bool:
        return "/" in self.pattern.rstrip("/")

    def matcher(self) -> Matcher:
        pattern = self.pattern if not self.by_path or self.pattern.startswith("/") else "/**/" + self.pattern
        return Matcher(self, re.compile(translate(pattern), re.DOTALL | (re.IGNORECASE if self.ignore_case else 0)))


class Matcher:
    def __init__(self, query: Query, expression: re.Pattern[str]) -> None:
        self._query = query
        self._matches = expression.fullmatch
        self._from = datetime_ns(query.oldest) if query.oldest else None
        self._until = datetime_ns(query.newest) if query.newest else None

    def __call__(self, path: bytes, node: Node) -> bool:
        subject = b"/" + path if self._query.by_path else node.name
        if not self._matches(os.fsdecode(subject)):
            return False
        if self._from is not None and node.mtime_ns < self._from:
            return False
        if self._until is not None and node.mtime_ns > self._until:
            return False
        return self._uses(node)

    def _uses(self, node: Node) -> bool:
        blobs, trees = self._query.blobs, self._query.trees
        if blobs is None and trees is None:
            return True
        if node.content and blobs and not blobs.isdisjoint(node.content):
            return True
        return bool(trees) and node.subtree in (trees or ())


class Finder:
    """Give it snapshots in any order. `problems` gathers directories that cannot be read: what is in them is not found."""

    def __init__(self, repository: Repository, query: Query) -> None:
        self._repository = repository
        self._query = query
        self._matches = query.matcher()
        self._barren: set[bytes | tuple[bytes, bytes]] = set()  # trees that hold no match, at one path if that matters
        self.problems: list[str] = []

    def find(self, snapshot: Snapshot) -> Iterator[tuple[bytes, Node]]:
        """What matches, depth first in byte order."""
        with SnapshotReader(self._repository, snapshot) as reader:
            root = Node(b"", "dir", 0o755, subtree=snapshot.tree)
            if self._query.trees and self._query.pattern == "*" and snapshot.tree in self._query.trees:
                yield b"", root
            yield from self._below(reader, root)

    def _below(self, reader: SnapshotReader, root: Node) -> Iterator[tuple[bytes, Node]]:
        stack = [_Level(b"", root, iter(self._children(reader, b"", root)))]
        limits = WalkLimits()
        while stack:
            level = stack[-1]
            node = next(level.nodes, None)
            if node is None:
                stack.pop()
                if level.barren:
                    self._barren.add(self._key(level.path, level.directory))
                elif stack:
                    stack[-1].barren = False
                continue
            path = join(level.path, node.name)
            if self._matches(path, node):
                level.barren = False
                yield path, node
            if node.type == "dir" and self._key(path, node) not in self._barren:
                limits.enter(path, node)
                stack.append(_Level(path, node, iter(self._children(reader, path, node))))

    def _key(self, path: bytes, directory: Node) -> bytes | tuple[bytes, bytes]:
        tree = directory.subtree or b""
        return (tree, path) if self._query.by_path else tree

    def _children(self, reader: SnapshotReader, path: bytes, node: Node) -> Iterable[Node]:
        try:
            return reader.children(path, node)
        except DamageError as error:
            self.problems.append(f"snapshot {reader.snapshot.short_id}: {error.message}")
            return ()


@dataclass(slots=True)
class _Level:
    path: bytes
    directory: Node
    nodes: Iterator[Node]
    barren: bool = True


@dataclass(slots=True)
class Version:
    """A file as it was in consecutive snapshots of one job: those of a directory differ by owner and rights only."""

    path: bytes
    node: Node
    snapshots: list[Snapshot] = field(default_factory=list)  # newest first

    @property
    def newest(self) -> Snapshot:
        return self.snapshots[0]

    @property
    def oldest(self) -> Snapshot:
        return self.snapshots[-1]


def versions(
    found: Iterable[tuple[Snapshot, bool, Iterable[tuple[bytes, Node]]]],
) -> list[Version]:
    """The history of every path, newest version first. `found`: the matches in each snapshot of one job, newest first, and
    whether that snapshot is complete: a path that a complete snapshot lacks was gone then, an incomplete one proves
    nothing."""
    history: dict[bytes, list[tuple[Version, int]]] = {}
    complete = 0  # snapshots so far: a path seen at the same number, or one less, was never seen to be gone
    for snapshot, is_complete, matches in found:
        for path, node in matches:
            every = history.setdefault(path, [])
            if every:
                version, seen = every[-1]
                if seen == complete and _same(version.node, node):
                    version.snapshots.append(snapshot)
                    every[-1] = version, complete + is_complete
                    continue
            every.append((Version(path, node, [snapshot]), complete + is_complete))
        complete += is_complete
    return [version for path in sorted(history) for version, _ in history[path]]


def _same(one: Node, other: Node) -> bool:
    facts = [
        (node.type, node.mode, node.uid, node.gid)
        if node.type == "dir"
        else (node.type, node.mode, node.uid, node.gid, node.mtime_ns, node.size, node.content, node.linktarget)
        for node in (one, other)
    ]
    return facts[0] == facts[1]


def pack_contents(repository: Repository, prefix: str) -> tuple[str, frozenset[bytes], frozenset[bytes]]:
    """The full id of the pack that begins with `prefix`, and the data blobs and trees that an index says lie in it: also
    of a pack that is lost. Raises NoSuchError."""
    packs = [pack for pack in repository.index.packs if pack.hex().startswith(prefix)]
    _one("pack", prefix, [pack.hex() for pack in packs])
    places = [place for place in repository.index if place.pack == packs[0]]
    ids = [frozenset(place.blob.id for place in places if place.blob.kind == kind) for kind in ("data", "tree")]
    return packs[0].hex(), ids[0], ids[1]


def blob_ids(repository: Repository, prefix: str) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Data blobs and trees whose ids begin with `prefix`; a whole id is taken as it is, whether or not an index knows
    it. Raises NoSuchError for a shorter one that nothing begins with."""
    if len(prefix) == 64:
        wanted = frozenset((bytes.fromhex(prefix),))
        return wanted, wanted
    found = {place.blob.id for place in repository.index if place.blob.id.hex().startswith(prefix)}
    _one("blob or tree", prefix, [blob.hex() for blob in found])
    return frozenset(found), frozenset(found)


def _one(what: str, prefix: str, found: list[str]) -> None:
    if not found:
        raise NoSuchError(f"no {what} {prefix} in any index", next_step="give its whole id as the report names it")
    if len(found) > 1:
        raise NoSuchError(
            f"{len(found)} {what}s begin with {prefix}", next_step=f"one of: {', '.join(sorted(found)[:5])}"
        )


def with_content(
    repository: Repository, snapshot: Snapshot, manifest: str, sha256: str
) -> Iterator[tuple[bytes, Node]]:
    """The files whose whole content has this SHA-256 (hex), by the manifest, the record of that id."""
    entries = read_manifest(repository, manifest)
    with SnapshotReader(repository, snapshot) as reader:
        for entry in entries:
            if entry.sha256 == sha256:
                yield entry.path, reader.node(entry.path)
