"""Saving blobs: nothing lost, nothing twice, failures surface, memory stays bounded."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backupctl.clock import FakeClock
from backupctl.errors import Full, LockedError, Transient
from backupctl.hosts.workers import WorkerDiedError
from backupctl.repository import blob_saver as module
from backupctl.repository import open_packs
from backupctl.repository.blob_saver import BlobSaver
from backupctl.repository.format.crypto import unseal
from backupctl.repository.format.lock import LockInfo
from backupctl.repository.format.pack import PackedBlob, decode_header, pack_bytes, sealed_header
from backupctl.repository.format.sealing import BlobSealer, Run, SealingError
from backupctl.repository.open_packs import OpenPack, OpenPacks
from backupctl.repository.pool import Pool
from backupctl.repository.repository import Repository
from backupctl.storage.local import LocalStore
from tests.repository.engine import NOW, FailingStore, content, create, objects, reopen


def packs(repository: Repository) -> list[list[PackedBlob]]:
    found = []
    for info in objects(repository, "data/"):
        data = repository.store.get(info.name)
        assert hashlib.sha256(data).hexdigest() == info.name.rpartition("/")[2]
        blobs = decode_header(unseal(repository.keys, sealed_header(data)))
        assert pack_bytes(blobs) == len(data)
        found.append(blobs)
    return found


def test_blobs_are_packed_by_kind_and_size() -> None:
    repository = create()
    saver = BlobSaver(repository, target_bytes=32 << 10, choose=random.Random(7))
    blobs = {saver.save("data", content(n, 5000)): content(n, 5000) for n in range(40)}
    trees = [saver.save("tree", b"tree %d" % n) for n in range(5)]
    big = saver.save("data", content("big", 100_000))
    saver.flush()
    found = packs(repository)
    assert all(len({blob.kind for blob in pack}) == 1 for pack in found)
    assert [len(pack) for pack in found if any(blob.id == big for blob in pack)] == [1], "a big blob has its own pack"
    assert all(pack_bytes(pack) < (32 << 10) + 6000 for pack in found if pack[0].id != big)
    assert all(blob.plain_length for pack in found for blob in pack if blob.kind == "tree"), "trees are compressed"
    assert not any(blob.plain_length for pack in found for blob in pack if blob.kind == "data"), "noise is stored plain"
    again = reopen(repository)
    assert all(again.load_blob("data", blob_id) == data for blob_id, data in blobs.items())
    assert all(again.has_blob("tree", blob_id) and not again.has_blob("data", blob_id) for blob_id in trees)


def test_duplicates_are_dropped_also_while_pending() -> None:
    repository = create()
    saver = repository.blob_saver()
    ids = [saver.save("data", b"same" * 1000) for _ in range(10)]
    saver.save("tree", b"same" * 1000)
    saver.flush()
    assert saver.save("data", b"same" * 1000) == ids[0]
    assert (saver.stats.new_blobs, saver.stats.duplicate_blobs) == (2, 10)
    assert saver.stats.new_bytes == 8000 > saver.stats.stored_bytes
    assert reopen(repository).blob_saver().save("data", b"same" * 1000) == ids[0]
    assert sum(map(len, packs(repository))) == 2


def test_an_empty_blob_is_never_compressed() -> None:
    repository = create()
    saver = repository.blob_saver()
    blob = saver.save("data", b"")
    saver.flush()
    assert reopen(repository).load_blob("data", blob) == b""


def test_two_packs_are_open_and_leftovers_are_joined() -> None:
    repository = create()
    saver = BlobSaver(repository, target_bytes=64 << 10, workers=1, choose=random.Random(3))
    for n in range(6):
        saver.save("data", content(n, 2000))
    saver.flush()
    assert len(packs(repository)) == 1


def test_flush_may_be_repeated_and_saving_goes_on() -> None:
    repository = create()
    saver = repository.blob_saver()
    saver.flush()
    assert not list(objects(repository, "index/"))
    first = saver.save("data", b"1")
    saver.flush()
    second = saver.save("data", b"2")
    saver.flush()
    again = reopen(repository)
    assert (again.load_blob("data", first), again.load_blob("data", second)) == (b"1", b"2")


def test_many_threads() -> None:
    repository = create()
    saver = BlobSaver(repository, target_bytes=16 << 10)
    threads = [
        threading.Thread(target=lambda: [saver.save("data", content(n, 3000)) for n in range(60)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    saver.flush()
    assert sum(map(len, packs(repository))) == 60
    assert (saver.stats.new_blobs, saver.stats.duplicate_blobs) == (60, 180)


def test_a_failed_upload_surfaces_and_nothing_hangs() -> None:
    store = FailingStore()
    repository = create(store)
    store.fail_at = len(store.changes) + 2
    saver = BlobSaver(repository, target_bytes=8 << 10)
    with pytest.raises(Transient, match="cut at put data/"):
        for n in range(10_000):
            saver.save("data", content(n, 3000))
    with pytest.raises(Transient):
        saver.flush()
    saver.abort()
    assert not list(objects(repository, "index/"))


def test_a_failed_index_surfaces() -> None:
    store = FailingStore()
    repository = create(store)
    store.fail_at = len(store.changes) + 2
    saver = repository.blob_saver()
    saver.save("data", b"x")
    with pytest.raises(Transient, match="cut at put index/"):
        saver.flush()


def test_abort_uploads_nothing_more() -> None:
    store = FailingStore()
    repository = create(store)
    before = len(store.changes)
    saver = repository.blob_saver()
    for n in range(20):
        saver.save("data", content(n, 3000))
    saver.abort()
    assert store.changes[before:] == []
    with pytest.raises(RuntimeError):
        saver.save("data", b"x")


def test_the_index_is_written_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INDEX_BLOBS", 10)
    repository = create()
    saver = BlobSaver(repository, target_bytes=8 << 10, workers=1)
    for n in range(60):
        saver.save("data", content(n, 3000))
    saver.flush()
    assert len(list(objects(repository, "index/"))) >= 4
    assert len(reopen(repository).index) == 60


def test_ten_minutes_write_an_index_too() -> None:
    repository = create()
    saver = BlobSaver(repository, target_bytes=4 << 10, workers=1)
    repository.clock.sleep(601)
    saver.save("data", content(1, 5000))
    saver.save("data", content(2, 5000))
    saver.flush()
    assert len(list(objects(repository, "index/"))) == 2


def test_a_blob_that_does_not_open_again_is_never_uploaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressor that corrupts (it happened to restic twice) is caught before upload."""
    repository = create()

    def corrupt(self: BlobSealer, kind: str, data: bytes) -> tuple[int, bytes]:
        return len(data), b"\x28\xb5\x2f\xfd" + bytes(8)

    monkeypatch.setattr(BlobSealer, "compress", corrupt)
    saver = repository.blob_saver()
    saver.save("data", b"precious" * 100)
    with pytest.raises(SealingError, match="bad memory"):
        saver.flush()
    assert not list(objects(repository, "data/"))


