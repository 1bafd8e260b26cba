"""Prune frees what nobody needs, and no failure at any step may cost a snapshot."""

from __future__ import annotations

import hashlib
import random
from datetime import timedelta

import pytest

from backupctl.clock import FakeClock
from backupctl.errors import DamageError, LockedError, Transient
from backupctl.repository.blob_saver import BlobSaver
from backupctl.repository.check import check
from backupctl.repository.format.crypto import seal
from backupctl.repository.format.node import Node
from backupctl.repository.format.pack import PackedBlob, encode_header, encode_trailer
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import decode_tree, encode_tree
from backupctl.repository.prune import PruneLimits, apply_prune, plan_prune
from backupctl.repository.repacking import GAP_BYTES, _pieces
from backupctl.repository.repository import Repository, pack_name
from backupctl.storage.memory import MemoryStore
from tests.repository.engine import (
    NOW,
    PASSWORD,
    FailingStore,
    backup,
    content,
    create,
    damage,
    objects,
    reopen,
    restore,
)

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
        blobs.append(place.blob._replace(offset=len(sealed)))
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


def wasteful(nights: int = 6) -> tuple[Repository, list[Snapshot]]:
    """Every pack holds blobs of every night: nothing comes free without rewriting."""
    repository = create()
    saver = BlobSaver(repository, target_bytes=40_000, choose=random.Random(3), workers=1)
    for part in range(60):
        for night in range(nights):
            saver.save("data", content((night, part), 1500))
    saver.flush()
    snapshots = []
    for night in range(nights):
        nodes = [
            Node(
                b"file",
                "file",
                0o644,
                size=90_000,
                content=[hashlib.sha256(content((night, part), 1500)).digest() for part in range(60)],
            )
        ]
        saver = BlobSaver(repository, workers=1)
        root = saver.save("tree", encode_tree(nodes))
        saver.flush()
        snapshots.append(Snapshot(NOW + timedelta(days=night), root, ["/file"], "host"))
        repository.save_snapshot(snapshots[-1])
    return reopen(repository), snapshots


@pytest.fixture
def no_merging(monkeypatch: pytest.MonkeyPatch) -> None:
    """All packs here are small: leave them so."""
    monkeypatch.setattr("backupctl.repository.prune_plan.SMALL_ONES", 1000)


def assert_nights(repository: Repository, snapshots: list[Snapshot]) -> None:
    again = reopen(repository)
    assert check(again, read_data=True).problems == []
    assert {one.id for one in again.snapshots()} == {one.id for one in snapshots}
    for snapshot in snapshots:
        (node,) = decode_tree(again.load_blob("tree", snapshot.tree))
        data = b"".join(again.load_blob("data", blob) for blob in node.content or ())
        night = (snapshot.time - NOW).days
        assert data == b"".join(content((night, part), 1500) for part in range(60))


def data_packs(repository: Repository) -> set[bytes]:
    return {place.pack for place in reopen(repository).index if place.blob.kind == "data"}


@pytest.mark.usefixtures("no_merging")
def test_at_most_so_much_is_rewritten_and_the_rest_next_time() -> None:
    repository, snapshots = wasteful()
    for snapshot in snapshots[:4]:
        repository.delete_snapshot(snapshot.id)
    whole = plan_prune(repository)
    assert len(whole.repack) > 6 and whole.waiting_packs == 0 and whole.moved_bytes > 150_000
    limits = PruneLimits(max_repack=60_000)
    previous, times = used_bytes(repository), 0
    while plan := plan_prune(repository, limits):
        assert 0 < plan.moved_bytes <= 60_000
        assert plan.waiting_packs or times > 1
        stats = apply_prune(repository, plan)
        assert stats.new_bytes <= 62_000 and stats.repacked_packs
        assert used_bytes(repository) < previous
        previous = used_bytes(repository)
        times += 1
        assert_nights(repository, snapshots[4:])
    assert times >= 3
    assert plan.left_bytes <= 0.05 * plan.total_bytes
    assert not plan_prune(reopen(repository), PruneLimits(max_repack=0)).repack


