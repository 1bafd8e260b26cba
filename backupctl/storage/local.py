"""A repository in a local directory. Not tamper-proof: whoever may write there may delete there.

Write order of `put`: temporary file in the root → fsync → rename (or link, for `if_absent`) → fsync of the directory.
A crash leaves the whole object or none, and at worst a `.tmp-…` file, which nobody lists and a later writer removes. A
draft is the same, but for the temporary file, which has no name before it is whole.

Everything is relative to one open directory: when the disk is unmounted or the directory replaced under us, nothing is
ever written to, or reported missing from, the wrong place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from backupctl.errors import (
    Corrupt,
    Denied,
    Exists,
    Full,
    NotFound,
    StorageError,
    StoreUnreachableError,
    Transient,
    UserError,
)
from backupctl.storage.names import TEMPORARY, check_name, check_range, too_short
from backupctl.storage.nearby import Directory
from backupctl.storage.probing import probe_basics, scratch_name
from backupctl.storage.protocol import Immutability, Inspection, ObjectInfo, Posture, ProbeResult

STALE_SECONDS = 24 * 3600  # no single put takes this long; older temporary files belong to a dead writer
FOREIGN = frozenset({"lost+found"})  # in the root of a file system; not ours and not readable

MISSING = {errno.ENOENT, errno.ENOTDIR}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
TRANSIENT = {errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBUSY}


class LocalStore:
    """Objects are files under `path`, 0600 in 0700 directories. Thread-safe. With `create` the root is made when it is
    missing; without, a missing root (an unmounted disk) raises StoreUnreachableError and never becomes an empty store."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        self.location = str(path)
        self._cleaned = False
        try:
            if create and not path.is_dir():
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._sync_directory(path.parent)
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in MISSING and not create:
                raise StoreUnreachableError(
                    f"{path}: no such directory",
                    next_step="mount the disk that holds the repository, or correct `path`; "
                    "`backupctl init` makes a new repository",
                ) from error
            raise self._classified(error, "", "open") from error

    @property
    def directory(self) -> Directory:
        root = os.fstat(self._root)
        return Directory(str(self.path.absolute()), root.st_dev, root.st_ino)

    def put(self, name: str, data: bytes, *, if_absent: bool = False) -> None:
        self._put(name, lambda temporary: self._write(temporary, data), if_absent=if_absent)

    def draft(self) -> LocalDraft | None:
        """None where the file system has no files without a name: NFS, FAT, CIFS, FUSE."""
        try:
            file = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self._root)
        except OSError:  # `put` finds the words
            return None
        draft = LocalDraft(self, file)
        return draft if Path(draft.path).exists() else None  # a system without /proc

    def _put(self, name: str, make: Callable[[str], None], *, if_absent: bool = False) -> None:
        """`make` makes the temporary file, durably."""
        check_name(name, self.location)
        temporary = f"{TEMPORARY}{secrets.token_hex(12)}"
        try:
            try:
                make(temporary)
                self._clean(temporary)
                self._make_parents(name)
                if if_absent:  # needs hard links: not FAT
                    os.link(temporary, name, src_dir_fd=self._root, dst_dir_fd=self._root)
                else:
                    os.rename(temporary, name, src_dir_fd=self._root, dst_dir_fd=self._root)
            finally:
                with contextlib.suppress(FileNotFoundError):  # renamed, or never made
                    os.unlink(temporary, dir_fd=self._root)
            self._sync_directory(_parent(name))
        except FileExistsError as error:
            raise Exists(f"{self.location}: {name} exists already", name=name, location=self.location) from error
        except OSError as error:
            raise self._classified(error, name, "write") from error

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        check_name(name, self.location)
        check_range(offset, length)
        try:
            file = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._root)
            try:
                info = os.fstat(file)
                if not stat.S_ISREG(info.st_mode):
                    raise self._not_found(name)
                end = info.st_size if length is None else offset + length
                data = _read_range(file, offset, end)
            finally:
                os.close(file)
        except OSError as error:
            raise self._classified(error, name, "read") from error
        if offset > info.st_size or len(data) < end - offset:
            raise too_short(name, self.location, offset, length, len(data))
        return data

    def stat(self, name: str) -> ObjectInfo:
        check_name(name, self.location)
        try:
            info = os.stat(name, dir_fd=self._root)
        except OSError as error:
            raise self._classified(error, name, "read") from error
        if not stat.S_ISREG(info.st_mode):
            raise self._not_found(name)
        return _object_info(name, info)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._walk("", prefix)

    def delete(self, name: str) -> None:
        check_name(name, self.location)
        try:
            os.unlink(name, dir_fd=self._root)
            self._sync_directory(_parent(name))
        except OSError as error:
            problem = self._classified(error, name, "delete")
            if not isinstance(problem, NotFound):
                raise problem from error

    def retain(self, name: str, until: datetime) -> None:
        raise UserError(
            f"{self.location}: a local directory cannot refuse deletion",
            next_step="for retention nobody can undo, use an S3 bucket with object lock",
        )

    def locked_until(self, name: str) -> datetime | None:
        self.stat(name)
        return None

    def inspect(self) -> Inspection:
        info = os.fstat(self._root)
        open_to = stat.S_IMODE(info.st_mode) & 0o077
        mode = f"mode {stat.S_IMODE(info.st_mode):04o}"
        permissions = (
            Posture("who may look into it", f"{mode}: others than its owner", "warning", f"chmod 700 {self.path}")
            if open_to
            else Posture("who may look into it", f"{mode}: its owner alone")
        )
        lock = Posture("object lock", "a directory has none: whoever may write there may delete there", "info")
        return Inspection((permissions, lock))

    def probe(self) -> ProbeResult:
        immutability = Immutability(False, "a local directory: whoever may write there may delete there", False)
        return ProbeResult(probe_basics(self, scratch_name()), immutability)

    def close(self) -> None:
        root, self._root = self._root, -1
        if root >= 0:
            os.close(root)

    def _write(self, temporary: str, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = os.open(temporary, flags, 0o600, dir_fd=self._root)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        finally:
            os.close(file)

    def _clean(self, fresh: str) -> None:
        """Once per store: remove the temporary files of dead writers. Ages are measured by the file system's clock."""
        if self._cleaned:
            return
        self._cleaned = True
        now = os.stat(fresh, dir_fd=self._root).st_mtime
        with os.scandir(self._root) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(TEMPORARY)]
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # its writer was alive after all, or another cleaner was first
                if now - os.stat(name, dir_fd=self._root).st_mtime > STALE_SECONDS:
                    os.unlink(name, dir_fd=self._root)

    def _make_parents(self, name: str) -> None:
        parts = name.split("/")[:-1]
        for count in range(1, len(parts) + 1):
            directory = "/".join(parts[:count])
            try:
                os.mkdir(directory, 0o700, dir_fd=self._root)
            except FileExistsError:
                continue
            self._sync_directory(_parent(directory))

    def _sync_directory(self, directory: str | Path) -> None:
        root = None if isinstance(directory, Path) else self._root
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # CIFS and FUSE have no fsync for directories
                raise
        finally:
            os.close(handle)

    def _walk(self, directory: str, prefix: str) -> Iterator[ObjectInfo]:
        if not directory and self._is_gone():  # a deleted directory still opens, and is empty
            raise self._not_found(prefix)
        start = f"{directory}/" if directory else ""
        found: list[tuple[str, os.stat_result]] = []
        try:
            handle = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root)
            try:
                with os.scandir(handle) as entries:
                    for child in entries:
                        path = start + child.name
                        if child.name.startswith(TEMPORARY) or path in FOREIGN or not _could_match(path, prefix):
                            continue
                        with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                            found.append((path, child.stat()))
            finally:
                os.close(handle)
        except OSError as error:
            problem = self._classified(error, directory or prefix, "list")
            if isinstance(problem, NotFound):  # deleted meanwhile
                return
            raise problem from error
        # a directory sorts as what its objects' names start with, so that whole names come out in order
        for path, info in sorted(found, key=lambda item: item[0] + "/" * stat.S_ISDIR(item[1].st_mode)):
            if stat.S_ISDIR(info.st_mode):
                yield from self._walk(path, prefix)
            elif stat.S_ISREG(info.st_mode) and path.startswith(prefix):
                yield _object_info(path, info)

    def _classified(self, error: OSError, name: str, verb: str) -> UserError:
        what = f"{self.location}: cannot {verb} {name or 'the directory'}: {os.strerror(error.errno or 0)}"
        code = error.errno
        if code in MISSING:
            return self._not_found(name)
        if code in FULL:
            next_step = "free space or enlarge the disk or quota; what is stored is unharmed; then run again"
            return Full(what, name=name, location=self.location, next_step=next_step)
        if code in DENIED:
            next_step = (
                f"check owner, mode, mount options and that the file system has hard links (`ls -ld {self.location}`)"
            )
            return Denied(what, name=name, location=self.location, next_step=next_step)
        if code in TRANSIENT:
            return Transient(what, name=name, location=self.location)
        if code == errno.EIO and verb == "read":
            next_step = "the disk cannot read this object: look at `dmesg` and run `backupctl check --read-data`"
            return Corrupt(what, name=name, location=self.location, next_step=next_step)
        return StorageError(
            what, name=name, location=self.location, next_step=f"look at the disk below {self.location}"
        )

    def _is_gone(self) -> bool:
        return self._root < 0 or os.fstat(self._root).st_nlink == 0

    def _not_found(self, name: str) -> UserError:
        """A missing object, unless the whole root is gone: that is no statement about any object."""
        if self._is_gone():
            return StoreUnreachableError(
                f"{self.location}: the directory is gone", next_step="mount or restore it, run again"
            )
        return NotFound(f"{self.location}: {name} does not exist", name=name, location=self.location)


