"""Prune frees what nobody needs, and no failure at any step may cost a snapshot."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest

from backupctl.errors import DamageError, LockedError, Transient
from backupctl.repository.blob_saver import BlobSaver
from backupctl.repository.check import check
from backupctl.repository.format.crypto import seal
from backupctl.repository.format.pack import encode_header, encode_trailer
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.prune import PruneLimits, apply_prune, plan_prune
from backupctl.repository.repository import Repository, pack_name
from tests.repository.engine import FailingStore, backup, content, create, damage, objects, reopen, restore

AT_ONCE = PruneLimits(grace=timedelta(0))


def three_nights(store: FailingStore | None = None) -> tuple[Repository, list[Snapshot]]:
    repository = create(store)
    snapshots = []
    for night in range(3):
        files = {"same": content("same", 100_000), f"only {night}": content(night, 60_000)}
        snapshots.append(backup(repository, files, day=night))
    return repository, snapshots


def expect(repository: Repository, snapshots: list[Snapshot], nights: list[int]) -> None:
    again = reopen(repository)
    report = check(again, read_data=True)
    assert report.problems == []
    assert [found.id for found in again.snapshots()] == [snapshots[night].id for night in nights]
    for night in nights:
        files = restore(again, snapshots[night])
        assert files == {"same": content("same", 100_000), f"only {night}": content(night, 60_000)}


def used_bytes(repository: Repository) -> int:
    return sum(info.size for info in objects(repository, "data/"))


def test_nothing_to_do() -> None:
    repository, snapshots = three_nights()
    plan = plan_prune(repository)
    assert not plan and plan.keep == len(list(objects(repository, "data/")))
    before = {info.name for info in objects(repository)}
    apply_prune(repository, plan)
    assert {info.name for info in objects(repository)} == before
    expect(repository, snapshots, [0, 1, 2])


def test_space_comes_back_and_records_go_with_their_snapshot() -> None:
    repository, snapshots = three_nights()
    before = used_bytes(repository)
    repository.delete_snapshot(snapshots[0].id)
    plan = plan_prune(repository)
    assert plan and plan.freed_bytes > 60_000
    assert {info.name for info in objects(repository, "data/")}, "planning deletes nothing"
    stats = apply_prune(repository, plan)
    assert before - used_bytes(repository) > 55_000
    assert stats.deleted_records == 2 and len(repository.records("fingerprint")) == 2
    expect(repository, snapshots, [1, 2])
    assert check(repository).hints == []
    repository.delete_snapshot(snapshots[1].id)
    repository.delete_snapshot(snapshots[2].id)
    apply_prune(repository, plan_prune(repository))
    assert not list(objects(repository, "data/")) and not list(objects(repository, "index/"))


def test_a_second_prune_finds_little() -> None:
    repository, snapshots = three_nights()
    repository.delete_snapshot(snapshots[1].id)
    apply_prune(repository, plan_prune(repository))
    again = plan_prune(repository)
    assert again.freed_bytes == 0 and not again.repack and not again.delete
    assert again.left_bytes <= 0.05 * again.total_bytes


def test_little_waste_is_left_alone() -> None:
    repository = create()
    keep = backup(repository, {"big": content("big", 400_000)})
    drop = backup(repository, {"big": content("big", 400_000), "small": content("small", 500)}, day=1)
    repository.delete_snapshot(drop.id)
    plan = plan_prune(repository)
    assert not plan.repack
    assert restore(reopen(repository), keep) == {"big": content("big", 400_000)}


def test_leftovers_of_a_crashed_backup_go() -> None:
    repository, snapshots = three_nights()
    saver = BlobSaver(repository, target_bytes=8 << 10)
    for number in range(9):
        saver.save("data", content(("lost", number), 4000))
    saver.flush()
    orphan = "data/ab/ab" + "0" * 62
    repository.store.put(orphan, b"half an upload")
    repository.save_record("manifest", b"lost")
    plan = plan_prune(repository, AT_ONCE)
    assert plan.unindexed == [orphan] and len(plan.orphan_records) == 1
    apply_prune(repository, plan)
    assert plan_prune(repository).freed_bytes == 0
    expect(repository, snapshots, [0, 1, 2])


def test_blobs_stored_twice_are_stored_once() -> None:
    repository, snapshots = three_nights()
    before = used_bytes(repository)
    saver = repository.blob_saver()
    for place in list(repository.index):
        saver.save(place.blob.kind, repository.load_copy(place), again=True)
    saver.flush()
    assert used_bytes(repository) > 1.9 * before
    apply_prune(repository, plan_prune(repository))
    assert used_bytes(repository) < 1.1 * before
    expect(repository, snapshots, [0, 1, 2])


def test_a_mixed_pack_is_taken_apart() -> None:
    """Version 1 wrote trees and data into one pack."""
    repository = create()
    snapshot = backup(repository, {"a": content("a", 9000)})
    blobs, sealed = [], b""
    for place in repository.index:
        data = repository.store.get(pack_name(place.pack), offset=place.blob.offset, length=place.blob.length)
        blobs.append(replace(place.blob, offset=len(sealed)))
        sealed += data
    pack = sealed + encode_trailer(seal(repository.keys, encode_header(blobs)))
    for info in [*objects(repository, "data/"), *objects(repository, "index/")]:
        repository.store.delete(info.name)
    pack_id = hashlib.sha256(pack).digest()
    repository.store.put(pack_name(pack_id), pack)
    repository.save_index([(pack_id, blobs)])
    mixed = reopen(repository)
    report = check(mixed, read_data=True)
    assert report.problems == [] and "mixes" in report.hints[0]
    plan = plan_prune(mixed)
    assert list(plan.repack) == [pack_id]
    apply_prune(mixed, plan)
    again = reopen(repository)
    assert restore(again, snapshot) == {"a": content("a", 9000)}
    report = check(again, read_data=True)
    assert report.problems == [] and report.hints == [] and report.packs == 2


@pytest.mark.parametrize("prefix", ["data/", "index/", "snapshots/", "backupctl/fingerprint/"])
@pytest.mark.parametrize("how", ["flip", "cut", "delete"])
def test_nothing_is_deleted_when_anything_is_damaged(prefix: str, how: str) -> None:
    repository, snapshots = three_nights()
    repository.delete_snapshot(snapshots[0].id)
    trees = {place.pack.hex() for place in repository.index if place.blob.kind == "tree"}
    for info in objects(repository, prefix):
        if prefix != "data/" or info.name[8:] in trees:
            if how == "delete" and prefix != "snapshots/":
                repository.store.delete(info.name)
            else:
                damage(repository, info.name, bit=300, cut=5 if how == "cut" else 0)
    before = {info.name for info in objects(repository)}
    with pytest.raises(DamageError) as caught:
        again = reopen(repository)
        apply_prune(again, plan_prune(again))
    assert caught.value.name
    assert {info.name for info in objects(repository)} == before


def test_damaged_data_in_a_pack_to_repack_stops_the_prune() -> None:
    repository, snapshots = three_nights()
    repository.delete_snapshot(snapshots[0].id)
    plan = plan_prune(repository)
    packs = {pack.hex() for pack in plan.repack}
    assert packs
    for info in objects(repository, "data/"):
        if info.name[8:] in packs:
            for place in repository.index:
                if place.pack.hex() == info.name[8:]:
                    damage(repository, info.name, bit=(place.blob.offset + 20) * 8)
    before = {info.name for info in objects(repository)}
    with pytest.raises(DamageError):
        apply_prune(repository, plan)
    assert before <= {info.name for info in objects(repository)}


def test_a_backup_between_plan_and_apply_is_safe() -> None:
    """The new snapshot uses blobs that the plan wanted to delete."""
    repository, snapshots = three_nights()
    repository.delete_snapshot(snapshots[0].id)
    plan = plan_prune(repository)
    other = reopen(repository)
    late = backup(other, {"only 0": content(0, 60_000)}, day=5)
    apply_prune(repository, plan)
    assert restore(reopen(repository), late) == {"only 0": content(0, 60_000)}
    assert check(reopen(repository), read_data=True).problems == []


def test_prune_waits_for_nobody() -> None:
    repository, snapshots = three_nights()
    repository.delete_snapshot(snapshots[0].id)
    plan = plan_prune(repository)
    with reopen(repository).lock(), pytest.raises(LockedError, match="is locked"):
        apply_prune(repository, plan)
    assert not list(objects(repository, "locks/"))
    with repository.lock(exclusive=True):
        apply_prune(repository, plan_prune(repository))
    expect(repository, snapshots, [1, 2])


def test_cut_at_every_step() -> None:
    """The line breaks at the n-th change, for every n: all snapshots stay whole, and the next prune finishes the job."""
    step = 0
    while True:
        step += 1
        store = FailingStore()
        repository, snapshots = three_nights(store)
        repository.delete_snapshot(snapshots[0].id)
        plan = plan_prune(repository, AT_ONCE)
        store.fail_at = len(store.changes) + step
        try:
            apply_prune(repository, plan)
        except Transient:
            store.fail_at = 0
        else:
            break
        for info in objects(repository, "locks/"):
            store.delete(info.name)
        expect(repository, snapshots, [1, 2])
        again = reopen(repository)
        apply_prune(again, plan_prune(again, AT_ONCE))
        expect(repository, snapshots, [1, 2])
        final = plan_prune(again, AT_ONCE)
        assert not final.unindexed and not final.orphan_records and not final.repack and not final.delete
    assert step > 8, "there were that many steps to break"


def healed(how: str) -> tuple[Repository, Snapshot, int]:
    """One data pack is spoilt, noticed, and what lay in it is stored again, as a backup does; how many packs that were."""
    repository = create()
    files = {"a": content("a", 100_000)}
    backup(repository, files)
    packs = sorted({place.pack for place in repository.index if place.blob.kind == "data"})
    if how == "delete":
        repository.store.delete(pack_name(packs[0]))
    else:
        damage(repository, pack_name(packs[0]), bit=300, cut=5 if how == "cut" else 0)
    again = reopen(repository)
    again.distrust([packs[0]])
    return reopen(repository), backup(again, files, day=1), len(packs)


@pytest.mark.parametrize("how", ["flip", "cut", "delete"])
def test_of_two_copies_the_good_one_stays(how: str) -> None:
    for _ in range(4):  # ids decide which copy comes first, and differ each time
        repository, snapshot, packs = healed(how)
        assert check(repository, read_data=True).problems
        apply_prune(repository, plan_prune(repository))
        again = reopen(repository)
        assert check(again, read_data=True).problems == []
        assert restore(again, snapshot) == {"a": content("a", 100_000)}
        assert len({place.pack for place in again.index if place.blob.kind == "data"}) <= packs + 1


@pytest.mark.parametrize("how", ["cut", "delete"])
def test_what_is_lost_for_good_can_be_forgotten(how: str) -> None:
    repository, snapshots = three_nights()
    only_first = next(
        place.pack for place in repository.locate("data", hashlib.sha256(content(0, 60_000)[:4096]).digest())
    )
    if how == "delete":
        repository.store.delete(pack_name(only_first))
    else:
        damage(repository, pack_name(only_first), cut=5)
    again = reopen(repository)
    with pytest.raises(DamageError) as caught:
        plan_prune(again)
    assert caught.value.name == pack_name(only_first)
    needing = {snapshot for problem in check(again).problems for snapshot in problem.snapshots}
    assert snapshots[0].id in needing
    for snapshot in needing:
        again.delete_snapshot(snapshot)
    apply_prune(again, plan_prune(again))
    expect(repository, snapshots, [night for night in range(3) if snapshots[night].id not in needing])