@pytest.mark.usefixtures("no_merging")
def test_the_most_wasteful_packs_come_first() -> None:
    repository, snapshots = wasteful()
    for snapshot in snapshots[:4]:
        repository.delete_snapshot(snapshot.id)
    used = {
        blob for night in (4, 5) for blob in (hashlib.sha256(content((night, p), 1500)).digest() for p in range(60))
    }

    def part(pack: bytes) -> float:
        blobs = [place.blob for place in repository.index if place.pack == pack]
        return sum(blob.length for blob in blobs if blob.id in used) / sum(blob.length for blob in blobs)

    plan = plan_prune(repository, PruneLimits(max_repack=60_000))
    packs = data_packs(repository)
    worst = sorted(packs, key=part)[: len(plan.repack)]
    assert max(map(part, plan.repack)) <= max(map(part, worst)) + 0.02


@pytest.mark.usefixtures("no_merging")
def test_little_may_be_left_unused_when_the_limit_says_so() -> None:
    repository, snapshots = wasteful()
    repository.delete_snapshot(snapshots[0].id)
    assert plan_prune(repository, PruneLimits(max_unused=0.5)).repack == {}
    plan = plan_prune(repository, PruneLimits(max_unused=0.0))
    assert len(plan.repack) == len(data_packs(repository)) and plan.left_bytes == 0
    apply_prune(repository, plan)
    assert_nights(repository, snapshots[1:])


def test_small_packs_and_small_index_files_are_merged() -> None:
    repository = create()
    snapshots = [backup(repository, {str(night): content(night, 5000)}, day=night) for night in range(12)]
    plan = plan_prune(repository)
    assert len(plan.repack) == 24 and plan.freed_bytes == 0
    apply_prune(repository, plan)
    again = reopen(repository)
    assert len(list(objects(again, "data/"))) == 2 and len(list(objects(again, "index/"))) == 1
    assert check(again, read_data=True).problems == []
    for night, snapshot in enumerate(snapshots):
        assert restore(again, snapshot) == {str(night): content(night, 5000)}
    assert not plan_prune(again)


