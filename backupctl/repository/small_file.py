"""Reading one file whole, in as few system calls as its metadata and a proof that it held still need."""

from __future__ import annotations

import os
import stat
import time
from typing import NamedTuple

from backupctl.hosts import posix
from backupctl.repository.entry import ProblemKind

LARGE_BYTES = 8 << 20  # longer files are read in pieces by whoever has the memory for it
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_NO_ATIME = getattr(os, "O_NOATIME", 0)


class SmallFile(NamedTuple):
    data: bytes
    status: os.stat_result
    xattrs: tuple[tuple[bytes, bytes], ...]
    opened_ns: int
    changed: bool  # while it was read


class CannotReadError(Exception):
    def __init__(self, kind: ProblemKind, text: str) -> None:
        super().__init__(text)
        self.kind: ProblemKind = kind


def read_small_file(directory: int, name: bytes) -> SmallFile | None:
    """None when it is longer than LARGE_BYTES. Raises CannotReadError."""
    opened_ns = time.time_ns()
    try:
        try:
            descriptor = os.open(name, _READ_FLAGS | _NO_ATIME, dir_fd=directory)
        except PermissionError:  # O_NOATIME is for the owner and root; without permission to read, this raises again
            descriptor = os.open(name, _READ_FLAGS, dir_fd=directory)
    except OSError as error:
        raise CannotReadError(
            "vanished" if isinstance(error, FileNotFoundError) else "unreadable", _text(error)
        ) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CannotReadError("unreadable", "not a regular file")
        if status.st_size > LARGE_BYTES:
            return None
        xattrs = posix.open_xattrs(descriptor)  # after fstat: a change from now on shows in `differs`
        data = os.read(descriptor, status.st_size + 1)
        while len(data) != status.st_size and len(data) <= 2 * LARGE_BYTES:  # it grew, shrank, or came in pieces
            further = os.read(descriptor, 1 << 20)
            if not further:
                break
            data += further
        return SmallFile(data, status, xattrs, opened_ns, posix.differs(status, descriptor))
    except OSError as error:
        raise CannotReadError("failed", _text(error)) from None
    finally:
        os.close(descriptor)


def _text(error: OSError) -> str:
    return error.strerror or str(error)
