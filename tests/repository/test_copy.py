"""Copies of snapshots in a second repository: whole, as few requests as possible, and never half there."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from backupctl.errors import DamageError, NoSuchError, Transient
from backupctl.repository.adoption import adopt_packs, compare_packs
from backupctl.repository.check import check, fingerprints_of
from backupctl.repository.copy import (
    GAP_BYTES,
    STRETCH_BYTES,
    CopyTarget,
    copy_snapshot,
    copy_to,
    fetch_blob,
    find_copy,
    missing_in,
    plan_copy,
    stretches,
)
from backupctl.repository.format.pack import PackedBlob
from backupctl.repository.repository import Repository, pack_name
from backupctl.storage.memory import MemoryStore
from tests.repository.engine import FailingStore, backup, content, create, damage, objects, reopen, restore

FILES = {"a": content("a", 300_000), "b": content("b", 5_000), "c": b"small"}


class CountingStore(MemoryStore):
    """Remembers what was read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.read_bytes = 0

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        self.reads.append(name)
        data = super().get(name, offset=offset, length=length)
        self.read_bytes += len(data)
        return data


def whole(repository: Repository) -> Repository:
    """The same, opened again and found without fault."""
    again = reopen(repository)
    assert check(again, read_data=True).problems == []
    return again


def test_a_copy_is_the_same_snapshot_with_its_own_records() -> None:
    source, destination = create(), create()
    snapshot = backup(source, FILES)
    done = copy_snapshot(source, destination, snapshot)
    (copied,) = whole(destination).snapshots()
    assert copied.id == done.id != snapshot.id
    assert (copied.original, copied.parent) == (snapshot.id, "")
    assert (copied.time, copied.tree, copied.paths, copied.hostname) == (
        snapshot.time,
        snapshot.tree,
        snapshot.paths,
        snapshot.hostname,
    )
    assert restore(reopen(destination), copied) == FILES
    (record,) = fingerprints_of(copied)
    assert record not in source.records("fingerprint")
    manifest = json.loads(destination.load_record("fingerprint", record))["manifest"]
    assert destination.load_record("manifest", manifest) == b"{}\n"
    assert [tag for tag in copied.tags if not tag.startswith("fingerprint:")] == ["complete"]
    assert {info.name for info in objects(source)}.isdisjoint(
        info.name for info in objects(destination) if info.name != "config"
    )


def test_packs_are_read_in_stretches_and_nothing_twice() -> None:
    store = CountingStore()
    source, destination = create(store), create()
    snapshot = backup(source, FILES)
    source = reopen(source)
    trees = {pack_name(place.pack) for place in source.index if place.blob.kind == "tree"}
    packs = {pack_name(pack) for pack in source.index.packs} - trees
    store.reads.clear()
    done = copy_snapshot(source, destination, snapshot)
    assert sorted(name for name in store.reads if name in packs) == sorted(packs)
    assert done.bytes > 305_000
    # the day after: one file more, and only that is read and sent
    later = backup(source, {**FILES, "d": content("d", 9_000)}, day=1)
    store.reads.clear()
    more = copy_snapshot(source, destination, later, base=snapshot)
    assert 9_000 < more.bytes < 20_000  # with the trees above it
    assert not packs & set(store.reads)
    assert restore(whole(destination), destination.load_snapshot(more.id))["d"] == content("d", 9_000)


def test_several_destinations_cost_the_source_what_one_costs() -> None:
    store = CountingStore()
    source = create(store)
    first = backup(source, FILES)
    day_after = backup(source, {**FILES, "d": content("d", 90_000)}, day=1)
    costs = []
    for count in (1, 2, 3):
        again = reopen(source)
        assert len(again.index)
        destinations = [create() for _ in range(count)]
        for snapshot, base in ((first, None), (day_after, first)):
            store.reads.clear()
            store.read_bytes = 0
            targets = [CopyTarget(one, base) for one in destinations]
            copy_to(again, targets, snapshot)
            assert [target.error for target in targets] == [None] * count
            costs.append((count, sorted(store.reads), store.read_bytes))
            for one, target in zip(destinations, targets, strict=True):
                assert target.copied is not None
                assert target.copied.bytes == targets[0].copied.bytes > 90_000  # type: ignore[union-attr]  # just seen
                copied = one.load_snapshot(target.copied.id)
                assert (copied.tree, restore(reopen(one), copied)["a"]) == (snapshot.tree, FILES["a"])
        for one in destinations:
            assert len(whole(one).snapshots()) == 2
    assert costs[0][1:] == costs[2][1:] == costs[4][1:]
    assert costs[1][1:] == costs[3][1:] == costs[5][1:]


