"""Walks a file tree of this machine with several processes: hands out pieces of it and puts the answers together.

What a worker gets done within one task needs no more than a few words here: this side's work is by directory and by blob, not
by file. A directory whose parts come from several tasks is completed here. Blobs are packed and uploaded here.
"""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue

from backupctl.errors import DamageError, SourceError
from backupctl.hosts import posix
from backupctl.repository.blob_saver import BlobSaver
from backupctl.repository.chunker import Chunker
from backupctl.repository.digest_beside import DigestBeside
from backupctl.repository.entry import Chunking, LocalTree, ProblemKind
from backupctl.repository.format import FormatError
from backupctl.repository.format.node_text import (
    directory_text,
    file_text,
    name_text,
    node_spans,
    text_name,
    tree_bytes,
)
from backupctl.repository.fresh import is_fresh
from backupctl.repository.looks import Look, Looks
from backupctl.repository.old_tree import CHANGED, NEW, UNMODIFIED, holds, outcome, subtree_of
from backupctl.repository.pool import Pool
from backupctl.repository.repository import Repository
from backupctl.repository.subtree import Walker, seal_file, walk
from backupctl.repository.tree_runs import TreeRuns
from backupctl.repository.walk_messages import Answer, Below, Large, Part, Piece, Task, TreeRun, WalkSettings

_FIRST_BYTES = 512 << 10  # of the tasks that are done here before, and while, workers start
_FIRST_ENTRIES = 200
_TREES_BYTES = 400 << 10  # of old trees that go with a task, about; most of them sealed
_PIECES = 64  # of a task
_KNOWN_FROM_INDEX = 500_000


@dataclass(slots=True)
class Found:
    """What a walk gave. Paths are absolute on the host. `whole` are the SHA-256 of files of several blobs."""

    tree: bytes | None = None  # None: the root could not be read
    problems: list[tuple[bytes, ProblemKind, str]] = field(default_factory=list)
    whole: dict[bytes, bytes] = field(default_factory=dict)
    fresh: list[bytes] = field(default_factory=list)
    files: list[int] = field(default_factory=lambda: [0, 0, 0])  # new, changed, unmodified
    dirs: list[int] = field(default_factory=lambda: [0, 0, 0])
    others: int = 0
    bytes: int = 0
    resumed_files: int = 0  # taken over from what an interrupted run had read
    resumed_bytes: int = 0
    looks: Looks = field(default_factory=Looks)


@dataclass(slots=True)
class _Directory:
    """One that is not complete yet. `waiting`: pieces, subdirectories and large files still to come."""

    path: bytes
    below: Below | None  # its node's beginning; None for the root
    above: _Directory | None
    texts: list[tuple[bytes, str]] = field(default_factory=list)
    waiting: int = 1
    device: int = 0
    device_id: int = 0


