"""This machine as a host: `posix.py` and `placing.py` called in process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from operator import attrgetter
from typing import Any, cast

from backupctl.hosts import placing, posix, private, process
from backupctl.hosts.protocol import (
    ByteSink,
    Completed,
    FileInfo,
    FileKind,
    FileWriter,
    HostFacts,
    LocalRoot,
    Placer,
    PlacingError,
    Process,
    ReadFile,
)


def to_info(record: posix.Record) -> FileInfo:
    return FileInfo(record.path, cast(FileKind, record.kind), *record[2:])


_fields = attrgetter(*posix.Record._fields)


def to_record(info: FileInfo) -> posix.Record:
    return posix.Record(*_fields(info))


class LocalHost:
    def __init__(self, name: str = "local") -> None:
        self.name = name
        self.python = sys.executable

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> Completed:
        return process.run(argv, stdin=stdin, env=env, timeout=timeout, check=check, where=f"host {self.name}")

    def start(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Process:
        return process.LocalProcess(argv, env, where=f"host {self.name}")

    def scan(self, root: bytes, *, exclude: Sequence[str] = (), only: Sequence[bytes] = ()) -> Iterator[FileInfo]:
        return map(to_info, posix.scan(root, exclude, only))

    def open_read(self, path: bytes) -> ReadFile:
        return LocalFile(path)

    def open_write(self, path: bytes, *, mode: int = 0o600) -> ByteSink:
        return LocalSink(path, mode)

    @contextmanager
    def private_file(self, content: bytes) -> Iterator[str]:
        path = private.put(content)
        try:
            yield os.fsdecode(path)
        finally:
            private.take_back(path)

    def stat(self, path: bytes) -> FileInfo | None:
        record = posix.lstat(path)
        return to_info(record) if record else None

    def list_directory(self, path: bytes) -> list[bytes]:
        return posix.list_directory(path)

    def make_directory(self, path: bytes, *, mode: int = 0o700) -> None:
        posix.make_directory(path, mode)

    def remove_tree(self, path: bytes) -> None:
        posix.remove_tree(path)

    def free_bytes(self, path: bytes) -> int:
        return posix.free_bytes(path)

    @contextmanager
    def placer(self, root: bytes) -> Iterator[Placer]:
        with refusing(self.name, root):
            inner = placing.PosixPlacer(root)
        try:
            yield LocalPlacer(self.name, inner, LocalRoot(root, *inner.identity()))
        finally:
            inner.close()

    def facts(self) -> HostFacts:
        return to_facts(posix.facts())

    def close(self) -> None:
        """Nothing is held."""


def to_facts(found: Mapping[str, Any]) -> HostFacts:
    return HostFacts(**found)


class LocalFile:
    def __init__(self, path: bytes) -> None:
        self._descriptor, self._status = posix.open_regular(path)
        self.info = to_info(posix.record(path, self._status))

    def read(self, size: int = -1, /) -> bytes:
        if size >= 0:
            return os.read(self._descriptor, size)
        parts = bytearray()
        while data := os.read(self._descriptor, 1 << 20):
            parts += data
        return bytes(parts)

    def changed(self) -> bool:
        return posix.differs(self._status, self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class LocalSink:
    def __init__(self, path: bytes, mode: int) -> None:
        self._descriptor = posix.create(path, mode)

    def write(self, data: bytes, /) -> int:
        posix.write_all(self._descriptor, data)
        return len(data)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            posix.finish_writing(descriptor)


@contextmanager
def refusing(host: str, path: bytes) -> Iterator[None]:
    """An object that cannot be made is the user's to solve: no space, no permission, something in the way."""
    try:
        yield
    except OSError as error:
        raise cannot_make(host, path, error) from error


def cannot_make(host: str, path: bytes, error: OSError) -> PlacingError:
    shown = path.decode("utf-8", "backslashreplace")
    return PlacingError(
        f"host {host}: cannot restore {shown!r}: {error.strerror or error}",
        path=path,
        next_step="make room, or choose a target directory that this user may write to",
    )


class LocalWriter:
    def __init__(self, host: str, path: bytes, size: int, placer: placing.PosixPlacer) -> None:
        self._host, self._path, self._placer = host, path, placer
        self._descriptor = placer.file(path, size)

    def write_at(self, offset: int, data: bytes) -> None:
        with refusing(self._host, self._path):
            placing.write_at(self._descriptor, offset, data)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with refusing(self._host, self._path):
                os.close(descriptor)

    def discard(self) -> None:
        with suppress(PlacingError):  # what could not be written to the end is removed all the same
            self.close()
        with refusing(self._host, self._path):
            self._placer.remove(self._path)


class LocalPlacer:
    def __init__(self, host: str, inner: placing.PosixPlacer, root: LocalRoot) -> None:
        self._host, self._inner, self.local_root = host, inner, root

    def directory(self, path: bytes) -> None:
        with refusing(self._host, path):
            self._inner.directory(path)

    def file(self, path: bytes, size: int) -> FileWriter:
        with refusing(self._host, path):
            return LocalWriter(self._host, path, size, self._inner)

    def symlink(self, path: bytes, target: bytes) -> None:
        with refusing(self._host, path):
            self._inner.symlink(path, target)

    def hardlink(self, path: bytes, existing: bytes) -> None:
        with refusing(self._host, path):
            self._inner.hardlink(path, existing)

    def remove(self, path: bytes) -> None:
        with refusing(self._host, path):
            self._inner.remove(path)

    def special(self, path: bytes, info: FileInfo) -> None:
        with refusing(self._host, path):
            self._inner.special(path, info.kind, info.device)

    def metadata(self, path: bytes, info: FileInfo) -> None:
        with refusing(self._host, path):
            self._inner.metadata(path, to_record(info))

    def flush(self) -> list[str]:
        return self._inner.take_warnings()


def local_root(placer: Placer) -> LocalRoot | None:
    """Where on this machine `placer` places; None when it is the only way there."""
    root = getattr(placer, "local_root", None)
    return root if isinstance(root, LocalRoot) else None