def test_memory_in_flight_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store is stuck, savers wait instead of piling up blobs."""
    monkeypatch.setattr(module, "WAITING_BYTES", 64 << 10)
    gate = threading.Event()

    class Stuck(FailingStore):
        def put(self, name: str, data: bytes, *, if_absent: bool = False) -> None:
            if name.startswith("data/"):
                assert gate.wait(30)
            super().put(name, data, if_absent=if_absent)

    repository = create(Stuck())
    saver = BlobSaver(repository, target_bytes=16 << 10)
    done = threading.Event()

    def produce() -> None:
        for n in range(200):
            saver.save("data", content(n, 4096))
        done.set()

    thread = threading.Thread(target=produce)
    thread.start()
    assert not done.wait(0.3), "200 blobs do not fit into what may be in flight"
    assert saver.stats.new_blobs < 120
    gate.set()
    thread.join(30)
    saver.flush()
    assert len(reopen(repository).index) == 200


def local(path: Path) -> Repository:
    return Repository.create(LocalStore(path / "store", create=True), "geheim", clock=FakeClock(NOW), scrypt_n=2)


@pytest.mark.parametrize("small", [False, True])
def test_a_local_store_gets_packs_while_they_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool) -> None:
    """So no more is held of them than a few blobs, whatever a pack holds."""
    monkeypatch.setattr(open_packs, "WRITTEN_BYTES", 64 << 10)
    held: list[int] = []

    class Watched(OpenPacks):
        def wide(self) -> list[OpenPack]:
            held.append(sum(sum(len(sealed) for _, sealed in pack.runs) for pack in self._open["data"]))
            return super().wide()

    monkeypatch.setattr(module, "OpenPacks", Watched)
    repository = local(tmp_path)
    saver = BlobSaver(repository, target_bytes=2 << 20, workers=1)
    blobs = {number: content(number, 20_000) for number in range(260)}  # two packs and a half
    if small:
        sealer = BlobSealer(repository.keys)
        ids = {number: hashlib.sha256(data).digest() for number, data in blobs.items()}
        for number, data in blobs.items():
            saver.add_sealed([("data", ids[number], len(data), *sealer.encode("data", ids[number], data))])
    else:
        ids = {number: saver.save("data", data) for number, data in blobs.items()}
    tree = saver.save("tree", b"tree")
    saver.flush()
    assert max(held) < 2 * (64 << 10) + 4 * 20_100
    found = packs(repository)
    assert sorted(len(pack) for pack in found)[0] == 1, "trees apart"
    assert sum(map(len, found)) == 261
    assert {name.parent.name for name in (tmp_path / "store").rglob(".tmp-*")} == set()
    again = reopen(repository)
    assert all(again.load_blob("data", ids[number]) == data for number, data in blobs.items())
    assert again.load_blob("tree", tree) == b"tree"


def test_leftovers_that_were_begun_in_a_local_store_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_packs, "WRITTEN_BYTES", 16 << 10)
    repository = local(tmp_path)
    saver = BlobSaver(repository, target_bytes=1 << 20, workers=1, choose=random.Random(3))
    ids = [saver.save("data", content(n, 5000)) for n in range(40)]
    saver.flush()
    assert [len(pack) for pack in packs(repository)] == [40]
    again = reopen(repository)
    assert [again.load_blob("data", blob_id) for blob_id in ids] == [content(n, 5000) for n in range(40)]


def test_a_pack_that_grew_waits_for_the_lock_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_packs, "WRITTEN_BYTES", 16 << 10)
    repository = local(tmp_path)
    before = {info.name for info in objects(repository)}
    with pytest.raises(LockedError), repository.lock(settled=False):
        repository.locks.write(LockInfo(repository.clock.now(), True, "elsewhere", "eve", 4711))
        saver = BlobSaver(repository, target_bytes=64 << 10)
        for n in range(40):
            saver.save("data", content(n, 5000))
        saver.flush()
    assert {info.name for info in objects(repository) if not info.name.startswith("locks/")} <= before


def test_a_draft_that_cannot_be_written_surfaces_and_nothing_of_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_packs, "WRITTEN_BYTES", 16 << 10)
    pwrite, written = os.pwrite, list[int]()

    def full(*arguments: Any) -> int:
        written.append(1)
        if len(written) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(*arguments)

    monkeypatch.setattr(os, "pwrite", full)
    repository = local(tmp_path)
    saver = BlobSaver(repository, target_bytes=1 << 20)
    with pytest.raises(Full, match="cannot write an object: No space left"):
        for n in range(10_000):
            saver.save("data", content(n, 5000))
    with pytest.raises(Full):
        saver.flush()
    saver.abort()
    assert not [name for name in (tmp_path / "store" / "data").rglob("*") if name.is_file()]
    assert not list((tmp_path / "store").glob(".tmp-*"))


def in_workers(monkeypatch: pytest.MonkeyPatch) -> Pool:
    monkeypatch.setenv("BACKUPCTL_WORKERS", "1")
    monkeypatch.setattr(module, "POOL_FROM_BYTES", 0)
    return Pool()


def save_all(saver: BlobSaver, blobs: list[bytes]) -> list[bytes]:
    return saver.save_all("data", b"".join(blobs), [len(data) for data in blobs])


@pytest.mark.parametrize("pooled", [False, True])
def test_many_small_blobs_are_saved_by_the_batch(monkeypatch: pytest.MonkeyPatch, pooled: bool) -> None:
    repository = create()
    pool = in_workers(monkeypatch) if pooled else None
    saver = BlobSaver(repository, target_bytes=64 << 10, pool=pool)
    early = saver.save("data", content(3, 3000))
    blobs = [content(n % 40, 3000) for n in range(50)]
    ids = save_all(saver, blobs)
    ids += save_all(saver, blobs[10:30])
    saver.flush()
    assert ids == [hashlib.sha256(data).digest() for data in blobs + blobs[10:30]] and ids[3] == early
    assert (saver.stats.new_blobs, saver.stats.duplicate_blobs, saver.stats.new_bytes) == (40, 31, 120_000)
    assert save_all(saver, blobs[:20]) == ids[:20] and saver.stats.duplicate_blobs == 51
    saver.flush()
    assert sum(map(len, packs(repository))) == 40
    again = reopen(repository)
    assert all(again.load_blob("data", hashlib.sha256(data).digest()) == data for data in blobs)
    if pool is not None:
        pool.close()


def test_batches_of_workers_that_we_end_are_sealed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is interrupted ends the workers first, and then keeps what was read by now."""
    repository = create()
    pool = in_workers(monkeypatch)
    saver = BlobSaver(repository, pool=pool)
    blobs = [content(n, 3000) for n in range(300)]
    for start in range(0, 300, 50):
        save_all(saver, blobs[start : start + 50])
    pool.close(kill=True)
    saver.flush()
    again = reopen(repository)
    assert all(again.load_blob("data", hashlib.sha256(data).digest()) == data for data in blobs)