class LocalWalk:
    """One walk. `base_tree`: what the parent snapshot has there; `old_tree`: what files may be taken over from, which is the
    same, unless an interrupted run got further; `old_whole` and `old_fresh`: what the manifest of the latter says, by
    absolute path. `pause` is called now and then, when `tree_so_far` tells the truth."""

    def __init__(
        self,
        repository: Repository,
        saver: BlobSaver,
        pool: Pool,
        tree: LocalTree,
        *,
        source: str,
        chunker_key: bytes,
        old_tree: bytes | None = None,
        base_tree: bytes | None = None,
        old_whole: dict[bytes, bytes] | None = None,
        old_fresh: Iterable[bytes] = (),
        note: Callable[[str], None] = lambda text: None,
        progress: Callable[[int, int, bytes], None] = lambda files, done, path: None,
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        self._repository, self._saver, self._pool = repository, saver, pool
        self._tree = tree
        self._settings = WalkSettings(
            repository.keys,
            chunker_key,
            source,
            (tree.root or tree.path).rstrip(b"/") or b"/",
            tuple(tree.exclude),
            pool.known.path,
        )
        self._walker = Walker(self._settings)
        self._chunker = Chunker(chunker_key)
        self._old_tree = old_tree.hex() if old_tree is not None else ""
        self._base_tree = base_tree.hex() if base_tree is not None else ""
        self._old_whole = old_whole or {}
        self._reread = set(old_fresh)
        self._runs = TreeRuns(repository)
        self._unopened: set[str] = set()  # trees that workers could not open: they are read here, from any copy
        self._lost: set[str] = set()
        self._note = note
        self._progress = progress
        self._pause = pause
        self._pieces: list[Piece] = []
        self._directories: dict[bytes, _Directory] = {}
        self._large: deque[tuple[_Directory, Large]] = deque()
        self._claimed: dict[bytes, bytes] = {}
        self._answers: SimpleQueue[Future[Answer]] = SimpleQueue()
        self._tasks: dict[Future[Answer], Task] = {}
        self._answered = False
        self.found = Found()

    def run(self, device: int, device_id: int) -> Found:
        """Walk to the end. `device` is the root's st_dev, `device_id` the number that stands for it."""
        root = self._tree.path.rstrip(b"/") or b"/"
        if not self._old_tree and not self._pool.filled:
            self._pool.fill(
                place.blob.id for _, place in zip(range(_KNOWN_FROM_INDEX), self._repository.index, strict=False)
            )
        self._directories[root] = _Directory(root, None, None)
        self._pieces.append(Piece(root, None, device, device_id, self._old_tree, self._base_tree))
        self._here()
        while self._pieces or self._tasks or self._large:
            self._pump()
            if self._large:
                self._read_large(*self._large.popleft())
            elif self._pieces and not self._answered and self._answers.empty():
                self._here()  # the workers are still starting
            elif self._tasks:
                self._take(self._answers.get())
        self._settle_claims()
        self.found.problems.sort(key=lambda problem: problem[0].split(b"/"))
        return self.found

    def tree_so_far(self) -> bytes | None:
        """A tree of what is done, and, for the rest, of what was known before; saved, not flushed. None for neither."""
        inside: dict[bytes, list[tuple[bytes, str]]] = {}
        for directory in reversed(self._directories.values()):  # what lies in a directory came after it
            below = directory.below
            tree = subtree_of(below.old) if below is not None else self._old_tree
            texts = directory.texts + inside.pop(directory.path, [])
            if texts:
                texts = sorted(texts + self._not_in(texts, tree))
                tree = self._saver.save("tree", tree_bytes([text for _, text in texts])).hex()
            if directory.above is None or below is None:
                return bytes.fromhex(tree) if tree else None
            if tree:
                inside.setdefault(directory.above.path, []).append((below.name, directory_text(below.start, tree)))
        return self.found.tree

    def _not_in(self, texts: list[tuple[bytes, str]], tree: str) -> list[tuple[bytes, str]]:
        """The nodes of an old tree that are not among `texts`."""
        if not tree:
            return []
        old = self._load(tree).decode("utf-8", "replace")
        begun = {name_text(name) for name, _ in texts}
        spans = [(name, span) for name, span in node_spans(old).items() if name not in begun]
        try:
            return [(text_name(name), old[start:end]) for name, (start, end) in spans]
        except (FormatError, ValueError):  # nobody wrote it as we do: it only serves to spare reading
            return []

    def _here(self) -> None:
        task = self._task(1)._replace(bytes=_FIRST_BYTES, entries=_FIRST_ENTRIES)
        self._handle(self._walker.run(task), task)

    def _pump(self) -> None:
        """Keep the workers busy; take what they have done. Never waits for them."""
        while self._pieces and len(self._tasks) < self._pool.ahead:
            task = self._task(min(_PIECES, 1 + len(self._pieces) // self._pool.ahead))
            future = self._pool.submit(walk, self._settings, task)
            self._tasks[future] = task
            future.add_done_callback(self._answers.put)
        while not self._answers.empty():
            self._take(self._answers.get())
        self._pause()

    def _take(self, future: Future[Answer]) -> None:
        task = self._tasks.pop(future)
        self._answered = True
        self._handle(future.result(), task)

    def _task(self, most: int) -> Task:
        """Up to `most` pieces, with the old trees for them and what lies beside those, as far as there is room."""
        pieces: list[Piece] = []
        trees: dict[str, bytes] = {}
        runs: dict[tuple[bytes, int], TreeRun] = {}
        size = 0
        while self._pieces and len(pieces) < most and size < _TREES_BYTES:
            pieces.append(piece := self._pieces.pop())
            for tree in dict.fromkeys(filter(None, (piece.base, piece.old))):
                near = {} if tree in self._unopened else self._runs.near(bytes.fromhex(tree))
                if not near and tree not in trees:
                    trees[tree] = self._load(tree)
                    size += len(trees[tree])
                for key in near.keys() - runs.keys():
                    runs[key] = near[key]
                    size += len(near[key].sealed)
        return Task(pieces, trees, list(runs.values()), frozenset(self._lost), frozenset(self._reread))

    def _load(self, tree: str) -> bytes:
        try:
            return self._repository.load_blob("tree", bytes.fromhex(tree))
        except DamageError as error:
            self._note(f"a directory is read in full, the parent snapshot is damaged there: {error}")
            return b""

    def _handle(self, answer: Answer, task: Task) -> None:
        self._saver.add_sealed(answer.blobs)
        self._unopened.update(answer.unopened)
        if self._is_refused(answer):
            self._pieces += task.pieces
            return
        for blob_id, path in answer.claimed:
            if self._saver.knows("data", blob_id):
                self._saver.stats.duplicate_blobs += 1
            else:
                self._claimed[blob_id] = path
        found = self.found
        for path, digest in answer.whole:
            found.whole[path] = digest if digest is not None else self._old_whole[path]
        found.fresh += answer.fresh
        found.problems += answer.problems
        for kind in (NEW, CHANGED, UNMODIFIED):
            found.files[kind] += answer.files[kind]
            found.dirs[kind] += answer.dirs[kind]
        found.bytes += answer.size
        found.resumed_files += answer.resumed_files
        found.resumed_bytes += answer.resumed_bytes
        found.others += answer.others
        found.looks.merge(answer.looks)
        self._tree.seen(answer.kinds, answer.seen_bytes)
        for part in answer.parts:
            self._part(part)
        self._pieces += reversed(answer.left)
        if answer.last:
            self._progress(sum(answer.files), answer.size, answer.last)

    def _is_refused(self, answer: Answer) -> bool:
        """Whether the answer relies on what is not stored, or on hashes that nobody has: it is then asked for again, with
        that said."""
        lacking = self._repository.lacking("data", map(bytes.fromhex, answer.reused))
        lacking += self._repository.lacking("tree", map(bytes.fromhex, answer.trees))
        unknown = [path for path, digest in answer.whole if digest is None and path not in self._old_whole]
        self._lost.update(blob_id.hex() for blob_id in lacking)
        self._reread.update(unknown)
        return bool(lacking or unknown)

    def _part(self, part: Part) -> None:
        directory = self._directories[part.path]
        directory.waiting -= 1
        if part.gone:
            self._finish(directory, gone=True)
            return
        directory.device, directory.device_id = part.device, part.device_id
        directory.texts += part.texts
        directory.waiting += part.more + len(part.below) + len(part.large)
        inside = part.path.rstrip(b"/") + b"/"
        for below in part.below:
            path = inside + below.name
            self._directories[path] = _Directory(path, below, directory)
        self._large.extend((directory, large) for large in part.large)
        if not directory.waiting:
            self._finish(directory)

    def _finish(self, directory: _Directory, *, gone: bool = False) -> None:
        while True:
            del self._directories[directory.path]
            tree = None
            if not gone:
                directory.texts.sort()
                tree = self._saver.save("tree", tree_bytes([text for _, text in directory.texts]))
            above, below = directory.above, directory.below
            if above is None or below is None:
                self.found.tree = tree
                return
            if tree is not None:
                text = directory_text(below.start, tree.hex())
                above.texts.append((below.name, text))
                self.found.dirs[outcome(below.base, text, "dir")] += 1
            above.waiting -= 1
            if above.waiting:
                return
            directory, gone = above, False

    def _read_large(self, directory: _Directory, large: Large) -> None:
        path = directory.path.rstrip(b"/") + b"/" + large.name
        text = self._large_text(directory, large, path)
        if text is not None:
            directory.texts.append((large.name, text))
            self.found.files[outcome(large.base, text, "file")] += 1
        directory.waiting -= 1
        if not directory.waiting:
            self._finish(directory)

    def _large_text(self, directory: _Directory, large: Large, path: bytes) -> str | None:
        problems = self.found.problems
        opened_ns = time.time_ns()
        try:
            descriptor, status = posix.open_regular(path)
        except FileNotFoundError as error:
            problems.append((path, "vanished", error.strerror or str(error)))
            return None
        except OSError as error:
            problems.append((path, "unreadable", error.strerror or str(error)))
            return None
        content: list[bytes] = []
        size = 0
        look = Look()
        with io.FileIO(descriptor) as stream, DigestBeside() as digest:
            try:
                xattrs = posix.open_xattrs(descriptor)
            except OSError as error:
                problems.append((path, "failed", error.strerror or str(error)))
                return None
            try:
                for chunk in self._chunker.chunks(_Stream(stream), Chunking()):
                    content.append(self._saver.save("data", chunk))
                    look.add(chunk, content[-1][0])
                    digest.update(chunk)
                    size += len(chunk)
                    self._progress(0, len(chunk), path)
                    self._pump()
                changed = posix.differs(status, descriptor)
            except ReadingError as error:
                problems.append((path, "failed", str(error)))
                return None
            if len(content) > 1:
                self.found.whole[path] = digest.digest()
        if changed:
            problems.append((path, "changed", "the file changed while it was read; what was read is stored"))
        if is_fresh(status.st_ctime_ns, opened_ns):
            self.found.fresh.append(path)
        self.found.bytes += size
        if not holds(large.base, content):
            self.found.looks.count(large.name, look, before=bool(large.base))
        piece = Piece(directory.path, None, directory.device, directory.device_id, "", "")
        start = self._walker.file_start(name_text(large.name), status, xattrs, piece, size)
        return file_text(start, content)

    def _settle_claims(self) -> None:
        """What was left out because its 8 bytes were known: by now whoever had it has handed it in, or nobody had."""
        for blob_id, path in self._claimed.items():
            if self._saver.knows("data", blob_id):
                self._saver.stats.duplicate_blobs += 1
                continue
            blob = seal_file(self._settings, path, blob_id)
            if blob is None:
                raise SourceError(
                    f"{path.decode('utf-8', 'backslashreplace')} changed while it was stored",
                    next_step="run the backup again",
                )
            self._saver.add_sealed([blob])
        self._claimed.clear()


class ReadingError(Exception):
    """Reading a file failed: never to be taken for a failure of the repository."""


class _Stream:
    def __init__(self, file: io.FileIO) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._file.read(size) or b""
        except OSError as error:
            raise ReadingError(error.strerror or str(error)) from error

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()
