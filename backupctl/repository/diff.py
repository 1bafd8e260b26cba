"""What differs between two snapshots of one repository.

Both trees are walked side by side in byte order; where the two ids of a directory are equal nothing below it is read, so
the time grows with what changed and not with what there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from backupctl.errors import DamageError, NoSuchError
from backupctl.repository.endless import WalkLimits
from backupctl.repository.format.names import display_name
from backupctl.repository.format.node import Node
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.reader import SnapshotReader, clean, join
from backupctl.repository.repository import Repository

DifferenceKind = Literal["added", "removed", "changed", "type", "metadata"]

_METADATA = ("mode", "uid", "gid", "user", "group", "mtime_ns", "xattrs")
_FIELD_NAMES = {"mtime_ns": "mtime"}


@dataclass(frozen=True, slots=True)
class Difference:
    """`old` is None for what was added, `new` for what was removed. `fields`: what metadata differs, also beside a
    change of content."""

    path: bytes
    kind: DifferenceKind
    old: Node | None
    new: Node | None
    fields: tuple[str, ...] = ()

    @property
    def node(self) -> Node:
        node = self.new or self.old
        assert node is not None
        return node


@dataclass(slots=True)
class Tally:
    """`bytes` is the sum of file sizes, each name counted."""

    files: int = 0
    directories: int = 0
    others: int = 0
    bytes: int = 0

    def add(self, node: Node) -> None:
        if node.type == "file":
            self.files += 1
            self.bytes += node.size
        elif node.type == "dir":
            self.directories += 1
        else:
            self.others += 1


@dataclass(slots=True)
class DiffStats:
    """`problems`: directories that cannot be read; what is in them is in no list. `added_blob_bytes` and
    `removed_blob_bytes` are the plain bytes of blobs, data and trees, that only one side of what differs refers to: a blob
    that also lies in an equal part counts all the same, because equal parts are not read."""

    added: Tally = field(default_factory=Tally)
    removed: Tally = field(default_factory=Tally)
    changed: Tally = field(default_factory=Tally)
    retyped: int = 0
    metadata: int = 0
    added_blob_bytes: int = 0
    removed_blob_bytes: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def differences(self) -> int:
        tallies = (self.added, self.removed, self.changed)
        return self.retyped + self.metadata + sum(one.files + one.directories + one.others for one in tallies)


class SnapshotDiff:
    """Iterate once, in byte order of the paths, a directory before what it holds; `stats` is complete afterwards.

    With `metadata`, entries whose content is equal and whose rights, owners, times of change or attributes are not count
    as differences too. Times of access, inode numbers and link counts never do."""

    def __init__(
        self, repository: Repository, old: Snapshot, new: Snapshot, path: bytes = b"", *, metadata: bool = False
    ) -> None:
        self.stats = DiffStats()
        self._repository = repository
        self._path = clean(path)
        self._metadata = metadata
        self._snapshots = (old, new)
        self._blobs: tuple[set[bytes], set[bytes]] = (set(), set())
        self._trees: tuple[set[bytes], set[bytes]] = (set(), set())

    def __iter__(self) -> Iterator[Difference]:
        """Raises NoSuchError when neither snapshot holds the path. Damage is in the stats, the rest is compared."""
        old, new = self._snapshots
        with SnapshotReader(self._repository, old) as old_reader, SnapshotReader(self._repository, new) as new_reader:
            self._readers = old_reader, new_reader
            nodes = [_node(reader, self._path) for reader in self._readers]
            if nodes == [None, None]:
                raise NoSuchError(
                    f"neither {old.short_id} nor {new.short_id} holds /{display_name(self._path)}",
                    next_step=f"look around: backupctl ls {new.short_id}",
                )
            for one in self._walk(self._path, nodes[0], nodes[1]):
                self._count(one)
                yield one
        self.stats.added_blob_bytes = self._bytes_only_in(1)
        self.stats.removed_blob_bytes = self._bytes_only_in(0)

    def _walk(self, path: bytes, old: Node | None, new: Node | None) -> Iterator[Difference]:
        # A stack of our own: as deep as a hostile tree is, Python's does not overflow.
        stack = [iter([(path, old, new)])]
        limits = WalkLimits()
        while stack:
            step = next(stack[-1], None)
            if step is None:
                stack.pop()
                continue
            where, before, after = step
            if where and (found := self._compare(where, before, after)) is not None:
                yield found
            trees = {node.subtree for node in (before, after) if node and node.type == "dir"}
            both = before and after and before.type == after.type
            if trees and (not both or len(trees) > 1 or None in trees):
                for node in (before, after):
                    if node is not None:
                        limits.enter(where, node)
                stack.append(self._pairs(where, before, after))

    def _compare(self, path: bytes, old: Node | None, new: Node | None) -> Difference | None:
        for side, node in enumerate((old, new)):
            if node is not None and node.content and (old is None or new is None or old.content != new.content):
                self._blobs[side].update(node.content)
        if old is None or new is None:
            return Difference(path, "added" if old is None else "removed", old, new)
        if old.type != new.type:
            return Difference(path, "type", old, new)
        fields = tuple(_FIELD_NAMES.get(name, name) for name in _METADATA if getattr(old, name) != getattr(new, name))
        if (old.content, old.size, old.linktarget, old.device) != (new.content, new.size, new.linktarget, new.device):
            return Difference(path, "changed", old, new, fields)
        return Difference(path, "metadata", old, new, fields) if fields and self._metadata else None

    def _pairs(
        self, path: bytes, old: Node | None, new: Node | None
    ) -> Iterator[tuple[bytes, Node | None, Node | None]]:
        """What the directories hold, name by name; nothing for what is no directory, or when a side cannot be read."""
        before, after = self._children(0, path, old), self._children(1, path, new)
        if before is None or after is None:
            return
        for name in sorted(before.keys() | after.keys()):
            yield join(path, name), before.get(name), after.get(name)

    def _children(self, side: int, path: bytes, node: Node | None) -> dict[bytes, Node] | None:
        if node is None or node.type != "dir":
            return {}
        try:
            children = self._readers[side].children(path, node)
        except DamageError as error:
            self.stats.problems.append(f"snapshot {self._snapshots[side].short_id}: {error.message}")
            return None
        assert node.subtree is not None
        self._trees[side].add(node.subtree)
        return {child.name: child for child in children}

    def _count(self, one: Difference) -> None:
        if one.kind == "added":
            self.stats.added.add(one.node)
        elif one.kind == "removed":
            self.stats.removed.add(one.node)
        elif one.kind == "changed":
            self.stats.changed.add(one.node)
        elif one.kind == "type":
            self.stats.retyped += 1
        else:
            self.stats.metadata += 1

    def _bytes_only_in(self, side: int) -> int:
        own = [("data", blob) for blob in self._blobs[side] - self._blobs[1 - side]]
        own += [("tree", tree) for tree in self._trees[side] - self._trees[1 - side]]
        index = self._repository.index
        return sum(index.blob_size("tree" if kind == "tree" else "data", blob) or 0 for kind, blob in own)


def _node(reader: SnapshotReader, path: bytes) -> Node | None:
    try:
        return reader.node(path)
    except NoSuchError:
        return None
