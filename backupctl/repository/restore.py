"""Puts a snapshot, or a part of it, back into a file system through a `Placer`.

Content first, then metadata; a directory's own metadata after everything in it, so that its times survive. What is
damaged or cannot be made is a problem of its own path: the rest is restored, and no half file stays behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from backupctl.errors import DamageError, InterruptedRunError, StorageError, UnreachableError, UserError
from backupctl.hosts.protocol import FileInfo, FileWriter, Placer, PlacingError
from backupctl.repository.format.names import display_name
from backupctl.repository.format.node import Node
from backupctl.repository.reader import BlobStream, SnapshotReader, clean, join

Progress = Callable[[int, int, bytes], None]
"""Files done, bytes done, current path in the snapshot. Called often: must be cheap."""

_AHEAD_FILES = 32
_AHEAD_BYTES = 16 << 20
_TRIES = 10_000  # more than a placer queues


@dataclass(frozen=True, slots=True)
class RestoreProblem:
    path: str  # in the snapshot, for people
    message: str


@dataclass(slots=True)
class RestorePlan:
    """What a restore would make. `bytes` counts hard-linked files once. `problems`: directories that cannot be read."""

    files: int = 0
    bytes: int = 0
    directories: int = 0
    links: int = 0  # symbolic links, and hard links beyond the first of each file
    specials: int = 0
    problems: list[RestoreProblem] = field(default_factory=list)


@dataclass(slots=True)
class RestoreStats:
    """`problems` are things missing from the target; `warnings` are metadata that could not be set."""

    restored_files: int = 0
    restored_bytes: int = 0
    problems: list[RestoreProblem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Step:
    kind: Literal["enter", "leave", "place", "damage"]
    path: bytes  # in the snapshot
    name: bytes  # relative to the target
    node: Node
    message: str = ""
    stream: BlobStream | None = None


@dataclass(slots=True)
class _Done:
    """A step behind us, as it was counted."""

    path: bytes  # in the snapshot
    files: int = 0
    size: int = 0
    content: bytes | None = None  # the file that was written: for a hard link the first of its group
    reported: bool = False  # it failed after all


def plan_restore(reader: SnapshotReader, path: bytes = b"") -> RestorePlan:
    """What `restore` with the same path would do. Raises NoSuchError when the snapshot does not hold `path`."""
    plan = RestorePlan()
    links = _Links()
    for step in _steps(reader, path):
        node = step.node
        if step.kind == "damage":
            plan.problems.append(RestoreProblem(display_name(step.path), step.message))
        elif step.kind == "enter":
            plan.directories += 1
        elif step.kind == "place" and node.type == "file":
            if links.first(node) is not None:
                plan.links += 1
            else:
                plan.files += 1
                plan.bytes += reader.size(node)
            links.made(node, step.name)
        elif step.kind == "place" and node.type == "symlink":
            plan.links += 1
        elif step.kind == "place" and node.type != "socket":
            plan.specials += 1
    return plan


def restore(
    reader: SnapshotReader,
    placer: Placer,
    target: bytes = b"",
    *,
    path: bytes = b"",
    progress: Progress | None = None,
    on_problem: Callable[[RestoreProblem], None] | None = None,
) -> RestoreStats:
    """Restore what the directory `path` of the snapshot holds into `target` (relative to the placer's root; its own
    metadata is left alone); a `path` that is no directory is restored under its own name.

    Raises NoSuchError when the snapshot does not hold `path`. StorageError and UnreachableError end the restore;
    everything else that goes wrong is in the stats, and told to `on_problem` at once."""
    run = _Restore(reader, placer, clean(target), progress, on_problem)
    run.run(path)
    return run.stats


class _Restore:
    def __init__(
        self,
        reader: SnapshotReader,
        placer: Placer,
        target: bytes,
        progress: Progress | None,
        on_problem: Callable[[RestoreProblem], None] | None,
    ) -> None:
        self._reader = reader
        self._placer = placer
        self._target = target
        self._progress = progress
        self._on_problem = on_problem
        self._links = _Links()
        self._done: dict[bytes, _Done] = {}  # by destination: the last few, which a placer may still have queued
        self._lost_directory: bytes | None = None  # could not be made: neither can anything in it
        self.stats = RestoreStats()

    def run(self, path: bytes) -> None:
        for step in _opened_ahead(self._reader, _steps(self._reader, path)):
            try:
                if not self._is_lost(step.name):
                    self._do_surely(step)
            finally:
                _close(step)
        self._flush()

    def _do_surely(self, step: _Step) -> None:
        """Do a step, and do it over when a placer that queues raises, in the middle of it, what an earlier step failed
        with. Doing it over is safe: a placer replaces what is there."""
        destination = join(self._target, step.name)
        for _ in range(_TRIES):
            try:
                self._do(step)
                return
            except (StorageError, UnreachableError, InterruptedRunError):
                raise
            except PlacingError as error:
                if error.path == destination:
                    self._lost_directory = step.name if step.kind == "enter" else self._lost_directory
                    self._remember(destination, _Done(step.path, reported=True))
                    self._problem(step.path, error.message)
                    if step.node.type == "file":
                        self._take_back(destination)
                    return
                self._late(error)
                _close(step)
            except UserError as error:
                self._remember(destination, _Done(step.path, reported=True))
                self._problem(step.path, error.message)
                return
        self._problem(step.path, "given up: the host kept failing on other objects")

    def _flush(self) -> None:
        while True:
            try:
                self.stats.warnings += self._placer.flush()
                return
            except PlacingError as error:
                self._late(error)

    def _remember(self, destination: bytes, done: _Done) -> None:
        self._done[destination] = done
        if len(self._done) > _TRIES:
            del self._done[next(iter(self._done))]

    def _late(self, error: PlacingError) -> None:
        """What was counted as restored was not, nor is any hard link to it. Each object is reported once."""
        self._done.setdefault(error.path, _Done(error.path))
        for destination, done in list(self._done.items()):
            if done.reported or (destination != error.path and done.content != error.path):
                continue
            done.reported = True
            self.stats.restored_files -= done.files
            self.stats.restored_bytes -= done.size
            self._problem(done.path, error.message)
            if done.content is not None:
                self._links.forget(done.content)
                self._take_back(destination)

    def _take_back(self, destination: bytes) -> None:
        """Remove a file whose content may be half there."""
        try:
            self._placer.file(destination, 0).discard()
        except PlacingError as error:
            self._late(error)

    def _is_lost(self, name: bytes) -> bool:
        lost = self._lost_directory
        return lost is not None and (name == lost or name.startswith(lost + b"/"))

    def _do(self, step: _Step) -> None:
        node, destination = step.node, join(self._target, step.name)
        if step.kind == "damage":
            self._problem(step.path, step.message)
        elif step.kind == "enter":
            self._placer.directory(destination)
            self._remember(destination, _Done(step.path))
        elif step.kind == "leave":
            self._placer.metadata(destination, _info(destination, node))
        elif node.type == "file":
            self._file(step, destination)
        elif node.type == "symlink":
            self._placer.symlink(destination, node.linktarget)
            self._placer.metadata(destination, _info(destination, node))
            self._remember(destination, _Done(step.path))
        elif node.type != "socket":
            info = _info(destination, node)
            self._placer.special(destination, info)
            self._placer.metadata(destination, info)
            self._remember(destination, _Done(step.path))

    def _file(self, step: _Step, destination: bytes) -> None:
        node = step.node
        first = self._links.first(node)
        bytes_before = self.stats.restored_bytes
        try:
            if first is not None:
                self._placer.hardlink(destination, first)
            else:
                self._content(step.stream or self._reader.open_node(step.path, node), step.path, destination)
                self._placer.metadata(destination, _info(destination, node))
        except BaseException:
            self.stats.restored_bytes = bytes_before
            raise
        self._links.made(node, destination)
        self.stats.restored_files += 1
        size = self.stats.restored_bytes - bytes_before
        self._remember(destination, _Done(step.path, files=1, size=size, content=first or destination))
        self._report(step.path)

    def _content(self, stream: BlobStream, path: bytes, destination: bytes) -> None:
        writer = self._placer.file(destination, stream.size)
        offset = 0
        try:
            for blob in stream.blobs():
                if not _is_zeros(blob):  # the file is all hole from the start
                    writer.write_at(offset, blob)
                offset += len(blob)
                self.stats.restored_bytes += len(blob)
                self._report(path)
        except BaseException:
            self._discard(writer, path, destination)
            raise
        writer.close()

    def _discard(self, writer: FileWriter, path: bytes, destination: bytes) -> None:
        try:
            writer.discard()
        except PlacingError as error:
            if error.path != destination:  # of this file, what made us discard is on its way up already
                self._late(error)
        except UserError as error:
            self._problem(path, error.message)

    def _problem(self, path: bytes, message: str) -> None:
        problem = RestoreProblem(display_name(path), message)
        self.stats.problems.append(problem)
        if self._on_problem is not None:
            self._on_problem(problem)

    def _report(self, path: bytes) -> None:
        if self._progress is not None:
            self._progress(self.stats.restored_files, self.stats.restored_bytes, path)


class _Links:
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


def _steps(reader: SnapshotReader, path: bytes) -> Iterator[_Step]:
    path = clean(path)
    top = reader.node(path)
    if top.type != "dir":
        yield _Step("place", path, top.name, top)
        return
    stack: list[tuple[bytes, bytes, Node, Iterator[Node]]] = [(path, b"", top, iter(reader.children(path, top)))]
    while stack:
        where, name, directory, nodes = stack[-1]
        node = next(nodes, None)
        if node is None:
            stack.pop()
            if stack:
                yield _Step("leave", where, name, directory)
            continue
        inner, inner_name = join(where, node.name), join(name, node.name)
        if node.type != "dir":
            yield _Step("place", inner, inner_name, node)
            continue
        yield _Step("enter", inner, inner_name, node)
        try:
            children = reader.children(inner, node)
        except DamageError as error:
            yield _Step("damage", inner, inner_name, node, error.message)
            children = ()
        stack.append((inner, inner_name, node, iter(children)))


def _opened_ahead(reader: SnapshotReader, steps: Iterator[_Step]) -> Iterator[_Step]:
    """The same steps; the files among the next few are being loaded already."""
    waiting: deque[_Step] = deque()
    links = _Links()
    ahead_bytes = 0
    try:
        for step in steps:
            waiting.append(step)
            if step.kind == "place" and step.node.type == "file":
                if links.first(step.node) is None:
                    step.stream = reader.open_node(step.path, step.node)
                    ahead_bytes += step.stream.size
                links.made(step.node, step.name)
            while waiting and (len(waiting) > _AHEAD_FILES or ahead_bytes > _AHEAD_BYTES):
                ahead_bytes -= waiting[0].stream.size if waiting[0].stream else 0
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for step in waiting:
            _close(step)


def _close(step: _Step) -> None:
    if step.stream is not None:
        step.stream.close()
        step.stream = None


def _info(path: bytes, node: Node) -> FileInfo:
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


def _is_zeros(blob: bytes) -> bool:
    return not blob or (blob[0] == 0 and blob[-1] == 0 and blob.count(0) == len(blob))
