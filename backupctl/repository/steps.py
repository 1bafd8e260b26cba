"""What a restore does, one object after the other, in the order of the tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from backupctl.errors import DamageError
from backupctl.hosts.placing import Facts
from backupctl.hosts.protocol import FileInfo
from backupctl.repository.endless import WalkLimits
from backupctl.repository.format.node import Node
from backupctl.repository.reader import SnapshotReader, clean, join


@dataclass(slots=True)
class Step:
    kind: Literal["enter", "leave", "place", "damage"]
    path: bytes  # in the snapshot
    name: bytes  # relative to the target
    node: Node
    message: str = ""


@dataclass(slots=True)
class Selection:
    """A part of what a restore would do, by names relative to the target: directories to go into, and what else to make."""

    enter: set[bytes] = field(default_factory=set)
    place: set[bytes] = field(default_factory=set)


def steps(reader: SnapshotReader, path: bytes, only: Selection | None = None) -> Iterator[Step]:
    """All of what is in the directory `path`, or the object itself; of it `only` what is selected. Raises NoSuchError; a
    directory that cannot be read is a step of its own."""
    path = clean(path)
    top = reader.node(path)
    if top.type != "dir":
        yield Step("place", path, top.name, top)
        return
    stack: list[tuple[bytes, bytes, Node, Iterator[Node]]] = [(path, b"", top, iter(reader.children(path, top)))]
    limits = WalkLimits()
    while stack:
        where, name, directory, nodes = stack[-1]
        node = next(nodes, None)
        if node is None:
            stack.pop()
            if stack:
                yield Step("leave", where, name, directory)
            continue
        inner, inner_name = join(where, node.name), join(name, node.name)
        if node.type != "dir":
            if only is None or inner_name in only.place:
                yield Step("place", inner, inner_name, node)
            continue
        if only is not None and inner_name not in only.enter:
            continue
        limits.enter(inner, node)
        yield Step("enter", inner, inner_name, node)
        try:
            children = reader.children(inner, node)
        except DamageError as error:
            yield Step("damage", inner, inner_name, node, error.message)
            children = ()
        stack.append((inner, inner_name, node, iter(children)))


class Links:
    """Where the first of each group of hard links went, until all of the group came by."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], tuple[bytes, int]] = {}

    def first(self, node: Node) -> bytes | None:
        """Where a file that `node` is a link of was made."""
        made = self._made.get((node.device_id, node.inode)) if node.links > 1 and node.inode else None
        return made[0] if made else None

    def made(self, node: Node, destination: bytes) -> None:
        if node.links <= 1 or not node.inode:
            return
        key = (node.device_id, node.inode)
        where, remaining = self._made.get(key, (destination, node.links))
        if remaining > 1:
            self._made[key] = (where, remaining - 1)
        else:
            self._made.pop(key, None)

    def forget(self, destination: bytes) -> None:
        """It failed after all: the next link of the group is made with its content."""
        self._made = {key: made for key, made in self._made.items() if made[0] != destination}


def info_of(path: bytes, node: Node) -> FileInfo:
    return FileInfo(
        path=path,
        kind=node.type,
        mode=node.mode,
        uid=node.uid,
        gid=node.gid,
        user=node.user,
        group=node.group,
        size=node.size,
        mtime_ns=node.mtime_ns,
        device=node.device,
        linktarget=node.linktarget,
        xattrs=tuple(node.xattrs),
    )


def facts_of(node: Node) -> Facts:
    """What a worker sets on a file."""
    return node.mode, node.uid, node.gid, node.mtime_ns, tuple(node.xattrs)
