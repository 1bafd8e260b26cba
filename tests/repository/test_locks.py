"""Locks keep two programs apart, and never outlive their holder for long."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from backupctl.clock import FakeClock, SystemClock
from backupctl.errors import LockedError, Transient
from backupctl.repository.check import check
from backupctl.repository.format.lock import LockInfo
from backupctl.repository.locks import LOST_SECONDS, SETTLE_SECONDS, Lock, Locks
from backupctl.repository.prune import PruneLimits, apply_prune, plan_prune
from backupctl.repository.repository import Repository
from backupctl.storage.local import LocalStore
from tests.repository.engine import NOW, PASSWORD, FailingStore, backup, create, objects, reopen, restore


def lock_names(repository: Repository) -> list[str]:
    return [info.name for info in objects(repository, "locks/")]


def without_locks(repository: Repository) -> set[str]:
    return {info.name for info in repository.store.list() if not info.name.startswith("locks/")}


def foreign(repository: Repository, *, age: timedelta = timedelta(0), exclusive: bool = True) -> LockInfo:
    return repository.locks.write(LockInfo(repository.clock.now() - age, exclusive, "elsewhere", "eve", 4711))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_shared_locks_live_together_exclusive_ones_alone() -> None:
    repository = create()
    other = reopen(repository)
    with repository.lock() as held:
        with other.lock():
            assert len(lock_names(repository)) == 2
        with pytest.raises(LockedError) as caught, other.lock(exclusive=True):
            raise AssertionError
        assert held.info is not None
        assert f"pid {os.getpid()}" in str(caught.value) and "@" in str(caught.value) and caught.value.next_step
        assert lock_names(repository) == [f"locks/{held.info.id}"]
    with repository.lock(exclusive=True), pytest.raises(LockedError, match="exclusively"), other.lock():
        raise AssertionError
    assert lock_names(repository) == []


def test_a_held_lock_is_held_on() -> None:
    repository = create()
    with repository.lock(exclusive=True) as outer, repository.lock() as inner:
        assert inner is outer
    with repository.lock(), pytest.raises(LockedError), repository.lock(exclusive=True):
        raise AssertionError
    assert lock_names(repository) == []


def test_two_at_the_same_instant_do_not_both_win() -> None:
    """Another exclusive lock appears between our list and our write."""
    repository = create()

    class Late(FakeClock):
        def sleep(self, seconds: float) -> None:
            foreign(repository)

    with pytest.raises(LockedError), Lock(Locks(repository.store, repository.keys, Late(NOW)), exclusive=True):
        raise AssertionError
    assert len(lock_names(repository)) == 1, "ours was taken back"


def test_a_lock_for_reading_is_settled_later_and_waits_only_for_the_rest() -> None:
    repository = create()
    clock = repository.clock
    with repository.lock(settled=False) as held:
        begun = clock.monotonic()
        clock.sleep(SETTLE_SECONDS / 2)
        repository.settle_locks()
        held.settle()
        assert clock.monotonic() - begun == pytest.approx(SETTLE_SECONDS)
    with pytest.raises(LockedError), repository.lock(settled=False):
        foreign(repository)
        repository.require_locks()
    assert len(lock_names(repository)) == 1, "ours was taken back"


@pytest.mark.parametrize(
    "write",
    [
        lambda repository: repository.put_pack("data", bytes(32), b"a pack"),
        lambda repository: repository.save_index([]),
        lambda repository: repository.save_record("fingerprint", b"{}"),
    ],
)
def test_nothing_is_written_before_the_lock_is_settled(write) -> None:
    repository = create()
    before = without_locks(repository)
    with pytest.raises(LockedError), repository.lock(settled=False):
        foreign(repository)
        write(repository)
    assert without_locks(repository) == before
    for name in lock_names(repository):
        repository.store.delete(name)
    begun = repository.clock.monotonic()
    with repository.lock(settled=False):
        write(repository)
    assert repository.clock.monotonic() - begun == pytest.approx(SETTLE_SECONDS)
    assert without_locks(repository) > before


def test_an_index_that_was_read_before_the_lock_is_settled_must_still_be_there() -> None:
    repository = create()
    gone = repository.save_index([])
    with repository.lock(settled=False):
        assert not repository.has_blob("data", bytes(32))
        repository.store.delete(f"index/{gone}")  # a prune that was about to end
        with pytest.raises(LockedError, match="pruned in this very moment"):
            repository.save_record("fingerprint", b"{}")
        with pytest.raises(LockedError):
            repository.put_pack("data", bytes(32), b"a pack")
    assert repository.records("fingerprint") == []
    with repository.lock(settled=False):
        repository.save_index([])


def test_a_foreign_lock_is_stale_after_half_an_hour_only() -> None:
    repository = create()
    foreign(repository, age=timedelta(minutes=29))
    assert repository.unlock() == []
    with pytest.raises(LockedError, match="eve@elsewhere, pid 4711, last sign of life 1740 s ago"), repository.lock():
        raise AssertionError
    repository.clock.sleep(120)
    assert len(repository.list_locks()) == 1
    with repository.lock(exclusive=True):
        assert len(lock_names(repository)) == 1
    foreign(repository, age=timedelta(hours=1))
    assert len(repository.unlock()) == 1 and lock_names(repository) == []


def test_a_dead_holder_on_this_machine_is_known_at_once() -> None:
    repository = create()
    with repository.lock() as held:
        assert held.info is not None and held.info.start_time > 0 and held.info.boot_id
        mine = held.info
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    dead = repository.locks.write(replace(mine, pid=finished.pid, exclusive=True))
    recycled = repository.locks.write(replace(mine, start_time=mine.start_time - 1, exclusive=True))
    other_boot = repository.locks.write(replace(mine, pid=finished.pid, boot_id="another"))
    other_namespace = repository.locks.write(replace(mine, pid=finished.pid, pid_namespace="pid:[1]"))
    alive = repository.locks.write(mine)
    assert set(repository.unlock()) == {dead.id, recycled.id}
    assert {lock.id for lock in repository.list_locks()} == {other_boot.id, other_namespace.id, alive.id}


def test_unreadable_and_foreign_files() -> None:
    repository = create()
    repository.store.put("locks/README", b"not a lock")
    repository.store.put("locks/" + "0" * 64, b"")
    with repository.lock():
        assert len(repository.list_locks()) == 1
    repository.store.put("locks/" + "1" * 64, b"garbage")
    modified = repository.store.stat("locks/" + "1" * 64).modified
    young = Locks(repository.store, repository.keys, FakeClock(modified + timedelta(minutes=5)))
    with pytest.raises(LockedError, match="cannot be read"):
        young.present()
    assert Locks(repository.store, repository.keys, FakeClock(modified + timedelta(minutes=31))).present() == []
    assert "locks/" + "1" * 64 not in lock_names(repository)


def test_refresh_replaces_the_lock() -> None:
    repository = create()
    with Lock(repository.locks, refresh_seconds=0.01) as held:
        first = lock_names(repository)
        until(lambda: lock_names(repository) not in ([], first))
        held.require()
    assert lock_names(repository) == []


def test_a_lock_that_somebody_removed_is_lost() -> None:
    repository = create()
    with repository.lock() as held:
        assert held.info is not None
        repository.store.delete(f"locks/{held.info.id}")
        held.refresh()
        with pytest.raises(LockedError, match="lost"):
            backup(repository, {"a": b"1"})
        assert lock_names(repository) == []


def test_a_lock_that_could_not_be_refreshed_for_long_is_lost() -> None:
    store = FailingStore()
    repository = create(store)
    with repository.lock() as held:
        store.fail_at = 1
        with pytest.raises(Transient):
            held.refresh()
        held.require()
        repository.clock.sleep(LOST_SECONDS + 1)
        with pytest.raises(LockedError, match="lost"):
            repository.require_locks()
        store.fail_at = 0
        held.refresh()
        held.require()
    assert lock_names(repository) == []


def test_a_lock_that_cannot_be_deleted_does_not_hide_the_work() -> None:
    store = FailingStore()
    repository = create(store)
    with repository.lock():
        store.fail_at = 1
    store.fail_at = 0
    assert len(lock_names(repository)) == 1


def test_hangup_is_ignored_while_held_and_restored_after() -> None:
    repository = create()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    with repository.lock() as held:
        os.kill(os.getpid(), signal.SIGHUP)
        assert held.info is not None and not held.info.hostname.startswith("backupctl@")
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_a_handler_of_the_program_stays() -> None:
    repository = create()
    caught: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, frame: caught.append(number))
    try:
        with repository.lock():
            os.kill(os.getpid(), signal.SIGHUP)
            until(lambda: bool(caught))
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_other_threads_hide_their_host_from_unlock() -> None:
    """Only the main thread may ignore a signal; so `restic unlock` must not find our pid."""
    repository = create()
    hosts: list[str] = []

    def work() -> None:
        with repository.lock() as held:
            assert held.info is not None
            hosts.append(held.info.hostname)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert hosts[0].startswith("backupctl@")


@pytest.mark.servers
@pytest.mark.skipif(shutil.which("restic") is None, reason="needs restic")
def test_stock_restic_respects_our_locks_and_we_respect_restics(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "repository") if (tmp_path / "repository").mkdir() is None else None
    assert store is not None
    repository = Repository.create(store, PASSWORD, clock=SystemClock(), scrypt_n=1024)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "RESTIC_PASSWORD": PASSWORD,
        "RESTIC_REPOSITORY": str(tmp_path / "repository"),
        "RESTIC_CACHE_DIR": str(tmp_path / "cache"),
    }

    def restic(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["restic", *arguments], env=environment, capture_output=True, text=True, check=False)

    with repository.lock():
        refused = restic("prune")
        assert refused.returncode != 0 and "already locked" in refused.stderr
        assert restic("unlock").returncode == 0  # sends SIGHUP to us: we live
        assert len(lock_names(repository)) == 1, "and our lock is not stale"
    backing_up = subprocess.Popen(
        ["restic", "backup", "--stdin"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        until(lambda: bool(repository.list_locks()))  # whole: restic writes it under another name first
        with pytest.raises(LockedError, match=f"pid {backing_up.pid}"), repository.lock(exclusive=True):
            raise AssertionError
    finally:
        backing_up.communicate(b"done", timeout=30)
    assert backing_up.returncode == 0


VICTIM = """
import sys
from pathlib import Path
from backupctl.clock import SystemClock
from backupctl.repository.repository import Repository
from backupctl.storage.local import LocalStore
from tests.repository.engine import content
repository = Repository.open(LocalStore(Path(sys.argv[1])), sys.argv[2], clock=SystemClock())
with repository.lock():
    saver = repository.blob_saver()
    for number in range(10**9):
        saver.save("data", content(number, 1 << 20))
"""


def test_a_killed_backup_leaves_nothing_that_lasts(tmp_path: Path) -> None:
    """kill -9 in the middle of uploading: its lock does not block, its packs are hints, and prune removes them."""
    (tmp_path / "repository").mkdir()
    store = LocalStore(tmp_path / "repository")
    repository = Repository.create(store, PASSWORD, clock=SystemClock(), scrypt_n=2)
    snapshot = backup(repository, {"a": b"1" * 5000})
    before = len(list(objects(repository, "data/")))
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(tmp_path / "repository"), PASSWORD])
    try:
        until(lambda: len(list(objects(repository, "data/"))) > before)
    finally:
        victim.kill()
        victim.wait()
    assert len(lock_names(repository)) == 1
    report = check(repository, read_data=True)
    assert report.problems == [] and any("in no index" in hint for hint in report.hints)
    at_once = PruneLimits(grace=timedelta(0))
    assert apply_prune(repository, plan_prune(repository, at_once)).deleted_packs >= 1
    assert lock_names(repository) == []
    assert len(list(objects(repository, "data/"))) == before
    assert restore(reopen(repository), snapshot) == {"a": b"1" * 5000}
