"""Repository locks: many may read and add (shared), one may delete (exclusive). The protocol is restic's, so both
programs respect each other: list, write, list again, refresh every 5 minutes, delete at the end.

A lock is stale when its holder is dead for sure (same boot, same pid namespace, no such process any more), or when it
has not been refreshed for 30 minutes. Stale locks are removed on the way, and logged. `restic unlock` probes a lock's
holder with SIGHUP, so that signal must not be deadly while a lock is held.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import TracebackType

from backupctl.clock import Clock
from backupctl.errors import LockedError, NotFound, StorageError, UserError
from backupctl.hosts import identity
from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import Keys, seal, unseal
from backupctl.repository.format.lock import LockInfo, decode_lock, encode_lock
from backupctl.repository.format.unpacked import decode_unpacked
from backupctl.storage.protocol import ObjectInfo, ObjectStore

REFRESH_SECONDS = 300.0
RETRY_SECONDS = 30.0
STALE_AFTER = timedelta(minutes=30)
LOST_SECONDS = 22.5 * 60  # not refreshed for so long: others may soon think we are gone
SETTLE_SECONDS = 0.2

log = logging.getLogger(__name__)


def user_name() -> str:
    """The name of the user we run as, its number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def ignore_hangup() -> bool:
    """From now on SIGHUP cannot kill this process. Whether it could before; raises ValueError when it can, and this is not the
    main thread."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
        return False
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return True


def _is_dead(lock: LockInfo) -> bool:
    """True only when the holder ran on this machine since its last boot and is no more."""
    return (
        bool(lock.boot_id and lock.start_time)
        and (lock.boot_id, lock.pid_namespace) == (identity.boot_id(), identity.pid_namespace())
        and identity.has_ended(lock.pid, lock.start_time)
    )


class Locks:
    """The lock files of one repository."""

    def __init__(self, store: ObjectStore, keys: Keys, clock: Clock) -> None:
        self.store, self.keys, self.clock = store, keys, clock

    def present(self) -> list[LockInfo]:
        """Every lock that can be read, stale ones too. Raises LockedError for one that cannot be read."""
        return [lock for info in self._objects() if (lock := self._read(info)) is not None]

    def _objects(self) -> list[ObjectInfo]:
        return [info for info in self.store.list("locks/") if info.size > 0 and len(info.name) == len("locks/") + 64]

    def _read(self, info: ObjectInfo) -> LockInfo | None:
        try:
            data = self.store.get(info.name)
        except NotFound:
            return None
        try:
            return decode_lock(
                decode_unpacked(unseal(self.keys, data), max_bytes=1 << 20), info.name.removeprefix("locks/")
            )
        except FormatError as error:
            if self.clock.now() - info.modified > STALE_AFTER:
                log.warning("removing unreadable lock %s of %s: %s", info.name, info.modified, error)
                self.store.delete(info.name)
                return None
            raise LockedError(
                f"{self.store.location}: the lock {info.name} cannot be read: {error}",
                next_step="try again in half an hour: it is then removed as stale",
            ) from None

    def is_stale(self, lock: LockInfo) -> bool:
        return _is_dead(lock) or self.clock.now() - lock.time > STALE_AFTER

    def remove_stale(self) -> list[str]:
        """The ids of the stale locks that were removed."""
        removed = []
        for lock in self.present():
            if self.is_stale(lock):
                self._remove(lock)
                removed.append(lock.id)
        return removed

    def _remove(self, lock: LockInfo) -> None:
        log.warning(
            "removing stale lock %s of %s@%s, pid %d, %s", lock.id, lock.username, lock.hostname, lock.pid, lock.time
        )
        self.store.delete(f"locks/{lock.id}")

    def refuse_conflicts(self, exclusive: bool, own_id: str) -> None:
        """Raises LockedError when another lock excludes one of this kind. Tidies up after processes that died."""
        for lock in self.present():
            if lock.id == own_id:
                continue
            if not (exclusive or lock.exclusive):
                if _is_dead(lock):
                    with contextlib.suppress(StorageError):  # it is in nobody's way; a store may forbid deleting
                        self._remove(lock)
                continue
            if self.is_stale(lock):
                self._remove(lock)
                continue
            age = int((self.clock.now() - lock.time).total_seconds())
            raise LockedError(
                f"{self.store.location} is locked {'exclusively ' if lock.exclusive else ''}by "
                f"{lock.username}@{lock.hostname}, pid {lock.pid}, last sign of life {age} s ago (locks/{lock.id})",
                next_step="wait until it ends; the lock of a holder that died is removed by itself after 30 minutes",
            )

    def write(self, lock: LockInfo) -> LockInfo:
        data = seal(self.keys, encode_lock(lock))  # not compressed: version 1 knows nothing else, and 2 reads it too
        lock_id = hashlib.sha256(data).hexdigest()
        self.store.put(f"locks/{lock_id}", data)
        return replace(lock, id=lock_id)


class Lock:
    """One held lock: a context manager. Without `settled` whoever holds it only reads until `settle`, which then waits less;
    what `settling` raises is raised by that. `refresh_seconds` is for tests."""

    def __init__(
        self,
        locks: Locks,
        *,
        exclusive: bool = False,
        settled: bool = True,
        settling: Callable[[], None] = lambda: None,
        refresh_seconds: float = REFRESH_SECONDS,
    ) -> None:
        self._locks = locks
        self._at_once, self._settled, self._settling = settled, False, settling
        self._settle_guard = threading.Lock()
        self.exclusive = exclusive
        self._refresh_seconds = refresh_seconds
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._restore_hangup = False
        self._refreshed = self._written = 0.0
        self._gone = False
        self.info: LockInfo | None = None

    def __enter__(self) -> Lock:
        """Once; a lock that was written ahead is entered again by who holds it in the end."""
        if self.info is not None:
            return self
        locks = self._locks
        locks.refuse_conflicts(self.exclusive, "")
        hangup_is_harmless = self._ignore_hangup()
        host = socket.gethostname()
        mine = LockInfo(
            time=locks.clock.now(),
            exclusive=self.exclusive,
            # a host name that `restic unlock` never takes for its own keeps its SIGHUP away from us
            hostname=host if hangup_is_harmless else f"backupctl@{host}",
            username=user_name(),
            pid=os.getpid(),
            uid=os.getuid(),
            gid=os.getgid(),
            boot_id=identity.boot_id(),
            pid_namespace=identity.pid_namespace(),
            start_time=identity.start_time(os.getpid()),
        )
        try:
            self.info = locks.write(mine)
            self._refreshed = self._written = locks.clock.monotonic()
            if self._at_once:
                self.settle()
        except BaseException:
            self._release()
            raise
        self._thread = threading.Thread(target=self._keep_fresh, name="lock-refresh", daemon=True)
        self._thread.start()
        return self

    def settle(self) -> None:
        """The second look, once, in whatever thread: somebody may have written a lock in the same moment. Raises LockedError."""
        if self._settled:
            return
        with self._settle_guard:
            if self._settled or self.info is None:
                return
            clock = self._locks.clock
            if (seconds := self._written + SETTLE_SECONDS - clock.monotonic()) > 0:
                clock.sleep(seconds)
            self._locks.refuse_conflicts(self.exclusive, self.info.id)
            self._settling()
            self._settled = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._release()

    def _release(self) -> None:
        try:
            if self.info is not None:
                self._locks.store.delete(f"locks/{self.info.id}")
        except UserError as error:  # what was done under the lock is done; the lock turns stale by itself
            log.warning("cannot delete lock %s: %s", self.info.id if self.info else "", error.message)
        finally:
            self.info = None
            if self._restore_hangup:
                self._restore_hangup = False
                with contextlib.suppress(ValueError):  # left from another thread: the signal stays ignored
                    signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def _ignore_hangup(self) -> bool:
        """True when SIGHUP cannot kill this process from now on."""
        try:
            self._restore_hangup = ignore_hangup()
        except ValueError:  # only the main thread may
            return False
        return True

    def _keep_fresh(self) -> None:
        wait_seconds = self._refresh_seconds
        while not self._stop.wait(wait_seconds):
            try:
                self.refresh()
                wait_seconds = self._refresh_seconds
            except UserError as error:
                log.warning("cannot refresh the lock, trying again: %s", error.message)
                wait_seconds = min(RETRY_SECONDS, self._refresh_seconds)

    def refresh(self) -> None:
        """Write the lock again with the present time, then delete the old one. If somebody removed it meanwhile it is
        lost: they may be deleting what we rely on."""
        old = self.info
        if old is None or self._gone:
            return
        try:
            self._locks.store.stat(f"locks/{old.id}")
        except NotFound:
            self._gone = True
            log.error("lock %s was removed by somebody else", old.id)
            return
        self.info = self._locks.write(replace(old, time=self._locks.clock.now()))
        self._refreshed = self._locks.clock.monotonic()
        self._locks.store.delete(f"locks/{old.id}")

    def require(self) -> None:
        """Raises LockedError when the lock no longer holds: removed by somebody, or not refreshed for long, be it because
        this machine slept: its monotonic clock slept too. Settles it first."""
        self.settle()
        clock, info = self._locks.clock, self.info
        silent = clock.monotonic() - self._refreshed
        if info is not None:
            silent = max(silent, (clock.now() - info.time).total_seconds())
        if self._gone or silent > LOST_SECONDS:
            raise LockedError(
                f"{self._locks.store.location}: our own lock was lost while we worked",
                next_step="run it again; nothing that was stored is lost",
            )

    def confirm(self) -> None:
        """The same, and the lock is still in the store. For the moments that make data depend on it."""
        self.require()
        info = self.info
        if info is None:
            return
        try:
            self._locks.store.stat(f"locks/{info.id}")
        except NotFound:
            if self.info is info:  # not refreshed meanwhile
                self._gone = True
        self.require()
