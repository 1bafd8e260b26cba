"""The most memory a run may have (`concurrency.memory`), and how one that wanted more ends: as a failure with a name."""

from __future__ import annotations

import errno
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from backupctl.config.models import Settings
from backupctl.errors import UserError
from backupctl.hosts.workers import WorkerDiedError

_STACK_BYTES = 1 << 20
# Of the C libraries below us: CPython's threads, zstd, OpenSSL, each in the words it has for a refused allocation.
_WORDS = ("can't start new thread", "not enough memory", "malloc failure")


class OutOfMemoryError(UserError):
    """A process of a run was refused memory, or killed for want of it."""


@contextmanager
def limited(settings: Settings) -> Iterator[None]:
    """Within, this process and all that it starts are held to the limit, each by itself: what belongs to it alone counts,
    not files and shared memory. How a run is closed stands outside, so that there is always room for that."""
    limit = settings.concurrency.memory
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if limit is None:
        yield
        return
    most = before[1]
    stack = threading.stack_size(
        _STACK_BYTES
    )  # the kernel counts whole stacks, and 8 MiB for each is what it would give
    resource.setrlimit(resource.RLIMIT_DATA, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
        with suppress(ValueError):  # a size the system gave and does not take
            threading.stack_size(stack)


def want_of_memory(settings: Settings, subject: str, error: BaseException) -> OutOfMemoryError | None:
    """What to say of an error behind which there is a want of memory, wherever it showed itself; None for any other.
    `subject`: whose processes these are, such as "backup site"."""
    # by us, on the way out, when it only came up while something else was handled
    killed = isinstance(error, WorkerDiedError) and error.status == -signal.SIGKILL
    if not killed and not any(map(_is_want, _chain(error))):
        return None
    limit = settings.concurrency.memory
    if killed:  # no limit of ours ends a process so
        found = OutOfMemoryError(
            f"{subject}: one of its processes was killed, most likely because the machine's memory was used up",
            next_step="free memory there, or let fewer runs go on at once: `concurrency`; `dmesg` tells what was killed",
        )
        found.transient = True
    elif limit is None:
        found = OutOfMemoryError(
            f"{subject} wanted more memory than the machine has to give",
            next_step="free memory there, or let fewer runs go on at once: `concurrency`",
        )
    else:
        found = OutOfMemoryError(
            f"{subject} wanted more memory than concurrency.memory allows each of its processes: {limit:,} bytes",
            next_step="raise `concurrency.memory`, or have fewer processes share the work: BACKUPCTL_WORKERS",
        )
    return found


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        seen.append(one)
        yield one
        one = one.__cause__ or one.__context__


def _is_want(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or any(words in str(error) for words in _WORDS)
