"""Walks a part of a local file tree and turns it into blobs and trees: what a worker process does.

A task is a few pieces of the tree and ends when its budget is spent: what it did not get to comes back as further
pieces. It holds no state that matters; what it keeps between tasks are ciphers and the like. A directory whose every node
has the text that the parent snapshot has is that snapshot's tree; otherwise its files are taken over one by one, or read.
Everything goes by directory descriptors, without following links.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from contextlib import suppress
from errno import ENOENT
from hashlib import sha256
from io import BytesIO

from backupctl.hosts import posix
from backupctl.repository.chunker import MIN_CHUNK_SIZE, Chunker
from backupctl.repository.devices import device_number, mount_number
from backupctl.repository.entry import Chunking, ProblemKind
from backupctl.repository.format.node_text import (
    FILE_TAIL,
    TREE_END,
    TREE_START,
    directory_text,
    file_text,
    name_text,
    node_start,
    other_text,
    owner_text,
)
from backupctl.repository.format.sealing import BlobSealer
from backupctl.repository.fresh import is_fresh
from backupctl.repository.known import KnownBlobs
from backupctl.repository.looks import Look
from backupctl.repository.memory import return_freed_memory
from backupctl.repository.old_tree import (
    UNMODIFIED,
    Old,
    content_ids,
    holds,
    node_in,
    outcome,
    same_content,
    subtree_of,
)
from backupctl.repository.old_trees import NotHereError, OldTrees
from backupctl.repository.small_file import LARGE_BYTES, CannotReadError, read_small_file
from backupctl.repository.walk_messages import Answer, Below, Blob, Large, Part, Piece, Task, WalkSettings

SLICE_NAMES = 1000  # of a larger directory in one piece
_DEPTH = 50
_ENCODING = sys.getfilesystemencoding()


_local = threading.local()


def walk(settings: WalkSettings, task: Task) -> Answer:
    """Do the task, up to its budget."""
    walker: Walker | None = getattr(_local, "walker", None)
    if walker is None or walker.settings != settings:
        walker = _local.walker = Walker(settings)
    return walker.run(task)


def seal_file(settings: WalkSettings, path: bytes, blob_id: bytes) -> Blob | None:
    """The blob with that id out of a file, None when the file has it no longer."""
    try:
        descriptor, _ = posix.open_regular(path)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as stream:
        data = stream.read()
    for chunk in Chunker(settings.chunker_key).chunks(BytesIO(data), Chunking()):
        if sha256(chunk).digest() == blob_id:
            return "data", blob_id, len(chunk), *BlobSealer(settings.keys).encode("data", blob_id, chunk)
    return None


class Walker:
    """What a process keeps between tasks of one source."""

    def __init__(self, settings: WalkSettings) -> None:
        return_freed_memory()
        self.settings = settings
        self._sealer = BlobSealer(settings.keys)
        self._chunker = Chunker(settings.chunker_key)
        self._excludes = posix.Excludes(settings.exclude) if settings.exclude else None
        self._trees = OldTrees(settings.keys)
        self._known: KnownBlobs | None = None
        if settings.known:
            with suppress(OSError):  # a system without /proc: every content is compressed wherever it turns up
                self._known = KnownBlobs(settings.known)
        self._owners: dict[tuple[int, int], str] = {}

    def run(self, task: Task) -> Answer:
        self._task = task
        self._trees.take(task)
        self._answer = Answer(unopened=self._trees.unopened)
        self._bytes_left, self._entries_left = task.bytes, task.entries
        for number, piece in enumerate(task.pieces):
            if self._spent():
                self._answer.left += task.pieces[number:]
                break
            self._piece(piece)
        answer, self._answer = self._answer, Answer()  # it is large, and we may wait long for the next task
        answer.parts.reverse()
        return answer

    def _spent(self) -> bool:
        return self._bytes_left <= 0 or self._entries_left <= 0

    def _piece(self, piece: Piece) -> None:
        """One that was handed to us: it ends in a part, even when its directory is complete, or is handed back."""
        try:
            old, base = self._old(piece)
        except NotHereError:
            self._answer.left.append(piece)
            return
        try:
            descriptor = open_below(self.settings.root, piece.path)
        except OSError as error:
            self._cannot_enter(piece.path, error)
            return
        try:
            self._directory(descriptor, piece, old, base, 0, whole=False)
        finally:
            os.close(descriptor)

    def _cannot_enter(self, path: bytes, error: OSError) -> None:
        self._problem(path, "unreadable", error)
        self._answer.kinds["dir"] -= 1
        self._answer.kinds["unreadable"] += 1
        self._answer.parts.append(Part(path, gone=True))

    def _directory(
        self, descriptor: int, piece: Piece, old: Old | None, base: Old | None, depth: int, *, whole: bool
    ) -> str:
        """The tree's hex id when the directory is complete and `whole` asks for that; else "", and a part."""
        task, answer, path = self._task, self._answer, piece.path
        names = piece.names
        if names is None:
            try:
                names = list_names(descriptor)
            except OSError as error:
                self._cannot_enter(path, error)
                return ""
        part = Part(path, device=piece.device, device_id=piece.device_id)
        if piece.names is None and len(names) > SLICE_NAMES:
            slices = [names[start : start + SLICE_NAMES] for start in range(0, len(names), SLICE_NAMES)]
            answer.left += [piece._replace(names=part_names) for part_names in slices]
            part.more = len(slices)
            answer.parts.append(part)
            return ""
        inside = path.rstrip(b"/") + b"/"
        done_before = len(answer.left)
        for number, name in enumerate(names):
            if self._spent():
                answer.left.insert(done_before, piece._replace(names=names[number:]))
                part.more += 1
                break
            self._entries_left -= 1
            if self._excludes is not None and self._excludes.match(inside + name, name):
                continue
            self._entry(descriptor, name, inside + name, piece, part, old, base, depth)
        if not whole or part.more or part.below or part.large:
            answer.parts.append(part)
            return ""
        text = TREE_START + ",".join([text for _, text in part.texts]) + TREE_END
        if old is not None and text == old.tree and piece.old not in task.lost:
            answer.trees.append(piece.old)
            return piece.old
        data = text.encode()
        tree = sha256(data).digest()
        answer.blobs.append(("tree", tree, len(data), *self._sealer.encode("tree", tree, data)))
        return tree.hex()

    def _old(self, piece: Piece) -> tuple[Old | None, Old | None]:
        """Its old tree and the parent snapshot's. Raises NotHereError."""
        old = self._trees.open(piece.old)
        return old, old if piece.base == piece.old else self._trees.open(piece.base)

    def _entry(
        self,
        directory: int,
        name: bytes,
        path: bytes,
        piece: Piece,
        part: Part,
        old: Old | None,
        base: Old | None,
        depth: int,
    ) -> None:
        answer = self._answer
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            kind = posix.KINDS.get(stat.S_IFMT(status.st_mode), "")
            target = os.readlink(name, dir_fd=directory) if kind == "symlink" else b""
            xattrs = posix.read_xattrs(directory, name) if kind != "file" else ()
        except OSError as error:
            answer.kinds["unreadable"] += 1
            self._problem(path, "vanished" if error.errno == ENOENT else "unreadable", error)
            return
        if not kind:
            answer.kinds["unreadable"] += 1
            answer.problems.append((path, "unreadable", "unknown type of file"))
            return
        answer.kinds[kind] += 1
        text = name_text(name)
        if kind == "file":
            answer.seen_bytes += status.st_size
            self._file(directory, name, text, path, status, piece, part, old, base)
        elif kind == "dir":
            self._subdirectory(directory, name, text, path, status, xattrs, piece, part, old, base, depth)
        elif kind != "socket":  # a socket means nothing without the process behind it
            start = self._start(text, kind, status, xattrs, linktarget=target)
            part.texts.append((name, other_text(start)))
            answer.others += 1

    def _start(
        self,
        text: str,
        kind: str,
        status: os.stat_result,
        xattrs: tuple[tuple[bytes, bytes], ...],
        *,
        size: int = 0,
        device_id: int = 0,
        linktarget: bytes = b"",
    ) -> str:
        key = (status.st_uid, status.st_gid)
        owner = self._owners.get(key)
        if owner is None:
            user, group = posix.user_name(key[0]), posix.group_name(key[1])
            owner = self._owners[key] = owner_text(*key, user, group)
        return node_start(
            text, kind, status, owner, size=size, device_id=device_id, linktarget=linktarget, xattrs=xattrs
        )

    def _subdirectory(
        self,
        directory: int,
        name: bytes,
        text: str,
        path: bytes,
        status: os.stat_result,
        xattrs: tuple[tuple[bytes, bytes], ...],
        piece: Piece,
        part: Part,
        old: Old | None,
        base: Old | None,
        depth: int,
    ) -> None:
        answer = self._answer
        start = self._start(text, "dir", status, xattrs)
        before = ""
        if old is not None:
            before = old.find(text, start + '"content":null,"subtree":"', '"}')
        in_base = before if base is old else node_in(base, text)
        number = piece.device_id if status.st_dev == piece.device else mount_number(path, self.settings.source)
        below = Piece(path, None, status.st_dev, number, subtree_of(before), subtree_of(in_base))
        try:
            if depth >= _DEPTH:
                raise NotHereError
            old_below, base_below = self._old(below)
        except NotHereError:
            part.below.append(Below(name, start, before, in_base))
            answer.left.append(below)
            return
        try:
            inside = os.open(name, posix.OPEN_DIRECTORY, dir_fd=directory)
        except OSError as error:
            answer.kinds["dir"] -= 1
            answer.kinds["unreadable"] += 1
            self._problem(path, "unreadable", error)
            return
        parts = len(answer.parts)
        try:
            tree = self._directory(inside, below, old_below, base_below, depth + 1, whole=True)
        finally:
            os.close(inside)
        if tree:
            whole = directory_text(start, tree)
            part.texts.append((name, whole))
            answer.dirs[outcome(in_base, whole, "dir")] += 1
        elif answer.parts[-1].gone and len(answer.parts) > parts:
            answer.parts.pop()  # it could not be listed: there is nothing to wait for
        else:
            part.below.append(Below(name, start, before, in_base))

    def _file(
        self,
        directory: int,
        name: bytes,
        text: str,
        path: bytes,
        status: os.stat_result,
        piece: Piece,
        part: Part,
        old: Old | None,
        base: Old | None,
    ) -> None:
        before = in_base = ""
        if old is not None:
            start = self.file_start(text, status, (), piece, status.st_size)
            before = old.find_file(text, start)
            in_base = before if base is old else node_in(base, text)
            if before and self._unchanged(directory, name, text, path, status, start, before, in_base, piece, part):
                return
        if status.st_size > LARGE_BYTES:
            part.large.append(Large(name, in_base))
            return
        self._read(directory, name, text, path, piece, part, in_base)

    def file_start(
        self, text: str, status: os.stat_result, xattrs: tuple[tuple[bytes, bytes], ...], piece: Piece, size: int
    ) -> str:
        number = device_number(piece, status, self.settings.source) if status.st_nlink > 1 else 0
        return self._start(text, "file", status, xattrs, size=size, device_id=number)

    def _unchanged(
        self,
        directory: int,
        name: bytes,
        text: str,
        path: bytes,
        status: os.stat_result,
        start: str,
        before: str,
        in_base: str,
        piece: Piece,
        part: Part,
    ) -> bool:
        """Take the content over from the old node, when it proves to be the same. An equal ctime says that the extended
        attributes are too."""
        if self._task.fresh and path in self._task.fresh:
            return False
        whole = before
        ids = content_ids(before, start)
        if ids is None:
            content = same_content(before, status)
            if content is None:
                return False
            try:
                xattrs = posix.read_xattrs(directory, name)
            except OSError:
                return False  # reading the file says what is wrong
            start = self.file_start(text, status, xattrs, piece, status.st_size)
            whole = file_text(start, content)
            ids = whole[len(start) + len(FILE_TAIL) : -2]
        blobs = ids[1:-1].split('","') if ids else []
        if any(len(blob) != 64 for blob in blobs) or not self._task.lost.isdisjoint(blobs):
            return False
        answer = self._answer
        if len(blobs) == 1:
            answer.reused.append(blobs[0])
        elif blobs:
            answer.reused += blobs
            answer.whole.append((path, None))
        part.texts.append((name, whole))
        answer.files[UNMODIFIED if whole == in_base else outcome(in_base, whole, "file")] += 1
        answer.size += status.st_size
        if in_base != before and (not in_base or same_content(in_base, status) is None):
            answer.resumed_files += 1
            answer.resumed_bytes += status.st_size
        answer.last = path
        return True

    def _read(
        self,
        directory: int,
        name: bytes,
        text: str,
        path: bytes,
        piece: Piece,
        part: Part,
        in_base: str,
    ) -> None:
        answer = self._answer
        try:
            found = read_small_file(directory, name)
        except CannotReadError as error:
            answer.problems.append((path, error.kind, str(error)))
            return
        if found is None:
            part.large.append(Large(name, in_base))
            return
        data, status, xattrs, opened_ns, changed = found
        if changed:
            answer.problems.append((path, "changed", "the file changed while it was read; what was read is stored"))
        self._look = Look()
        content = self._save(path, data)
        if not holds(in_base, content):
            answer.looks.count(name, self._look, before=bool(in_base))
        whole = file_text(self.file_start(text, status, xattrs, piece, len(data)), content)
        part.texts.append((name, whole))
        answer.files[outcome(in_base, whole, "file")] += 1
        answer.size += len(data)
        answer.last = path
        if is_fresh(status.st_ctime_ns, opened_ns):
            answer.fresh.append(path)
        self._bytes_left -= len(data)

    def _save(self, path: bytes, data: bytes) -> list[bytes]:
        if not data:
            return []
        if len(data) < MIN_CHUNK_SIZE:
            return [self._save_blob(path, data)]
        content = [self._save_blob(path, chunk) for chunk in self._chunker.chunks(BytesIO(data), Chunking())]
        if len(content) > 1:
            self._answer.whole.append((path, sha256(data).digest()))
        return content

    def _save_blob(self, path: bytes, data: bytes) -> bytes:
        blob_id = sha256(data).digest()
        self._look.add(data, blob_id[0])
        if self._known is not None and not self._known.add(blob_id) and blob_id.hex() not in self._task.lost:
            self._answer.claimed.append((blob_id, path))
        else:
            sealed = self._sealer.encode("data", blob_id, data)
            self._answer.blobs.append(("data", blob_id, len(data), *sealed))
        return blob_id

    def _problem(self, path: bytes, kind: ProblemKind, error: OSError) -> None:
        self._answer.problems.append((path, kind, error.strerror or str(error)))


def open_below(root: bytes, path: bytes) -> int:
    """A descriptor for reading the directory `path`, which is `root` or lies below it. Nothing from `root` on is followed
    as a link. Raises OSError."""
    parent, name = posix.split(root)
    descriptor = os.open(parent, posix.LOOK_AT | os.O_DIRECTORY)
    for part in [name, *filter(None, path[len(root) :].split(b"/"))]:
        try:
            inside = os.open(part, posix.OPEN_DIRECTORY, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = inside
    return descriptor


def list_names(descriptor: int) -> list[bytes]:
    names = os.listdir(descriptor)
    encoded = [name.encode(_ENCODING, "surrogateescape") for name in names]
    encoded.sort()
    return encoded
