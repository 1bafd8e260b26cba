"""Makes a directory what a snapshot says, touching only what differs: content that is there already is not read again, and
what the snapshot does not hold is removed.

A file that is there is kept only when it cannot hold anything else than what is wanted. Of a directory that we alone write
to, two things are known: what each file looks like now (kind, size, mtime, links), and which snapshots were ever being put
there since the last one that was finished (`olds`). Content comes before times (see `Placer.metadata`), so a file with the size
and mtime of some snapshot's file holds that file. Where every one of these snapshots that has such a file there has the same
content, it is the wanted one. Whatever was killed, and however often, the next call is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from backupctl.errors import DamageError, NoSuchError
from backupctl.hosts.protocol import FileInfo, Placer
from backupctl.repository.endless import WalkLimits
from backupctl.repository.format.node import Node
from backupctl.repository.reader import SnapshotReader, clean, join
from backupctl.repository.restore import Progress, RestoreProblem, RestoreStats, restore
from backupctl.repository.steps import Selection, info_of

UNKNOWN = Node(b"", "file")
"""What cannot be told any more, as the tree it stood in cannot be read: it could be anything."""


@dataclass(slots=True)
class MirrorPlan:
    """Names are relative to the directory. `bytes` is what is read from the repository, `kept_files` what is not."""

    remove: list[bytes] = field(default_factory=list)
    metadata: dict[bytes, Node] = field(default_factory=dict)  # nothing but that differs; directories are in `changed`
    changed: Selection = field(default_factory=Selection)
    opened: list[FileInfo] = field(default_factory=list)  # directories that we could not change otherwise
    files: int = 0
    bytes: int = 0
    kept_files: int = 0

    @property
    def nothing(self) -> bool:
        return not (self.remove or self.metadata or self.changed.enter or self.changed.place)


@dataclass(slots=True)
class _Group:
    """Hard links to one file."""

    paths: list[tuple[bytes, Node]] = field(default_factory=list)
    inodes: set[int] = field(default_factory=set)
    links: int = 0
    certain: bool = True


def plan_mirror(
    reader: SnapshotReader,
    source: bytes,
    actual: Iterable[FileInfo],
    olds: Sequence[SnapshotReader],
    *,
    distrust_from_ns: int | None = None,
) -> MirrorPlan:
    """What it takes to make the directory that `actual` was seen in (`Host.scan`, without the directory itself, paths
    relative to it) what `source` of the snapshot holds. `olds`: every snapshot that may have been put there, finished or not.
    `distrust_from_ns`: files with a ctime from there on may not have reached the disk before the power went.

    Raises DamageError when a directory of the snapshot cannot be read, NoSuchError: nothing is known then to be superfluous."""
    plan = MirrorPlan()
    groups: dict[tuple[int, int], _Group] = {}
    found = _Actual(actual)
    for path, node, before in _walk(reader, clean(source), olds):
        for superfluous in found.before(path):
            _remove(plan, superfluous)
        info = found.take(path)
        if info is not None and (info.kind != node.type or info.error):
            _remove(plan, info)
            found.skip_below(path)
            info = None
        if node.type == "dir":
            if info is None or _differs(node, info):
                plan.changed.enter.add(path)
                _go_to(plan, path)
            if info is not None and info.mode & 0o700 != 0o700:
                plan.opened.append(info)
        elif node.type == "file" and node.links > 1 and node.inode:
            group = groups.setdefault((node.device_id, node.inode), _Group())
            group.paths.append((path, node))
            group.certain &= info is not None and _certain(reader, node, info, before, distrust_from_ns)
            if info is not None:
                group.inodes.add(info.inode)
                group.links = info.links
                if group.certain and _differs(node, info):
                    plan.metadata[path] = node
        elif node.type == "file":
            if info is None or info.links != 1 or not _certain(reader, node, info, before, distrust_from_ns):
                _place(plan, path, node, reader.size(node))
            else:
                _keep(plan, path, node, info)
        elif info is None or (info.linktarget, info.device) != (node.linktarget, node.device):
            _place(plan, path, node, 0)
        else:
            _keep(plan, path, node, info)
    for superfluous in found.before(None):
        _remove(plan, superfluous)
    for group in groups.values():
        _settle(plan, reader, group)
    plan.opened = [info for info in plan.opened if info.path in plan.changed.enter]
    return plan


def _place(plan: MirrorPlan, path: bytes, node: Node, size: int) -> None:
    plan.changed.place.add(path)
    plan.files += node.type == "file"
    plan.bytes += size
    _go_to(plan, path)


def _go_to(plan: MirrorPlan, path: bytes) -> None:
    """Into every directory on the way, whose own times are set again when it is left."""
    while b"/" in path and (path := path.rpartition(b"/")[0]) not in plan.changed.enter:
        plan.changed.enter.add(path)


def _keep(plan: MirrorPlan, path: bytes, node: Node, info: FileInfo) -> None:
    plan.kept_files += node.type == "file"
    if _differs(node, info):
        plan.metadata[path] = node
        _go_to(plan, path)


def _remove(plan: MirrorPlan, info: FileInfo) -> None:
    plan.remove.append(info.path)
    _go_to(plan, info.path)


def _settle(plan: MirrorPlan, reader: SnapshotReader, group: _Group) -> None:
    """All of a group are kept, or all are made anew: the first with its content, the others as links to it."""
    if group.certain and len(group.inodes) == 1 and group.links == len(group.paths):
        plan.kept_files += len(group.paths)
        for path, _ in group.paths:
            if path in plan.metadata:
                _go_to(plan, path)
        return
    for number, (path, node) in enumerate(group.paths):
        plan.metadata.pop(path, None)
        _place(plan, path, node, 0 if number else reader.size(node))


def _certain(
    reader: SnapshotReader, node: Node, info: FileInfo, before: Sequence[Node | None], distrust_from_ns: int | None
) -> bool:
    if (info.size, info.mtime_ns) != (reader.size(node), node.mtime_ns):
        return False
    if distrust_from_ns is not None and info.ctime_ns >= distrust_from_ns:
        return False
    alike = [
        one
        for one in before
        if one is UNKNOWN
        or (one is not None and one.type == "file" and (one.size, one.mtime_ns) == (node.size, node.mtime_ns))
    ]
    return bool(alike) and all(one is not UNKNOWN and one.content == node.content for one in alike)


def _differs(node: Node, info: FileInfo) -> bool:
    """In what `Placer.metadata` sets."""
    if (node.mtime_ns, node.uid, node.gid) != (info.mtime_ns, info.uid, info.gid):
        return True
    if node.type != "symlink" and node.mode != info.mode:
        return True
    return sorted(node.xattrs) != sorted(info.xattrs)


def apply_mirror(
    reader: SnapshotReader,
    source: bytes,
    placer: Placer,
    plan: MirrorPlan,
    *,
    progress: Progress | None = None,
    on_problem: Callable[[RestoreProblem], None] | None = None,
) -> RestoreStats:
    """Raises what `restore` does, and PlacingError for what cannot be removed or opened up. What the stats call a problem is
    missing, or is not what it should be: the directory is not what the snapshot says."""
    for info in plan.opened:
        placer.metadata(info.path, _opened_up(info))
    for path in plan.remove:
        placer.remove(path)
    for path, node in plan.metadata.items():
        placer.metadata(path, info_of(path, node))
    warnings = placer.flush()
    stats = restore(reader, placer, path=source, only=plan.changed, progress=progress, on_problem=on_problem)
    stats.warnings = warnings + stats.warnings
    return stats


def _opened_up(info: FileInfo) -> FileInfo:
    return FileInfo(
        info.path,
        info.kind,
        mode=info.mode | 0o700,
        uid=info.uid,
        gid=info.gid,
        mtime_ns=info.mtime_ns,
        xattrs=info.xattrs,
    )


class _Actual:
    """What is there, in the order of a walk, taken along with the walk of what should be."""

    def __init__(self, infos: Iterable[FileInfo]) -> None:
        self._infos = iter(infos)
        self._next = next(self._infos, None)
        self._below: bytes | None = None  # what lies below it goes with it

    def _advance(self) -> None:
        self._next = next(self._infos, None)
        while self._below is not None and self._next is not None and self._next.path.startswith(self._below + b"/"):
            self._next = next(self._infos, None)
        self._below = None

    def skip_below(self, path: bytes) -> None:
        while self._next is not None and self._next.path.startswith(path + b"/"):
            self._next = next(self._infos, None)

    def before(self, path: bytes | None) -> Iterator[FileInfo]:
        """What comes before `path` (None: the end), without what lies below each of these."""
        while self._next is not None and (path is None or _order(self._next.path) < _order(path)):
            found = self._next
            self._below = found.path
            self._advance()
            yield found

    def take(self, path: bytes) -> FileInfo | None:
        found = self._next
        if found is None or found.path != path:
            return None
        self._advance()
        return found


def _order(path: bytes) -> list[bytes]:
    return path.split(b"/")


def _walk(
    reader: SnapshotReader, source: bytes, olds: Sequence[SnapshotReader]
) -> Iterator[tuple[bytes, Node, list[Node | None]]]:
    """Everything below `source`, depth first in byte order, sockets left out, each with what the older ones have there."""
    top = [_top(old, source) for old in olds]
    stack = [(b"", _children(reader, source, reader.node(source), olds, top))]
    limits = WalkLimits()
    while stack:
        where, children = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            continue
        node, before = child
        if node.type == "socket":
            continue
        path = join(where, node.name)
        yield path, node, before
        if node.type == "dir":
            limits.enter(path, node)
            stack.append((path, _children(reader, join(source, path), node, olds, before)))


def _top(old: SnapshotReader, source: bytes) -> Node | None:
    try:
        return old.node(source)
    except NoSuchError:
        return None
    except DamageError:
        return UNKNOWN


def _children(
    reader: SnapshotReader, path: bytes, node: Node, olds: Sequence[SnapshotReader], before: Sequence[Node | None]
) -> Iterator[tuple[Node, list[Node | None]]]:
    own = reader.children(path, node)
    names: list[dict[bytes, Node] | None] = []  # None: unknown
    for old, one in zip(olds, before, strict=True):
        if one is UNKNOWN:
            names.append(None)
        elif one is None or one.type != "dir":
            names.append({})
        elif one.subtree == node.subtree:
            names.append({child.name: child for child in own})
        else:
            try:
                names.append({child.name: child for child in old.children(path, one)})
            except DamageError:
                names.append(None)
    for child in own:
        yield child, [UNKNOWN if known is None else known.get(child.name) for known in names]


@dataclass(frozen=True, slots=True)
class MirrorState:
    """What may lie in the directory: one snapshot when `whole`, else parts of any of these. To be kept beside it, durably,
    before anything is changed."""

    snapshots: tuple[str, ...] = ()
    whole: bool = False

    def begun(self, snapshot: str) -> MirrorState:
        return MirrorState((*(one for one in self.snapshots if one != snapshot), snapshot))

    @classmethod
    def ended(cls, snapshot: str) -> MirrorState:
        return cls((snapshot,), whole=True)