def test_rounds_stand_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut at every change of a prune of many rounds: all is whole, what earlier rounds did is done, and the next prune
    writes only the rest."""
    monkeypatch.setattr("backupctl.repository.prune.ROUND_BYTES", 20_000)
    repository, snapshots = wasteful()
    for snapshot in snapshots[:4]:
        repository.delete_snapshot(snapshot.id)
    saved = {info.name: repository.store.get(info.name) for info in objects(repository)}
    stats = apply_prune(repository, plan_prune(repository))
    assert stats.rounds >= 5
    assert_nights(repository, snapshots[4:])
    everything = stats.new_bytes
    cheapest = everything
    step = 0
    while True:
        step += 1
        store = FailingStore()
        for name, data in saved.items():
            store.put(name, data)
        victim = Repository.open(store, PASSWORD, clock=FakeClock(NOW))
        plan = plan_prune(victim)
        store.fail_at = len(store.changes) + step
        try:
            apply_prune(victim, plan)
        except Transient:
            store.fail_at = 0
        else:
            break
        for info in objects(victim, "locks/"):
            store.delete(info.name)
        if step % 4 == 1:
            assert_nights(victim, snapshots[4:])
        again = reopen(victim)
        rest = apply_prune(again, plan_prune(again, AT_ONCE))
        assert rest.new_bytes <= everything + 40_000, "at most one round is done twice"
        cheapest = min(cheapest, rest.new_bytes)
        if step % 4 == 1:
            assert_nights(victim, snapshots[4:])
            assert not plan_prune(again, AT_ONCE)
    assert step > 30
    assert cheapest < 0.3 * everything, "late in the work there is little left to do"


def test_packs_of_a_writer_that_seemed_dead_are_left_alone() -> None:
    """A pack that no index lists yet, as young as the store is old: only an hour later it is an orphan."""
    clock = FakeClock(NOW)
    repository = Repository.create(MemoryStore(clock=clock), PASSWORD, clock=clock, scrypt_n=2)
    snapshot = backup(repository, {"a": content("a", 9000)})
    unlisted = "data/ab/" + "ab" * 32
    repository.store.put(unlisted, b"x" * 500)
    clock.advance(1800)
    with repository.lock(exclusive=True):  # the lock is what tells the store's time
        plan = plan_prune(repository)
        assert plan.young_packs == 1 and not plan.unindexed and plan.freed_bytes == 0
        apply_prune(repository, plan)
    assert repository.store.stat(unlisted).size == 500
    clock.advance(1801)
    with repository.lock(exclusive=True):
        plan = plan_prune(repository)
        assert plan.young_packs == 0 and plan.unindexed == [unlisted] and plan.freed_bytes == 500
        apply_prune(repository, plan)
    assert unlisted not in {info.name for info in objects(repository)}
    assert restore(reopen(repository), snapshot) == {"a": content("a", 9000)}


def test_names_that_are_no_packs_are_not_touched() -> None:
    repository, _ = three_nights()
    strange = ["data/README", "data/ab/" + "cd" * 32, "data/ab/" + "ab" * 31]
    for name in strange:
        repository.store.put(name, b"?")
    apply_prune(repository, plan_prune(repository, AT_ONCE))
    assert all(repository.store.stat(name).size == 1 for name in strange)


def test_a_plan_without_snapshots_that_are_still_there_deletes_nothing_of_theirs() -> None:
    repository, snapshots = three_nights()
    plan = plan_prune(repository, without=[snapshots[0].id])
    assert plan.freed_bytes > 55_000
    apply_prune(repository, plan)
    expect(repository, snapshots, [0, 1, 2])


def test_whole_pieces_are_read_not_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    repository, snapshots = wasteful()
    for snapshot in snapshots[:4]:
        repository.delete_snapshot(snapshot.id)
    plan = plan_prune(repository)
    reads: list[str] = []
    get = repository.store.get

    def counted(name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        reads.append(name)
        return get(name, offset=offset, length=length)

    monkeypatch.setattr(repository.store, "get", counted)
    apply_prune(repository, plan)
    assert sum(name.startswith("data/") for name in reads) == len(plan.repack)


def test_pieces_leave_out_long_stretches_and_stay_small() -> None:
    def blob(offset: int, length: int) -> PackedBlob:
        return PackedBlob("data", bytes(32), offset, length, 0)

    near = [blob(0, 100), blob(200, 100), blob(300 + GAP_BYTES, 100)]
    assert [len(piece) for piece in _pieces(near)] == [3]
    far = [blob(0, 100), blob(101 + GAP_BYTES, 100)]
    assert [len(piece) for piece in _pieces(far)] == [1, 1]
    many = [blob(n << 20, 1 << 20) for n in range(40)]
    assert [len(piece) for piece in _pieces(many)] == [16, 16, 8]
    assert [len(piece) for piece in _pieces([blob(0, 100 << 20)])] == [1]


def test_a_pack_listed_in_several_index_files_goes_with_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """One index file a round: at no instant does an index file list a pack that is gone."""
    monkeypatch.setattr("backupctl.repository.prune.ROUND_BLOBS", 1)
    repository, snapshots = wasteful()
    entries: dict[bytes, list[PackedBlob]] = {}
    for place in repository.index:
        entries.setdefault(place.pack, []).append(place.blob)
    for pack, blobs in list(entries.items())[:3]:
        repository.save_index([(pack, blobs)])
    again = reopen(repository)
    for snapshot in snapshots[:5]:
        again.delete_snapshot(snapshot.id)
    plan = plan_prune(again)
    deleted: list[str] = []
    delete = again.store.delete

    def watched(name: str) -> None:
        if name.startswith("data/"):
            deleted.append(name)
            assert bytes.fromhex(name[8:]) not in set(reopen(again).index.packs)
        delete(name)

    monkeypatch.setattr(again.store, "delete", watched)
    assert apply_prune(again, plan).rounds >= 4
    assert len(deleted) >= 3
    assert_nights(again, snapshots[5:])
    assert not plan_prune(reopen(again))