def test_a_worker_that_dies_by_itself_ends_the_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = create()
    pool = in_workers(monkeypatch)
    pool.submit(os.getpid).result()
    saver = BlobSaver(repository, pool=pool)
    pool.submit(os._exit, 9)
    save_all(saver, [content(n, 3000) for n in range(50)])
    with pytest.raises(WorkerDiedError):
        saver.flush()
    assert not list(objects(repository, "data/"))
    pool.close(kill=True)


def test_neighbours_of_a_batch_are_divided_among_two_packs_by_chance() -> None:
    repository = create()
    saver = BlobSaver(repository, target_bytes=96 << 10)
    blobs = [content(n, 3000) for n in range(64)]
    ids = save_all(saver, blobs)
    saver.flush()
    first, second = ([ids.index(blob.id) for blob in pack] for pack in packs(repository))
    assert sorted(first + second) == list(range(64)) and min(len(first), len(second)) > 5
    assert {len(pack) for pack in (first, second)} != {1} and 0 < sum(n % 2 for n in first) < len(first)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_blob_of_a_batch_that_does_not_open_again_is_never_uploaded(
    monkeypatch: pytest.MonkeyPatch, pooled: bool
) -> None:
    """A bit flips after the blobs were hashed."""
    repository = create()
    pool = in_workers(monkeypatch) if pooled else None

    def flipped(*arguments: Any) -> Callable[[], list[Run]]:
        sealing, keys, kind, data, sizes, ids = arguments
        damaged = bytearray(data)
        damaged[7 * 3000] ^= 1
        return partial(sealing, keys, kind, bytes(damaged), sizes, ids)

    monkeypatch.setattr(module, "partial", flipped)
    saver = BlobSaver(repository, pool=pool)
    save_all(saver, [content(n, 3000) for n in range(20)])
    with pytest.raises(SealingError, match="bad memory"):
        saver.flush()
    assert not list(objects(repository, "data/"))
    if pool is not None:
        pool.close(kill=True)
