"""Damaged packs are written anew: what they still give is kept, what is lost comes from a copy, and nothing else goes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from backupctl.errors import DamageError, Denied, LockedError, StorageError, Transient
from backupctl.repository.adoption import compare_packs
from backupctl.repository.check import check
from backupctl.repository.format.index import decode_index
from backupctl.repository.ledger import Ledger
from backupctl.repository.repair_index import apply_index, plan_index
from backupctl.repository.repair_packs import PacksPlan, RepairedPacks, apply_packs, plan_packs, suspected
from backupctl.repository.repository import Repository, pack_name
from tests.faults.faulty_store import FaultyStore
from tests.repository.engine import FailingStore, backup, content, damage, objects, reopen
from tests.repository.repairing import (
    copied,
    cut_at_every_change,
    expect_whole,
    index_files,
    names,
    packs_of,
    two_nights,
)

Harm = Callable[[Repository, str], None]


def _lose(repository: Repository, name: str) -> None:
    repository.store.delete(name)


def _truncate(repository: Repository, name: str) -> None:
    size = repository.store.stat(name).size
    damage(repository, name, cut=size // 2)


def _flip(repository: Repository, name: str) -> None:
    damage(repository, name, bit=8 * 100)


def _behead(repository: Repository, name: str) -> None:
    damage(repository, name, bit=8 * (repository.store.stat(name).size - 10))


HARMS = {"lost": _lose, "truncated": _truncate, "one flipped bit": _flip, "header destroyed": _behead}


def plan(repository: Repository, *copies: Repository, found_bad: tuple[bytes, ...] = ()) -> PacksPlan:
    return plan_packs(repository, repository.snapshots(), suspected(repository, found_bad), copies)


def repaired(repository: Repository, *copies: Repository, found_bad: tuple[bytes, ...] = ()) -> RepairedPacks:
    again = reopen(repository)
    before = names(again)
    planned = plan(again, *copies, found_bad=found_bad)
    assert names(again) == before, "a plan changes nothing"
    return apply_packs(again, planned)


def test_nothing_to_do() -> None:
    repository, _ = two_nights()
    before = names(repository)
    assert not plan(repository)
    assert not plan(repository, found_bad=tuple(repository.index.packs)), "suspected, and found whole"
    apply_packs(repository, plan(repository))
    assert names(repository) == before


@pytest.mark.parametrize("kind", ["data", "tree"])
@pytest.mark.parametrize("how", HARMS)
def test_from_a_copy_byte_for_byte(how: str, kind: str) -> None:
    repository, _ = two_nights()
    pack = packs_of(repository, kind)[0]  # type: ignore[arg-type]  # one of the two
    HARMS[how](repository, pack_name(pack))
    assert check(reopen(repository), read_data=True).problems
    before = {place.blob.id for place in repository.index}
    done = repaired(repository, copied(), found_bad=(pack,))
    assert pack_name(pack) not in names(repository)
    expect_whole(repository)
    assert {place.blob.id for place in reopen(repository).index} == before
    if how == "lost":
        assert (done.salvaged, done.deleted_packs) == (0, 0)
    else:
        assert done.deleted_packs == 1
    if how == "header destroyed":
        assert done.fetched == 0, "its blobs are all there"


@pytest.mark.parametrize("how", HARMS)
def test_without_a_copy_all_that_is_good_is_kept(how: str) -> None:
    repository, _ = two_nights()
    pack = packs_of(repository, "data")[0]
    good = {place.blob.id: repository.load_copy(place) for place in repository.index if place.pack == pack}
    HARMS[how](repository, pack_name(pack))
    planned = plan(reopen(repository), found_bad=(pack,))
    bad = planned.damaged[pack].bad_ids
    assert len(bad) == {"lost": len(good), "one flipped bit": 1, "header destroyed": 0}.get(how, len(bad))
    assert 0 < len(bad) < len(good) or how in ("lost", "header destroyed")
    assert {blob for _, blob in planned.survey.lost} == bad
    problems = planned.survey.problems()
    assert bool(problems) == bool(bad)
    for problem in problems:
        assert problem.object_name == pack_name(pack)
        assert problem.snapshots and problem.paths and problem.path_count
    repaired(repository, found_bad=(pack,))
    again = reopen(repository)
    for blob, data in good.items():
        if blob not in bad:
            assert again.load_blob("data", blob) == data
    report = check(again, read_data=True)
    assert {one.object_name for one in report.problems} == {f"data/{blob.hex()}" for blob in bad}
    assert [path for one in problems for path in one.paths] == sorted(
        {path for one in report.problems for path in one.paths}
    )


def test_everything_is_gone() -> None:
    """Not a pack, not an index file is left: the copy gives it all."""
    repository, _ = two_nights()
    for info in [*objects(repository, "data/"), *objects(repository, "index/")]:
        repository.store.delete(info.name)
    done = repaired(repository, copied())
    assert (done.salvaged, done.failed) == (0, [])
    expect_whole(repository)


def test_what_the_index_has_forgotten_is_taken_from_a_copy_too() -> None:
    repository, _ = two_nights()
    for kind in ("data", "tree"):
        repository.store.delete(pack_name(packs_of(repository, kind)[0]))  # type: ignore[arg-type]  # as above
    again = reopen(repository)
    apply_index(again, plan_index(again))
    assert suspected(reopen(repository)) == set()
    repaired(repository, copied())
    expect_whole(repository)


def test_two_copies_each_with_a_part() -> None:
    repository, snapshots = two_nights()
    first, second = copied(), copied()
    for number, other in enumerate((first, second)):
        drop = packs_of(other, "data")[number::2]
        for pack in drop:
            other.store.delete(pack_name(pack))
    for pack in packs_of(repository, "data"):
        repository.store.delete(pack_name(pack))
    copies = [reopen(first), reopen(second)]
    for copy in copies:
        copy.distrust(compare_packs(copy).lost)
    planned = plan(reopen(repository), *copies)
    assert planned.survey.lost or {0, 1} == set(planned.fetch.values())
    repaired(repository, *copies)
    lost = {blob for _, blob in planned.survey.lost}
    assert {one.object_name for one in check(reopen(repository)).problems} == {f"data/{blob.hex()}" for blob in lost}
    assert len(reopen(repository).snapshots()) == len(snapshots)


def test_a_copy_that_lists_what_it_cannot_give() -> None:
    repository, _ = two_nights()
    other = copied()
    for pack in packs_of(repository, "data"):
        repository.store.delete(pack_name(pack))
    bad = packs_of(other, "data")[0]
    blobs = {place.blob.id for place in other.index if place.pack == bad}
    other.store.delete(pack_name(bad))
    done = repaired(repository, other)
    assert {blob for _, blob in done.failed} == blobs, "told, and the rest is repaired"
    assert {one.object_name for one in check(reopen(repository)).problems} == {f"data/{blob.hex()}" for blob in blobs}


def test_the_ledger_of_reading_is_asked() -> None:
    repository, _ = two_nights()
    pack = packs_of(repository, "data")[0]
    _flip(repository, pack_name(pack))
    assert suspected(repository) == set()
    check(reopen(repository), read_data=True, ledger=Ledger(repository))
    assert suspected(reopen(repository)) == {pack}


def test_a_bad_tree_is_found_on_the_way() -> None:
    repository, _ = two_nights()
    pack = packs_of(repository, "tree")[0]
    place = next(place for place in repository.index if place.pack == pack and place.blob.length > 200)
    damage(repository, pack_name(pack), bit=8 * (place.blob.offset + 50))
    planned = plan(reopen(repository))
    assert list(planned.damaged) == [pack], "although nobody suspected it"
    repaired(repository, copied())
    expect_whole(repository)


def test_a_good_copy_within_the_repository_is_enough() -> None:
    repository, _ = two_nights()
    pack = packs_of(repository, "data")[0]
    saver = repository.blob_saver()
    for place in list(repository.index):
        if place.pack == pack:
            saver.save("data", repository.load_copy(place), again=True)
    saver.flush()
    _lose(repository, pack_name(pack))
    planned = plan(reopen(repository))
    assert (planned.survey.missing, list(planned.damaged)) == ({}, [pack])
    repaired(repository)
    expect_whole(repository)


def test_what_nothing_needs_is_no_loss() -> None:
    repository, _ = two_nights()
    extra = backup(repository, {"extra": content("extra", 60_000)}, day=5, records=False)
    repository.delete_snapshot(extra.id)
    wanted = hashlib.sha256(content("extra", 60_000)[:4096]).digest()
    pack = next(place.pack for place in repository.index if place.blob.id == wanted)
    _lose(repository, pack_name(pack))
    planned = plan(reopen(repository))
    assert (list(planned.damaged), planned.survey.missing) == ([pack], {})
    repaired(repository)
    expect_whole(repository)


def test_packs_in_no_index_that_are_needed_are_listed() -> None:
    """As an interrupted repair leaves them."""
    repository, _ = two_nights()
    for name in index_files(repository):
        repository.store.delete(name)
    planned = plan(reopen(repository))
    assert (planned.damaged, planned.fetch) == ({}, {})
    assert planned.adopt == set(repository.index.packs)
    repaired(repository)
    expect_whole(repository)


def test_a_pack_that_the_index_lists_wrongly_is_left_alone() -> None:
    """It is whole, and holds more than the index knows: nothing of that may go."""
    repository, _ = two_nights()
    (name, *_) = index_files(repository)
    listing = list(decode_index(repository.load_file(name)))
    pack, blobs = max(listing, key=lambda one: len(one[1]))
    repository.save_index([(one, blobs[:-1] if one == pack else listed) for one, listed in listing])
    repository.store.delete(name)
    planned = plan(reopen(repository), found_bad=(pack,))
    assert list(planned.mislisted) == [pack]
    assert (planned.damaged, planned.survey.missing, planned.adopt) == ({}, {}, set())
    before = names(repository)
    repaired(repository, copied(), found_bad=(pack,))
    assert names(repository) == before
    again = reopen(repository)
    apply_index(again, plan_index(again))
    expect_whole(repository)


def test_nothing_goes_when_what_was_good_is_bad_now() -> None:
    repository, _ = two_nights()
    pack = packs_of(repository, "data")[0]
    _flip(repository, pack_name(pack))
    again = reopen(repository)
    planned = plan(again, copied(), found_bad=(pack,))
    _truncate(repository, pack_name(pack))
    before = names(repository)
    with pytest.raises(DamageError):
        apply_packs(again, planned)
    assert before <= names(repository)


@pytest.mark.parametrize("error", [Transient("reset"), Denied("no")], ids=["unreachable", "denied"])
def test_a_store_that_fails_at_any_call_costs_nothing(error: StorageError) -> None:
    """Of either repository: what cannot be asked just now is not taken for damaged, or for lost."""
    other = copied()
    for of_copy in (False, True):
        number = 0
        while True:
            number += 1
            repository, _ = two_nights()
            packs = packs_of(repository, "data")
            _flip(repository, pack_name(packs[0]))
            _lose(repository, pack_name(packs_of(repository, "tree")[0]))
            faulty = FaultyStore(other.store if of_copy else repository.store)
            subject = reopen(repository)
            copy = reopen(other)
            (copy if of_copy else subject).store = faulty
            faulty.fail("get", number, error, times=None)
            try:
                apply_packs(subject, plan(subject, copy, found_bad=(packs[0],)))
            except StorageError:
                faulty.heal()
                for info in objects(repository, "locks/"):
                    repository.store.delete(info.name)
                repaired(repository, other, found_bad=(packs[0],))
                expect_whole(repository)
            else:
                break
        assert number > (2 if of_copy else 10)


def test_it_needs_the_repository_for_itself() -> None:
    repository, _ = two_nights()
    _lose(repository, pack_name(packs_of(repository, "data")[0]))
    other = reopen(repository)
    planned = plan(other, copied())
    with repository.lock(), pytest.raises(LockedError):
        apply_packs(other, planned)


def test_cut_at_every_change() -> None:
    harmed: list[bytes] = []

    def make(store: FailingStore) -> Repository:
        repository, _ = two_nights(store)
        flipped, cut = packs_of(repository, "data")[:2]
        (tree, *_) = packs_of(repository, "tree")
        _flip(repository, pack_name(flipped))
        _truncate(repository, pack_name(cut))
        _lose(repository, pack_name(tree))
        harmed[:] = [flipped]
        return reopen(repository)

    other = copied()

    def act(repository: Repository) -> None:
        apply_packs(repository, plan(repository, other, found_bad=tuple(harmed)))

    changes = cut_at_every_change(make, act, fallback=other)
    kinds = [change.split(" ")[0] + " " + change.split(" ")[1].partition("/")[0] for change in changes]
    order = [kind for number, kind in enumerate(kinds) if number == 0 or kinds[number - 1] != kind]
    assert order == ["put locks", "put data", "put index", "delete index", "delete data", "delete locks"]
