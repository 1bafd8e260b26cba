"""What is left of a snapshot is saved beside it, never looks whole, and costs nobody anything."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from backupctl.errors import Transient
from backupctl.repository.check import check
from backupctl.repository.copy import origin
from backupctl.repository.format.node import Node
from backupctl.repository.format.pack import BlobKind
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import decode_tree, encode_tree
from backupctl.repository.records import fingerprints_of
from backupctl.repository.repair_packs import suspected
from backupctl.repository.repair_snapshots import (
    NAMED_PATHS,
    SnapshotRepair,
    _problems,
    apply_snapshot,
    find_repaired,
    plan_snapshots,
)
from backupctl.repository.repository import Repository, pack_name
from backupctl.repository.survey import Survey
from tests.faults.faulty_store import FaultyStore
from tests.repository.engine import NOW, FailingStore, backup, content, create, objects, reopen, restore
from tests.repository.repairing import FILES, copied, cut_at_every_change, files_of, names, two_nights


def lose(repository: Repository, kind: BlobKind, wanted: bytes) -> None:
    """The pack that holds it, and so perhaps others."""
    for place in repository.index.lookup(kind, wanted):
        repository.store.delete(pack_name(place.pack))


def survey_of(repository: Repository, *copies: Repository) -> Survey:
    return Survey(repository, repository.snapshots(), suspected(repository), copies=copies)


def repaired(repository: Repository, *copies: Repository) -> list[tuple[SnapshotRepair, Snapshot | None]]:
    again = reopen(repository)
    before = names(again)
    survey = survey_of(again, *copies)
    planned = plan_snapshots(survey, survey.snapshots)
    assert names(again) == before, "a plan changes nothing"
    again.distrust(survey.damaged)
    return [(one, apply_snapshot(again, survey, one)) for one in planned]


def directory(repository: Repository, snapshot: Snapshot) -> bytes:
    (top,) = decode_tree(repository.load_blob("tree", snapshot.tree))
    assert top.subtree is not None
    return top.subtree


def only_file(night: int, repository: Repository, snapshot: Snapshot) -> bytes:
    """The first blob of what only that night holds."""
    nodes = decode_tree(repository.load_blob("tree", directory(repository, snapshot)))
    (found,) = (node for node in nodes if node.name == f"only {night}".encode())
    assert found.content
    return found.content[0]


def apart() -> tuple[Repository, list[Snapshot]]:
    """Two nights that share no pack."""
    repository = create()
    return repository, [
        backup(repository, {"keep": content(("keep", night), 9000), f"only {night}": content(night, 60_000)}, day=night)
        for night in range(2)
    ]


def test_nothing_to_do() -> None:
    repository, _ = two_nights()
    survey = survey_of(repository)
    assert (survey.missing, plan_snapshots(survey, survey.snapshots)) == ({}, [])


def test_files_that_lack_a_part_are_left_out() -> None:
    repository, snapshots = two_nights()
    lose(repository, "data", only_file(1, repository, snapshots[1]))
    again = reopen(repository)
    survey = survey_of(again)
    lost = {snapshot.id: {path.decode() for path, _ in survey.losses(snapshot.tree)} for snapshot in snapshots}
    assert "/d/only 1" in lost[snapshots[1].id]
    made = repaired(repository)
    for repair, snapshot in made:
        assert snapshot is not None
        number = snapshots.index(next(one for one in snapshots if one.id == repair.snapshot.id))
        expected = {
            name: data for name, data in files_of(number).items() if f"/d/{name}" not in lost[repair.snapshot.id]
        }
        assert set(repair.paths) == lost[repair.snapshot.id]
        assert restore(reopen(repository), snapshot) == expected
    assert {repair.snapshot.id for repair, _ in made} == {one for one, paths in lost.items() if paths}


def test_it_is_never_complete_and_says_what_it_lacks() -> None:
    repository, snapshots = apart()
    old = snapshots[1]
    before = json.loads(repository.load_record("fingerprint", fingerprints_of(old)[0]))
    lose(repository, "data", only_file(1, repository, old))
    ((repair, made),) = repaired(repository)
    assert made is not None
    assert (made.time, made.hostname, made.paths, made.original) == (old.time, old.hostname, old.paths, old.id)
    assert "complete" not in made.tags
    assert {"incomplete", "repaired"} <= set(made.tags)
    assert "complete" in old.tags
    facts = json.loads(repository.load_record("fingerprint", fingerprints_of(made)[0]))
    assert facts["manifest"] == before["manifest"], "what the source held has not changed"
    assert facts["status"] == "incomplete"
    assert {f"/{one['source']}/{one['path']}" for one in facts["problems"]} == set(repair.paths) >= {"/d/only 1"}
    assert {one["kind"] for one in facts["problems"]} == {"lost"}
    again = reopen(repository)
    assert {one.id for one in again.snapshots()} == {snapshots[0].id, old.id, made.id}, "the broken one stays"
    again.delete_snapshot(old.id)
    assert [one.message for one in check(again, read_data=True).problems if one.snapshots] == []


def test_a_directory_whose_list_is_lost_stays_empty() -> None:
    repository, snapshots = two_nights()
    inner = directory(repository, snapshots[1])
    pack = repository.index.lookup("tree", inner)[0].pack
    saver = repository.blob_saver()
    for place in list(repository.index):
        if place.pack == pack and place.blob.id != inner:  # all but that one are stored twice
            saver.save("tree", repository.load_copy(place), again=True)
    saver.flush()
    lose(repository, "tree", inner)
    ((repair, made),) = repaired(repository)
    assert repair.paths == ["/d"]
    assert made is not None
    assert restore(reopen(repository), made) == {}
    (top,) = decode_tree(reopen(repository).load_blob("tree", made.tree))
    assert (top.name, top.mode) == (b"d", 0o755)


def test_nothing_is_left_of_one_whose_root_is_lost() -> None:
    repository, snapshots = apart()
    lose(repository, "tree", snapshots[1].tree)
    made = repaired(repository)
    assert [(repair.snapshot.id, snapshot) for repair, snapshot in made if repair.paths == ["/"]] == [
        (snapshots[1].id, None)
    ]


def test_what_a_copy_has_is_no_loss() -> None:
    repository, snapshots = two_nights()
    lose(repository, "data", only_file(1, repository, snapshots[1]))
    other = copied()
    survey = survey_of(reopen(repository), other)
    assert survey.found and not survey.lost
    assert plan_snapshots(survey, survey.snapshots) == []


def test_a_copy_that_cannot_be_asked_just_now_is_no_reason_to_give_up() -> None:
    repository, snapshots = two_nights()
    lose(repository, "tree", directory(repository, snapshots[1]))
    other = reopen(copied())
    other.store = faulty = FaultyStore(other.store)
    faulty.fail("get", 1, Transient("connection reset"), times=None)
    with pytest.raises(Transient):
        survey_of(reopen(repository), other)


def test_one_of_which_a_copy_has_a_part_waits() -> None:
    repository, snapshots = two_nights()
    for info in objects(repository, "data/"):
        if not any(place.blob.kind == "tree" for place in repository.index if pack_name(place.pack) == info.name):
            repository.store.delete(info.name)
    other = create()
    backup(other, {"same": FILES["same"]})
    survey = survey_of(reopen(repository), other)
    planned = plan_snapshots(survey, survey.snapshots)
    assert [(one.waits, one.tree) for one in planned] == [(True, None)] * len(snapshots)


def test_a_second_repair_finds_the_first() -> None:
    repository, snapshots = apart()
    lose(repository, "data", only_file(1, repository, snapshots[1]))
    ((_, made),) = repaired(repository)
    before = names(repository)
    ((repair, again),) = repaired(repository)
    assert again is not None and made is not None
    assert (again.id, repair.present and repair.present.id) == (made.id, made.id)
    assert names(repository) == before
    assert find_repaired(replace(snapshots[1], time=NOW), repair.tree, [made]) is None


def test_a_repaired_one_that_loses_more_is_repaired_again() -> None:
    repository = create()
    earlier = backup(repository, {"keep": content("keep", 9000)})
    old = backup(repository, {"keep": content("keep", 9000), "only 1": content(1, 60_000)}, day=1)
    lose(repository, "data", only_file(1, repository, old))
    ((_, made),) = repaired(repository)
    assert made is not None
    repository.delete_snapshot(old.id)
    (keep, *_) = decode_tree(repository.load_blob("tree", directory(repository, earlier)))[::-1]
    assert keep.content
    lose(repository, "data", keep.content[0])
    found = {repair.snapshot.id: (repair, snapshot) for repair, snapshot in repaired(reopen(repository))}
    assert set(found) == {earlier.id, made.id}
    repair, second = found[made.id]
    assert second is not None
    assert (second.original, second.tags.count("repaired"), second.tags.count("incomplete")) == (old.id, 1, 1)
    assert origin(made) == old.id
    assert repair.paths == ["/d/keep"]


def test_a_tree_that_is_malformed_is_as_good_as_lost() -> None:
    repository = create()
    saver = repository.blob_saver()
    bad = saver.save("tree", b'{"nodes":[{"name":"x"')
    headless = Node(b"headless", "file", 0o644)
    text = encode_tree([Node(b"bad", "dir", 0o755, subtree=bad), headless]).replace(b'"content":[]', b'"content":null')
    root = saver.save("tree", text)
    saver.flush()
    repository.save_snapshot(Snapshot(NOW, root, ["/"], "host", tags=["complete"]))
    ((repair, made),) = repaired(repository)
    assert made is not None
    assert repair.paths == ["/headless", "/bad"]
    (left,) = decode_tree(reopen(repository).load_blob("tree", made.tree))
    assert left.name == b"bad"
    assert [one.message for one in check(reopen(repository)).problems if made.id in one.snapshots] == []


def test_what_a_damaged_pack_lists_does_not_count_as_stored() -> None:
    """The directory that is left is one that an earlier night held too, in a pack that is gone."""
    repository = create()
    earlier = backup(repository, {"keep": content("keep", 9000)})
    later = backup(repository, {"keep": content("keep", 9000), "only 1": content(1, 60_000)}, day=1)
    lose(repository, "data", only_file(1, repository, later))
    lose(repository, "tree", directory(repository, earlier))
    made = {repair.snapshot.id: snapshot for repair, snapshot in repaired(repository)}
    left = made[later.id]
    assert left is not None
    again = reopen(repository)
    assert restore(again, left) == {"keep": content("keep", 9000)}
    assert [one.message for one in check(again).problems if left.id in one.snapshots] == []


def test_ten_thousand_paths_are_named_and_the_rest_counted() -> None:
    repair = SnapshotRepair(Snapshot(NOW, bytes(32)), paths=[f"/www/{number}" for number in range(NAMED_PATHS + 7)])
    said = _problems(repair)
    assert len(said) == NAMED_PATHS + 1
    assert said[0] == {"source": "www", "path": "0", "kind": "lost", "message": said[1]["message"]}
    assert said[-1]["message"] == "and 7 more paths"


def test_cut_at_every_change() -> None:
    other = copied()

    def make(store: FailingStore) -> Repository:
        repository, snapshots = two_nights(store)
        lose(repository, "data", only_file(1, repository, snapshots[1]))
        return reopen(repository)

    def act(repository: Repository) -> None:
        with repository.lock(exclusive=True):
            survey = survey_of(repository)
            repository.distrust(survey.damaged)
            for one in plan_snapshots(survey, survey.snapshots):
                made = apply_snapshot(repository, survey, one)
                assert made is not None
                repository.delete_snapshot(one.snapshot.id)

    changes = cut_at_every_change(make, act, fallback=other, whole=False)
    kinds = [change.split(" ")[0] + " " + "/".join(change.split(" ")[1].split("/")[:-1][:2]) for change in changes]
    first = kinds[: kinds.index("delete snapshots") + 1]
    assert [kind.split("/")[0] for kind in first] == [
        "put locks",
        "put data",
        "put index",
        "put backupctl",
        "put snapshots",
        "delete snapshots",
    ]
