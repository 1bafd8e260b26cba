"""A secret in a file, for a program that takes it from one: 0600, in a directory of its own, in memory where the machine has such a
place. It is gone when it is taken back, and what a killed process left is removed by the next one of the same user.

Standard library only: it is sent to far hosts, too.
"""

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

from backupctl.hosts import posix

MEMORY = "/dev/shm"  # noqa: S108 - only used as the parent of mkdtemp's own private directory
PREFIX = "backupctl-"
NAME = "private"
_held: "dict[Path, int]" = {}  # directory → its descriptor, whose lock says that somebody still needs it


def put(content: bytes) -> bytes:
    """The file's path."""
    where = MEMORY if os.access(MEMORY, os.W_OK | os.X_OK) else tempfile.gettempdir()
    sweep(Path(where))
    # under another name until it is locked, or a sweep could take it for one that was left
    directory = Path(tempfile.mkdtemp(prefix="." + PREFIX, dir=where))
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        directory = directory.rename(directory.with_name(directory.name[1:]))
        path = os.fsencode(directory / NAME)
        file = posix.create(path, 0o600)
        try:
            posix.write_all(file, content)
        finally:
            os.close(file)
    except BaseException:
        os.close(descriptor)
        posix.remove_tree(os.fsencode(directory))
        raise
    _held[directory] = descriptor
    return path


def take_back(path: bytes) -> None:
    """What `put` gave. Raises OSError when it cannot be removed."""
    directory = Path(os.fsdecode(path)).parent
    try:
        posix.remove_tree(os.fsencode(directory))
    finally:
        if directory in _held:
            os.close(_held.pop(directory))


def sweep(where: Path) -> None:
    """Remove what processes of this user left in `where` when they were killed: their locks ended with them."""
    for directory in where.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, somebody's who lives, or gone meanwhile
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                ours = os.fstat(descriptor).st_uid == os.geteuid()
                if ours and [one.name for one in directory.iterdir()] == [NAME]:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    posix.remove_tree(os.fsencode(directory))
            finally:
                os.close(descriptor)
