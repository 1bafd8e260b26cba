"""Puts a snapshot, or a part of it, back into a file system through a `Placer`.

Content first, then metadata; a directory's own metadata after everything in it, so that its times survive. What is
damaged or cannot be made is a problem of its own path: the rest is restored, and no half file stays behind.

Content is read pack by pack (`windows.py`). Below a directory of this machine, worker processes open and write it
(`unpacking.py`); elsewhere, and for a few files, we do. Whatever goes wrong with a file there, it is made again the careful
way, blob by blob through the placer, which tries every copy and says what is wrong.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from backupctl.errors import DamageError, InterruptedRunError, StorageError, UnreachableError, UserError
from backupctl.hosts.local import local_root
from backupctl.hosts.placing import is_zeros
from backupctl.hosts.protocol import FileWriter, Placer, PlacingError
from backupctl.hosts.workers import worker_count
from backupctl.repository.format.names import display_name
from backupctl.repository.pipeline import Outcome, Parts, Pipeline
from backupctl.repository.reader import SnapshotReader, clean, join
from backupctl.repository.steps import Links, Selection, Step, info_of, steps
from backupctl.repository.windows import WantedFile, Window, batches, spans
from backupctl.storage.nearby import directory_of

Progress = Callable[[int, int, bytes], None]
"""Files done, bytes done, current path in the snapshot. Called often: must be cheap."""

# Where workers read the packs themselves, more requests cost nothing, and smaller windows, more of them ahead, keep the workers
# busy while we are longer at one than they are, and let them begin sooner
_SHARE = 4
_AHEAD = 6
_TRIES = 10_000  # more than a placer queues
_SMALL_FILES = 256  # fewer, with less content, are done sooner than a worker has started
_SMALL_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class RestoreProblem:
    path: str  # in the snapshot, for people
    message: str


@dataclass(slots=True)
class RestoreStats:
    """`problems` are things missing from the target; `warnings` are metadata that could not be set."""

    restored_files: int = 0
    restored_bytes: int = 0
    problems: list[RestoreProblem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Done:
    """A step behind us, as it was counted."""

    path: bytes  # in the snapshot
    files: int = 0
    size: int = 0
    content: bytes | None = None  # the file that was written: for a hard link the first of its group
    reported: bool = False  # it failed after all


def restore(
    reader: SnapshotReader,
    placer: Placer,
    target: bytes = b"",
    *,
    path: bytes = b"",
    only: Selection | None = None,
    progress: Progress | None = None,
    on_problem: Callable[[RestoreProblem], None] | None = None,
) -> RestoreStats:
    """Restore what the directory `path` of the snapshot holds into `target` (relative to the placer's root; its own
    metadata is left alone); a `path` that is no directory is restored under its own name. Of it `only` what is selected.

    Raises NoSuchError when the snapshot does not hold `path`. StorageError and UnreachableError end the restore;
    everything else that goes wrong is in the stats, and told to `on_problem` at once."""
    run = _Restore(reader, placer, clean(target), progress, on_problem)
    run.run(path, only)
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
        self._walked = Links()  # as the tree is walked
        self._links = Links()  # as files are made
        self._near = (
            directory_of(reader.repo.store) is not None and local_root(placer) is not None and worker_count() > 0
        )
        self._window = self._new_window()
        self._windows: deque[tuple[Window, int]] = deque()  # under way, and of how many batches
        self._pipeline: Pipeline | None = None
        self._divided: dict[bytes, WantedFile] = {}  # files with their final size and not all of their content
        self._done: dict[bytes, _Done] = {}  # by destination: the last few, which a placer may still have queued
        self._lost_directory: bytes | None = None  # could not be made: neither can anything in it
        self.stats = RestoreStats()

    def run(self, path: bytes, only: Selection | None) -> None:
        try:
            for step in steps(self._reader, path, only):
                if self._is_lost(step.name):
                    continue
                if step.kind == "place" and step.node.type == "file" and self._is_first(step):
                    self._want(step)
                elif step.kind == "leave" or step.node.type == "file":
                    self._window.after.append(step)
                else:
                    self._do_surely(step)
                if self._window.full:
                    self._turn(last=False)
            self._turn(last=True)
            while self._windows:
                self._end(*self._windows.popleft())
        except BaseException:
            self._close()
            self._withdraw()
            raise
        self._close()
        self._flush()

    def _new_window(self) -> Window:
        return Window(_SHARE if self._near else 1)

    def _is_first(self, step: Step) -> bool:
        """Of its group of hard links; the others are made when its content is there."""
        if step.node.links <= 1:
            return True
        first = self._walked.first(step.node) is None
        self._walked.made(step.node, step.name)
        return first

    def _want(self, step: Step) -> None:
        file = WantedFile(step, join(self._target, step.name), self._reader.size(step.node))
        count = len(step.node.content or ())
        if count <= self._window.most_blobs:
            self._window.add(file, 0, count)
            return
        ends = list(spans(file, self._window))
        for start, end in ends:
            self._window.add(file, start, end)
            if end < ends[-1][1]:
                self._turn(last=False)

    def _turn(self, *, last: bool) -> None:
        """Begin with the window that was gathered, and end one before it."""
        window, self._window = self._window, self._new_window()
        if self._pipeline is None:
            small = last and len(window.pieces) < _SMALL_FILES and window.bytes < _SMALL_BYTES
            count = 0 if small else worker_count()
            self._pipeline = Pipeline(self._reader.repo, local_root(self._placer) if count else None, count)
        made = batches(self._reader, window, divide=self._pipeline.divides)
        if self._pipeline.divides:
            self._make_divided(window)
        self._pipeline.submit(made)
        self._windows.append((window, len(made)))
        if len(self._windows) > (_AHEAD if self._near else 1):
            self._end(*self._windows.popleft())

    def _make_divided(self, window: Window) -> None:
        """Files that several batches write to are there before."""
        for file, _, _ in window.pieces:
            if file.divided and not file.made and file.trouble is None:
                try:
                    self._placer.file(file.destination, file.size).close()
                    file.made = True
                    self._divided[file.destination] = file
                except PlacingError:  # the careful way says so
                    file.trouble = b""

    def _end(self, window: Window, batch_count: int) -> None:
        assert self._pipeline is not None
        later = sum(count for _, count in self._windows)
        for outcome in self._pipeline.outcomes(leave=later):
            self._take(outcome)
        for file in window.ended():
            if not file.placed:
                self._end_file(file)
        for step in window.after:
            self._do_surely(step)

    def _take(self, outcome: Outcome) -> None:
        """Count what workers have placed, place what they have not."""
        batch = outcome.batch
        self.stats.warnings += outcome.warnings
        for number, (file, (_, _, parts, facts)) in enumerate(zip(batch.wanted, batch.files, strict=True)):
            if number in outcome.trouble:
                file.trouble = outcome.trouble[number]
            elif outcome.contents is not None:
                file.placed = True
                self._do_surely(file.step, outcome.contents[number])
            elif facts is not None:
                self._placed(file)
            else:
                size = sum(batch.blobs[blob][4] for _, blob in parts)
                file.counted_bytes += size
                self.stats.restored_bytes += size
                self._report(file.step.path)

    def _placed(self, file: WantedFile) -> None:
        file.placed = True
        self._links.made(file.step.node, file.destination)
        self.stats.restored_files += 1
        self.stats.restored_bytes += file.size - file.counted_bytes
        self._report(file.step.path)

    def _end_file(self, file: WantedFile) -> None:
        """A file that no batch held to its end."""
        self._divided.pop(file.destination, None)
        if file.made and file.trouble is None:
            try:
                self._placer.metadata(file.destination, info_of(file.destination, file.step.node))
                self._placed(file)
                return
            except PlacingError:
                file.trouble = b""
        self.stats.restored_bytes -= file.counted_bytes
        try:
            if file.trouble:
                self._reader.require(file.step.path, file.trouble)
        except DamageError as error:
            self._problem(file.step.path, error.message)
            if file.made:
                self._take_back(file.destination)
        else:
            self._do_surely(file.step)

    def _close(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()

    def _withdraw(self) -> None:
        """Something ends the restore: files that are not complete go."""
        for destination in self._divided:
            with suppress(UserError):  # what ends the restore is told
                self._placer.file(destination, 0).discard()

    def _do_surely(self, step: Step, parts: Parts | None = None) -> None:
        """Do a step, and do it over when a placer that queues raises, in the middle of it, what an earlier step failed
        with. Doing it over is safe: a placer replaces what is there. `parts`: a file's content, when it is there."""
        destination = join(self._target, step.name)
        for _ in range(_TRIES):
            try:
                self._do(step, parts)
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

    def _do(self, step: Step, parts: Parts | None) -> None:
        node, destination = step.node, join(self._target, step.name)
        if step.kind == "damage":
            self._problem(step.path, step.message)
        elif step.kind == "enter":
            self._placer.directory(destination)
            self._remember(destination, _Done(step.path))
        elif step.kind == "leave":
            self._placer.metadata(destination, info_of(destination, node))
        elif node.type == "file":
            self._file(step, destination, parts)
        elif node.type == "symlink":
            self._placer.symlink(destination, node.linktarget)
            self._placer.metadata(destination, info_of(destination, node))
            self._remember(destination, _Done(step.path))
        elif node.type != "socket":
            info = info_of(destination, node)
            self._placer.special(destination, info)
            self._placer.metadata(destination, info)
            self._remember(destination, _Done(step.path))

    def _file(self, step: Step, destination: bytes, parts: Parts | None) -> None:
        node = step.node
        first = self._links.first(node)
        bytes_before = self.stats.restored_bytes
        try:
            if first is not None:
                self._placer.hardlink(destination, first)
            else:
                if parts is not None:
                    self._content(parts, self._reader.size(node), step.path, destination)
                else:
                    with self._reader.open_node(step.path, node) as stream:
                        self._content(stream.parts(), stream.size, step.path, destination)
                self._placer.metadata(destination, info_of(destination, node))
        except BaseException:
            self.stats.restored_bytes = bytes_before
            raise
        self._links.made(node, destination)
        self.stats.restored_files += 1
        size = self.stats.restored_bytes - bytes_before
        self._remember(destination, _Done(step.path, files=1, size=size, content=first or destination))
        self._report(step.path)

    def _content(self, parts: Iterable[tuple[int, bytes]], size: int, path: bytes, destination: bytes) -> None:
        writer = self._placer.file(destination, size)
        try:
            for offset, data in parts:
                if not is_zeros(data):  # the file is all hole from the start
                    writer.write_at(offset, data)
                self.stats.restored_bytes += len(data)
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
