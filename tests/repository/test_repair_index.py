"""The index is made again from the headers of packs; no step of it costs a snapshot."""

from __future__ import annotations

import pytest

from backupctl.errors import LockedError
from backupctl.repository.adoption import compare_packs
from backupctl.repository.check import check
from backupctl.repository.format.index import decode_index
from backupctl.repository.repair_index import apply_index, plan_index
from backupctl.repository.repository import Repository, pack_name
from backupctl.repository.survey import Survey
from tests.repository.engine import FailingStore, backup, content, damage, objects, reopen, restore
from tests.repository.repairing import (
    cut_at_every_change,
    expect_whole,
    files_of,
    index_files,
    names,
    packs_of,
    two_nights,
)


def repaired(repository: Repository, *, read_all: bool = False) -> Repository:
    again = reopen(repository)
    before = names(again)
    plan = plan_index(again, read_all=read_all)
    assert names(again) == before, "a plan changes nothing"
    assert plan
    apply_index(again, plan)
    assert not plan_index(reopen(repository), read_all=True), "and then nothing is left to do"
    return again


def test_nothing_to_do() -> None:
    repository, _ = two_nights()
    before = names(repository)
    for read_all in (False, True):
        plan = plan_index(repository, read_all=read_all)
        assert not plan
        apply_index(repository, plan)
    assert names(repository) == before


@pytest.mark.parametrize("lost", [1, 2])
def test_index_files_that_are_gone(lost: int) -> None:
    repository, _ = two_nights()
    for name in index_files(repository)[:lost]:
        repository.store.delete(name)
    repaired(repository)
    expect_whole(repository)


@pytest.mark.parametrize("how", ["flipped", "cut", "empty"])
def test_index_files_that_cannot_be_read(how: str) -> None:
    repository, _ = two_nights()
    bad = index_files(repository)
    for name in bad:
        if how == "empty":
            repository.store.delete(name)
            repository.store.put(name, b"")
        else:
            damage(repository, name, cut=40 if how == "cut" else 0)
    repaired(repository)
    assert not set(bad) & set(index_files(repository))
    expect_whole(repository)


def test_packs_that_are_gone_are_listed_no_more() -> None:
    repository, _ = two_nights()
    gone = packs_of(repository, "data")[0]
    repository.store.delete(pack_name(gone))
    plan = plan_index(reopen(repository))
    assert list(plan.gone) == [gone]
    assert plan.gone[gone] > 1
    again = repaired(repository)
    assert gone not in again.index.packs
    assert compare_packs(again).lost == {}
    lost = Survey(again, again.snapshots(), ())
    assert {kind for kind, _ in lost.lost} == {"data"}, "what it held is still known to be needed"
    assert {path for one in lost.problems() for path in one.paths} <= {"/d/same", "/d/only 0", "/d/only 1", "/d/small"}


def test_a_pack_that_comes_back_is_listed_again() -> None:
    repository, _ = two_nights()
    name = pack_name(packs_of(repository, "data")[0])
    data = repository.store.get(name)
    repository.store.delete(name)
    repaired(repository)
    repository.store.put(name, data)
    repaired(repository)
    expect_whole(repository)


def test_a_wrong_listing_is_found_by_the_size_or_by_reading_all() -> None:
    for swapped in (False, True):
        repository, _ = two_nights()
        (name, *_) = index_files(repository)
        listing = list(decode_index(repository.load_file(name)))
        pack, blobs = max(listing, key=lambda one: len(one[1]))
        if swapped:  # two blobs of one length in the wrong order: the size is right all the same
            first, second = next(
                (one, other)
                for one in blobs
                for other in blobs
                if one.offset < other.offset and (one.length, one.plain_length) == (other.length, other.plain_length)
            )
            ids = {first.id: second.id, second.id: first.id}
            wrong = [
                type(blob)(blob.kind, ids.get(blob.id, blob.id), blob.offset, blob.length, blob.plain_length)
                for blob in blobs
            ]
        else:
            wrong = blobs[:-1]
        repository.save_index([(one, wrong if one == pack else listed) for one, listed in listing])
        repository.store.delete(name)
        assert check(reopen(repository), read_data=True).problems
        assert bool(plan_index(reopen(repository))) is not swapped
        repaired(repository, read_all=swapped)
        expect_whole(repository)


def test_a_pack_listed_twice_and_differently() -> None:
    repository, _ = two_nights()
    listing = list(decode_index(repository.load_file(index_files(repository)[0])))
    pack, blobs = listing[0]
    repository.save_index([(pack, blobs[1:])])
    assert check(reopen(repository)).problems
    repaired(repository)
    expect_whole(repository)


def test_a_pack_whose_header_is_destroyed_stays_listed() -> None:
    repository, _ = two_nights()
    name = pack_name(packs_of(repository, "data")[0])
    damage(repository, name, cut=5)
    plan = plan_index(reopen(repository))
    assert list(plan.damaged) == [name]
    assert not plan, "by its listing it can still be read"
    repository.store.delete(index_files(repository)[0])
    repository.store.delete(index_files(repository)[0])
    again = reopen(repository)
    plan = plan_index(again)
    assert list(plan.headless) == [name]
    apply_index(again, plan)
    assert name in names(repository), "nobody can tell what it holds: left alone"


def test_a_writer_beside_it_loses_nothing() -> None:
    """One whose lock was lost, say: its packs are listed however young they are, its index file stays."""
    repository, _ = two_nights()
    repository.store.delete(index_files(repository)[0])
    plan = plan_index(reopen(repository))
    late = backup(repository, {"late": content("late", 50_000)}, day=3)
    apply_index(reopen(repository), plan)
    assert check(reopen(repository), read_data=True).problems == []
    assert restore(reopen(repository), late) == {"late": content("late", 50_000)}


def test_it_needs_the_repository_for_itself() -> None:
    repository, _ = two_nights()
    repository.store.delete(index_files(repository)[0])
    other = reopen(repository)
    with repository.lock():
        plan = plan_index(other)
        with pytest.raises(LockedError):
            apply_index(other, plan)


def test_cut_at_every_change() -> None:
    def make(store: FailingStore) -> Repository:
        repository, _ = two_nights(store)
        third = backup(repository, files_of(2), day=2)
        assert third.id
        gone, unreadable, _ = index_files(repository)
        store.delete(gone)
        damage(repository, unreadable)
        return reopen(repository)

    changes = cut_at_every_change(make, lambda repository: apply_index(repository, plan_index(repository)))
    kinds = [change.partition("/")[0] for change in changes]
    assert kinds == ["put locks", "put index", "delete index", "delete locks"], "new index files, then the old ones go"


def test_the_unused_is_kept_too() -> None:
    repository, _ = two_nights()
    before = {place.blob.id for place in repository.index}
    for name in index_files(repository):
        repository.store.delete(name)
    again = repaired(repository)
    assert {place.blob.id for place in again.index} == before
    assert {info.name for info in objects(again, "data/")} == {pack_name(pack) for pack in again.index.packs}
