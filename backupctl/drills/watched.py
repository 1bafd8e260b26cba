"""What passes between the snapshot and the staging host, watched: a failure must be laid at the right door."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from backupctl.errors import CouldNotRunError, UserError
from backupctl.hosts.protocol import ByteSource, FileInfo, FileWriter, Placer
from backupctl.sources.protocol import SnapshotFiles


class CountingFiles:
    """A source's files in the snapshot, as given to a native restore. Counts bytes, and knows whether all was read."""

    def __init__(self, files: SnapshotFiles, progress: Callable[[int], None]) -> None:
        self._files, self._progress = files, progress
        self._opened: set[bytes] = set()
        self._unfinished: set[bytes] = set()
        self.bytes = 0

    @property
    def all_read(self) -> bool:
        return bool(self._opened) and not self._unfinished

    def names(self, directory: bytes = b"") -> list[bytes]:
        return self._files.names(directory)

    def size(self, path: bytes) -> int:
        return self._files.size(path)

    def open(self, path: bytes) -> ByteSource:
        self._opened.add(path)
        self._unfinished.add(path)
        return _CountedStream(self, path, self._files.open(path), self._files.size(path))

    def restore(
        self, placer: Placer, path: bytes = b"", progress: Callable[[int], None] = lambda done: None
    ) -> list[str]:
        self._opened.add(path)
        self._unfinished.add(path)
        watched = WatchedPlacer(placer)
        before = self.bytes

        def done(amount: int) -> None:
            self.bytes = before + amount
            self._progress(self.bytes)
            progress(amount)

        problems = self._files.restore(watched, path, done)
        refused = [one for one in problems if any(one.endswith(message) for message in watched.refused)]
        if refused:
            raise CouldNotRunError(f"the staging host refused {refused[0]}", next_step="see what that host lacks")
        if not problems:
            self._unfinished.discard(path)
        return problems

    def count(self, path: bytes, amount: int, *, ended: bool) -> None:
        self.bytes += amount
        self._progress(self.bytes)
        if ended:
            self._unfinished.discard(path)


class _CountedStream:
    def __init__(self, files: CountingFiles, path: bytes, stream: ByteSource, size: int) -> None:
        self._files, self._path, self._stream, self._left = files, path, stream, size

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        self._files.count(self._path, len(data), ended=self._left <= 0)
        return data

    def close(self) -> None:
        self._stream.close()


class WatchedPlacer:
    """A placer that remembers what the staging host refused: `refused` holds the messages of its errors. A restore
    reports those beside the damage it finds in the backup, and the two mean different verdicts."""

    def __init__(self, placer: Placer) -> None:
        self._placer = placer
        self.refused: set[str] = set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            self.refused.add(error.message)
            raise

    def directory(self, path: bytes) -> None:
        with self.watching():
            self._placer.directory(path)

    def file(self, path: bytes, size: int) -> FileWriter:
        with self.watching():
            return _WatchedWriter(self, self._placer.file(path, size))

    def symlink(self, path: bytes, target: bytes) -> None:
        with self.watching():
            self._placer.symlink(path, target)

    def hardlink(self, path: bytes, existing: bytes) -> None:
        with self.watching():
            self._placer.hardlink(path, existing)

    def remove(self, path: bytes) -> None:
        with self.watching():
            self._placer.remove(path)

    def special(self, path: bytes, info: FileInfo) -> None:
        with self.watching():
            self._placer.special(path, info)

    def metadata(self, path: bytes, info: FileInfo) -> None:
        with self.watching():
            self._placer.metadata(path, info)

    def flush(self) -> list[str]:
        with self.watching():
            return self._placer.flush()


class _WatchedWriter:
    def __init__(self, placer: WatchedPlacer, writer: FileWriter) -> None:
        self._placer, self._writer = placer, writer

    def write_at(self, offset: int, data: bytes) -> None:
        with self._placer.watching():
            self._writer.write_at(offset, data)

    def discard(self) -> None:
        with self._placer.watching():
            self._writer.discard()

    def close(self) -> None:
        with self._placer.watching():
            self._writer.close()