def test_destinations_that_lack_different_things_get_what_they_lack() -> None:
    source, ahead, behind = create(), create(), create()
    first = backup(source, FILES)
    copy_snapshot(source, ahead, first)
    later = backup(source, {**FILES, "d": content("d", 9_000)}, day=1)
    targets = [CopyTarget(ahead, first), CopyTarget(behind)]
    copy_to(source, targets, later)
    few, many = (target.copied.bytes for target in targets if target.copied)
    assert 9_000 < few < 20_000 < 300_000 < many
    for one in (ahead, behind):
        assert restore(whole(one), one.load_snapshot(one.snapshots()[-1].id))["d"] == content("d", 9_000)


@pytest.mark.parametrize("step", range(1, 12))
def test_a_destination_that_fails_anywhere_does_not_hurt_the_others(step: int) -> None:
    failing = FailingStore()
    source, bad, good, better = create(), create(failing), create(), create()
    snapshot = backup(source, FILES)
    failing.changes.clear()
    failing.fail_at = step
    targets = [CopyTarget(good), CopyTarget(bad), CopyTarget(better)]
    copy_to(source, targets, snapshot)
    assert len(failing.changes) >= step or targets[1].copied is not None
    assert (targets[1].copied is None) == isinstance(targets[1].error, Transient)
    failing.fail_at = 0
    assert len(reopen(bad).snapshots()) == (targets[1].copied is not None)
    for target in (targets[0], targets[2]):
        assert target.error is None
        (copied,) = whole(target.repository).snapshots()
        assert restore(target.repository, copied) == FILES


def test_a_hole_in_the_source_stops_all_and_a_refusal_only_one() -> None:
    source, one, other = create(), create(), create()
    snapshot = backup(source, FILES)

    def refuse() -> None:
        raise NoSuchError("somebody else has it")

    targets = [CopyTarget(one, before_commit=refuse), CopyTarget(other)]
    copy_to(source, targets, snapshot)
    assert isinstance(targets[0].error, NoSuchError)
    assert (one.snapshots(), len(other.snapshots())) == ([], 1)
    third, fourth = create(), create()
    name = next(
        pack_name(place.pack) for place in source.index if place.blob.kind == "data" and place.blob.length > 4000
    )
    damage(source, name)
    with pytest.raises(DamageError):
        copy_to(reopen(source), [CopyTarget(third), CopyTarget(fourth)], snapshot)
    assert third.snapshots() == fourth.snapshots() == []


def test_directories_equal_to_those_of_a_snapshot_that_is_there_are_not_walked() -> None:
    store = CountingStore()
    source, destination = create(store), create()
    first = backup(source, FILES)
    copy_snapshot(source, destination, first)
    same = backup(source, FILES, day=1)
    store.reads.clear()
    plan = plan_copy(source, destination, [same], base=first)
    assert plan.blobs == 0
    assert store.reads == []


def test_what_is_there_already_is_known_whoever_copied_it() -> None:
    source, destination = create(), create()
    first, second = backup(source, FILES), backup(source, FILES, day=1)
    assert missing_in(destination, [second, first]) == [first, second]
    copy_snapshot(source, destination, first)
    assert missing_in(destination, [first, second]) == [second]
    (copied,) = destination.snapshots()
    assert find_copy(copied, [second, first]) is first  # and so is the way back
    copy_snapshot(destination, source, copied)
    assert missing_in(destination, source.snapshots()) == [second]
    # stock restic copies the snapshot and not our records
    restics = create()
    restics.save_snapshot(replace(first, id="", original=first.id))
    assert missing_in(restics, [first]) == [first]


