"""Objects of a store that is a directory of this machine, for another process of ours that reads the files itself instead of
getting every byte through a pipe.

What goes wrong here says nothing about an object. Whoever asked reads it again through the store, which classifies, tries
again and finds the words.
"""

from __future__ import annotations

import os
import stat
import threading
from typing import NamedTuple

_KEPT_BYTES = 16 << 20  # of memory that is used again
_local = threading.local()


class Directory(NamedTuple):
    """Only as long as it has this identity: another one may be mounted there by now."""

    path: str
    device: int
    inode: int


def directory_of(store: object) -> Directory | None:
    """Where the objects of `store` are files, when every look at them may go past it: nothing counts or changes its reads."""
    found = getattr(store, "directory", None)
    return found if isinstance(found, Directory) else None


def open_object(directory: Directory, name: str) -> int:
    """A descriptor for reading. Raises OSError, also when it is no regular file."""
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=_root(directory))
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise FileNotFoundError(name)
    except BaseException:
        os.close(file)
        raise
    return file


def read_exactly(file: int, buffer: memoryview, offset: int) -> None:
    """Fill `buffer` from there. Raises OSError, EOFError when the file ends before."""
    while buffer:
        count = os.preadv(file, [buffer], offset)
        if count == 0:
            raise EOFError
        buffer, offset = buffer[count:], offset + count


def scratch(size: int) -> memoryview:
    """Memory that this thread uses again the next time: new pages cost a quarter of what reading into them does."""
    if size > _KEPT_BYTES:
        return memoryview(bytearray(size))
    kept: bytearray | None = getattr(_local, "scratch", None)
    if kept is None or len(kept) < size:
        kept = _local.scratch = bytearray(size)
    return memoryview(kept)[:size]


def _root(directory: Directory) -> int:
    """Kept open by each thread, for one directory at a time."""
    if getattr(_local, "directory", None) == directory:
        root: int = _local.root
        return root
    root = os.open(directory.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    found = os.fstat(root)
    if (found.st_dev, found.st_ino) != (directory.device, directory.inode):
        os.close(root)
        raise FileNotFoundError(directory.path)
    if hasattr(_local, "root"):
        os.close(_local.root)
    _local.directory, _local.root = directory, root
    return root