class LocalDraft:
    """A file without a name, until it is finished: the kernel takes it away with us."""

    def __init__(self, store: LocalStore, file: int) -> None:
        self.path = f"/proc/self/fd/{file}"
        self._store, self._file, self._size = store, file, 0

    def write(self, data: bytes | bytearray) -> None:
        rest, offset = memoryview(data), self._size
        try:
            while rest:
                count = os.pwrite(self._file, rest, offset)
                rest, offset = rest[count:], offset + count
        except OSError as error:
            raise self._store._classified(error, "an object", "write") from error
        self._size = offset

    def read(self) -> bytes:
        try:
            return _read_range(self._file, 0, self._size)
        except OSError as error:
            raise self._store._classified(error, "an object", "read") from error

    def finish(self, name: str) -> None:
        def make(temporary: str) -> None:
            os.fsync(self._file)
            os.link(self.path, temporary, dst_dir_fd=self._store._root)

        self._store._put(name, make)

    def __del__(self) -> None:
        os.close(self._file)


def _parent(name: str) -> str:
    return name.rpartition("/")[0] or "."


def _could_match(path: str, prefix: str) -> bool:
    return path.startswith(prefix) or prefix.startswith(path)


def _read_range(file: int, offset: int, end: int) -> bytes:
    pieces = []
    while offset < end and (piece := os.pread(file, end - offset, offset)):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)


def _object_info(name: str, info: os.stat_result) -> ObjectInfo:
    return ObjectInfo(name, info.st_size, datetime.fromtimestamp(info.st_mtime, UTC))