@pytest.mark.parametrize("step", range(1, 12))
def test_cut_off_anywhere_nothing_is_half_there_and_nothing_is_sent_twice(step: int) -> None:
    store = FailingStore()
    source, destination = create(), create(store)
    snapshot = backup(source, FILES)
    expected = create()
    copy_snapshot(source, expected, snapshot)
    packs = len(list(objects(expected, "data/")))
    store.changes.clear()
    store.fail_at = step
    try:
        copy_snapshot(source, destination, snapshot)
    except Transient:
        assert reopen(destination).snapshots() == []
    uploaded = {info.name for info in objects(destination, "data/")}
    store.fail_at = 0
    store.changes.clear()
    again = reopen(destination)
    if missing_in(again, [snapshot]):
        adopt_packs(again, compare_packs(again).unlisted)
        done = copy_snapshot(source, again, snapshot)
        sent = [change.removeprefix("put ") for change in store.changes if change.startswith("put data/")]
        assert uploaded.isdisjoint(sent)
        assert len(uploaded) + len(sent) <= packs + 1
        assert restore(whole(again), again.load_snapshot(done.id)) == FILES
    assert len(whole(destination).snapshots()) == 1


def test_a_hole_in_the_source_is_named_and_the_copy_does_not_appear() -> None:
    source, destination = create(), create()
    snapshot = backup(source, FILES)
    name = next(
        pack_name(place.pack) for place in source.index if place.blob.kind == "data" and place.blob.length > 4000
    )
    damage(source, name)
    with pytest.raises(DamageError) as raised:
        copy_snapshot(reopen(source), destination, snapshot)
    assert raised.value.name == name
    assert destination.snapshots() == []


def test_a_bad_copy_of_a_blob_is_passed_over_when_there_is_a_good_one() -> None:
    source, destination = create(), create()
    snapshot = backup(source, FILES)
    bad = next(place for place in source.index if place.blob.kind == "data")
    saver = source.blob_saver()
    for place in list(source.index):
        if place.pack == bad.pack:
            saver.save("data", source.load_copy(place), again=True)
    saver.flush()
    damage(source, pack_name(bad.pack))
    done = copy_snapshot(reopen(source), destination, snapshot)
    assert restore(whole(destination), destination.load_snapshot(done.id)) == FILES


def test_what_the_destination_lost_travels_again() -> None:
    source, destination = create(), create()
    snapshot = backup(source, FILES)
    copy_snapshot(source, destination, snapshot)
    lost = next(place.pack for place in destination.index if place.blob.kind == "data")
    destination.store.delete(pack_name(lost))
    again = reopen(destination)
    again.distrust(compare_packs(again).lost)
    assert plan_copy(source, again, [snapshot]).blobs > 0
    done = copy_snapshot(source, again, snapshot)
    assert restore(reopen(destination), again.load_snapshot(done.id)) == FILES


def test_a_run_that_is_no_longer_ours_commits_nothing() -> None:
    source, destination = create(), create()
    snapshot = backup(source, FILES)

    def refuse() -> None:
        raise NoSuchError("somebody else has it")

    with pytest.raises(NoSuchError):
        copy_snapshot(source, destination, snapshot, before_commit=refuse)
    assert destination.snapshots() == []


def test_a_blob_comes_from_whoever_has_it_and_is_verified() -> None:
    source, destination = create(), create()
    snapshot = backup(source, FILES)
    copy_snapshot(source, destination, snapshot)
    place = next(place for place in source.index if place.blob.kind == "data")
    expected = source.load_copy(place)
    damage(source, pack_name(place.pack), bit=8 * (place.blob.offset + 20))
    source = reopen(source)
    assert fetch_blob([source, destination], "data", place.blob.id) == (expected, destination)
    with pytest.raises(NoSuchError, match="no copy has the data blob"):
        fetch_blob([source], "data", place.blob.id)


def test_stretches_join_what_is_near_and_stay_bounded() -> None:
    def blob(offset: int, length: int) -> PackedBlob:
        return PackedBlob("data", bytes(32), offset, length, 0)

    near = [blob(0, 100), blob(100, 100), blob(200 + GAP_BYTES, 100)]
    far = blob(near[-1].offset + 101 + GAP_BYTES, 100)
    assert list(stretches([far, *near])) == [near, [far]]
    big = [blob(number * (STRETCH_BYTES // 2), STRETCH_BYTES // 2) for number in range(5)]
    assert [len(group) for group in stretches(big)] == [2, 2, 1]
