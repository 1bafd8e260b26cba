"""The directories that are open while a source's entries come depth first: from its top to where the entries have got to.

Each is built bottom-up and compared, name by name, with what the parent snapshot has there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from backupctl.repository.devices import mount_number
from backupctl.repository.format.names import display_name
from backupctl.repository.format.node import Node
from backupctl.repository.format.tree import iterate_tree
from backupctl.repository.parent import OldNodes


@dataclass(frozen=True, slots=True)
class Before:
    """What is known of an entry: `old` is what may be taken over, `base` what the parent snapshot has. They differ only
    where an interrupted run had got to."""

    old: Node | None = None
    base: Node | None = None


@dataclass(slots=True)
class Directory:
    node: Node
    path: bytes  # with the source's name
    before: Before
    old_nodes: OldNodes
    base_nodes: OldNodes | None  # None: as `old_nodes`
    nodes: list[Node] = field(default_factory=list)
    last_name: bytes = b""
    device: int = 0  # its st_dev, 0 for none, and what stands for it
    number: int = 0
    made: bool = False  # by us, since nobody yielded it


class OldTreesReader:
    """Nodes of trees that an earlier snapshot has, as far as they can be read: they are hints. What cannot be is noted."""

    def __init__(self, load: Callable[[bytes], bytes], notes: list[str]) -> None:
        self._load, self._notes = load, notes

    def open(self, tree: bytes | None, path: bytes) -> OldNodes:
        return OldNodes(self._iterate(tree), self._notes, path)

    def take(self, tree: bytes | None, name: bytes) -> Node | None:
        """The node of that name in a root tree."""
        return self.open(tree, b"/").take(name)

    def all(self, tree: bytes | None) -> Iterator[Node]:
        nodes = self.open(tree, b"")
        while (node := nodes.next()) is not None:
            yield node

    def _iterate(self, tree: bytes | None) -> Iterator[Node]:
        if tree is not None:
            yield from iterate_tree(self._load(tree))


class OpenDirectories:
    """Of one source. `save` stores a tree, `left` is told of each directory below the top that is complete."""

    def __init__(
        self,
        source: str,
        before: Before,
        old_trees: OldTreesReader,
        save: Callable[[list[Node]], bytes],
        left: Callable[[Directory], None],
    ) -> None:
        self._source, self._name = source, source.encode()
        self._old_trees, self._save, self._left = old_trees, save, left
        self._devices: dict[int, int] = {}  # st_dev → the order in which this source showed them
        self.stack = [self._directory(Node(self._name, "dir", 0o755), self._name, before)]

    @property
    def here(self) -> Directory:
        """The innermost."""
        return self.stack[-1]

    def end(self) -> Node:
        """Leave all of them; the top's node."""
        while len(self.stack) > 1:
            self._leave()
        top = self.stack.pop()
        top.node.subtree = self._save(top.nodes)
        return top.node

    def enter(self, directories: list[bytes]) -> None:
        """Leave what does not lie on the way there, and make what nobody yielded."""
        common = 0
        for directory, open_directory in zip(directories, self.stack[1:], strict=False):
            if directory != open_directory.node.name:
                break
            common += 1
        while len(self.stack) > common + 1:
            self._leave()
        for name in directories[common:]:
            self.push(Node(name, "dir", 0o755))
            self.here.made = True

    def push(self, node: Node, device: int = 0, number: int = 0) -> None:
        before = self.take(node.name)
        self.stack.append(self._directory(node, self.here.path + b"/" + node.name, before))
        self.here.device, self.here.number = device, number

    def take(self, name: bytes) -> Before:
        """What was known of the next name here. Raises ValueError when it does not ascend: a bug in the source."""
        directory = self.here
        if name <= directory.last_name:
            where = display_name(directory.path)
            raise ValueError(
                f"in {where}, the source yielded {name!r} after {directory.last_name!r}: names must ascend"
            )
        directory.last_name = name
        old = directory.old_nodes.take(name)
        return Before(old, directory.base_nodes.take(name) if directory.base_nodes is not None else old)

    def canonical(self, node: Node, name: bytes, number: int = 0) -> Node:
        """The node as it is stored: equal things must give equal trees on every run and every machine."""
        linked = node.type == "file" and node.links > 1
        return replace(
            node,
            name=name,
            atime_ns=node.mtime_ns,
            device_id=number or self.number(node.device_id, name, node.type) if linked else 0,
            links=node.links if node.type in ("file", "symlink", "dev", "chardev") else 0,
            content=None,
            subtree=None,
            error="",
        )

    def number(self, device_id: int, name: bytes, kind: str) -> int:
        """What stands for the file system of something in the open directory, as in a walk: survives a reboot, is the same
        whoever reads it, and never equals one of another source (another host)."""
        inside = self.here
        if device_id and device_id == inside.device:
            return inside.number
        if not inside.device:  # the first of its kind that this source shows
            ordinal = self._devices.setdefault(device_id, len(self._devices))
            return mount_number(b"%d" % ordinal, self._source)
        if kind == "dir":
            return mount_number(inside.path[len(self._name) :] + b"/" + name, self._source)
        return mount_number(b"%d/%d" % (device_id, inside.number), self._source)

    def tree_so_far(self, child: Node | None) -> Node | None:
        """The top's node with what is done, `child` of the innermost directory included, and what was known before of what
        is not done yet; its trees are saved, not flushed. None once all was left."""
        for directory in reversed(self.stack):
            nodes = [*directory.nodes, *([child] if child is not None else [])]
            old = directory.before.old
            known = self._old_trees.all(old.subtree if old is not None else None)
            nodes += (node for node in known if node.name > directory.last_name)
            child = replace(directory.node, subtree=self._save(nodes))
        return child

    def _leave(self) -> None:
        done = self.stack.pop()
        done.node.subtree = self._save(done.nodes)
        self.here.nodes.append(done.node)
        self._left(done)

    def _directory(self, node: Node, path: bytes, before: Before) -> Directory:
        old, base = (one.subtree if one is not None else None for one in (before.old, before.base))
        base_nodes = None if old == base else self._old_trees.open(base, path)
        return Directory(node, path, before, self._old_trees.open(old, path), base_nodes)
