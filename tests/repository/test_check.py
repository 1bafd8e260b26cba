"""Every kind of damage is reported with its object and the snapshots it hits; a healthy repository has no problem."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backupctl.errors import Transient, UserError
from backupctl.repository.check import CheckReport, check
from backupctl.repository.format.node import Node
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import encode_tree
from backupctl.repository.repository import Repository
from tests.repository.engine import NOW, FailingStore, backup, content, create, damage, objects, reopen

PART = st.floats(0, 1, exclude_max=True)


def two_snapshots() -> tuple[Repository, Snapshot, Snapshot]:
    repository = create()
    first = backup(repository, {"same": content("same", 30_000), "old": content("old", 30_000)})
    second = backup(repository, {"same": content("same", 30_000), "new": content("new", 30_000)}, day=1)
    # as a fleet leaves it: the decision of which snapshot a run leaves, under the name of the run
    decision = f"backupctl/commit/{hashlib.sha256(b'a run').hexdigest()}"
    repository.store.put(decision, repository.store.get(f"snapshots/{second.id}"))
    return repository, first, second


def names(report: CheckReport) -> list[str]:
    return [problem.object_name for problem in report.problems]


def largest(repository: Repository, prefix: str) -> str:
    return max(objects(repository, prefix), key=lambda info: info.size).name


@pytest.mark.parametrize("read_data", [False, True])
def test_healthy(read_data: bool) -> None:
    repository, *_ = two_snapshots()
    seen: list[tuple[int, int]] = []
    report = check(reopen(repository), read_data=read_data, progress=lambda done, total: seen.append((done, total)))
    assert report.problems == [] and report.hints == []
    assert report.snapshots == 2 and report.packs == len(list(objects(repository, "data/")))
    assert report.blobs == len(repository.index)
    trees = {place.pack for place in repository.index if place.blob.kind == "tree"}
    assert report.packs_read == (report.packs if read_data else len(trees))
    if read_data:
        assert seen[-1][0] == seen[-1][1] > 60_000
        assert report.bytes_read >= seen[-1][1]


@pytest.mark.parametrize(
    "prefix",
    ["data/", "index/", "snapshots/", "keys/", "backupctl/fingerprint/", "backupctl/manifest/", "backupctl/commit/"],
)
@pytest.mark.parametrize("how", ["flip", "cut"])
def test_damage_to_each_kind_of_object(prefix: str, how: str) -> None:
    repository, *_ = two_snapshots()
    repository.index  # noqa: B018
    name = largest(repository, prefix)
    damage(repository, name, cut=1 if how == "cut" else 0)
    report = check(repository, read_data=True)
    assert name in names(report)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(PART, PART)
def test_any_flipped_bit_is_found(which: float, where: float) -> None:
    repository, *_ = two_snapshots()
    stored = [info for info in objects(repository) if info.name != "config"]
    chosen = stored[int(which * len(stored))]
    damage(repository, chosen.name, bit=int(where * chosen.size * 8))
    assert chosen.name in names(check(repository, read_data=True))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(PART)
def test_any_missing_object_is_found(which: float) -> None:
    repository, first, second = two_snapshots()
    prefixes = ("data/", "index/", "backupctl/fingerprint/", "backupctl/manifest/")
    stored = [info.name for info in objects(repository) if info.name.startswith(prefixes)]
    chosen = stored[int(which * len(stored))]
    repository.store.delete(chosen)
    report = check(reopen(repository))
    assert report.problems
    assert {first.id, second.id} >= {hit for problem in report.problems for hit in problem.snapshots} != set()
    if not chosen.startswith("index/"):
        assert chosen in names(report)


def test_only_the_snapshots_that_lose_something_are_named() -> None:
    repository = create()
    first = backup(repository, {"old": content("old", 30_000)})
    before = {info.name for info in objects(repository, "data/")}
    second = backup(repository, {"old": content("old", 30_000), "new": content("new", 30_000)}, day=1)
    shared = max((info for info in objects(repository, "data/") if info.name in before), key=lambda info: info.size)
    fresh = max((info for info in objects(repository, "data/") if info.name not in before), key=lambda info: info.size)
    for name, hit in ((fresh.name, [second.id]), (shared.name, [first.id, second.id])):
        copy = repository.store.get(name)
        damage(repository, name, bit=8 * 100)
        assert not check(reopen(repository)).problems, "the structure is whole"
        (problem,) = check(reopen(repository), read_data=True).problems
        assert (problem.object_name, problem.snapshots) == (name, hit)
        damage(repository, name, cut=5)
        (problem,) = check(reopen(repository)).problems
        assert (problem.object_name, problem.snapshots) == (name, hit)
        repository.store.put(name, copy)


def test_a_damaged_header_alone_loses_no_snapshot() -> None:
    repository, *_ = two_snapshots()
    name = largest(repository, "data/")
    size = repository.store.stat(name).size
    damage(repository, name, bit=(size - 10) * 8)
    (problem,) = check(repository, read_data=True).problems
    assert problem.object_name == name and problem.snapshots == [] and "header" in problem.message


def save_tree(repository: Repository, tree: bytes, *, blobs: tuple[bytes, ...] = ()) -> Snapshot:
    saver = repository.blob_saver()
    for blob in blobs:
        saver.save("data", blob)
    root = saver.save("tree", encode_tree([Node(b"d", "dir", subtree=saver.save("tree", tree))]))
    saver.flush()
    snapshot = Snapshot(NOW, root, ["/d"], "host")
    repository.save_snapshot(snapshot)
    return snapshot


FILE = Node(b"f", "file", content=[], size=0)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (encode_tree([replace(FILE, size=9)]), "the file /d/f says 9 bytes, its blobs hold 0"),
        (encode_tree([FILE]).replace(b'"content":[]', b'"content":null'), "/d/f has no content list"),
        (encode_tree([Node(b"x", "dir")]), "/d/x has no tree"),
        (encode_tree([FILE, replace(FILE, name=b"g")]).replace(b'"g"', b'"f"'), "not in order at f"),
        (encode_tree([FILE]).replace(b'"f"', b'"a/f"'), "cannot stand in a directory"),
        (encode_tree([FILE]).replace(b'"file"', b'"irregular"'), "unknown type"),
        (encode_tree([replace(FILE, content=[bytes(32)])]), "of /d/f is in no index"),
        (encode_tree([Node(b"x", "dir", subtree=bytes(32))]), "of /d/x is in no index"),
        (b'{"nodes":[', "malformed"),
    ],
)
def test_what_restic_overlooks_and_what_it_does_not(tree: bytes, message: str) -> None:
    repository = create()
    snapshot = save_tree(repository, tree)
    healthy = backup(repository, {"a": b"1"}, day=1)
    (problem,) = check(repository).problems
    assert message in problem.message
    assert problem.snapshots == [snapshot.id] != [healthy.id]


def test_index_that_lies_about_a_pack() -> None:
    repository, *_ = two_snapshots()
    place = next(iter(repository.index))
    repository.save_index([(place.pack, [place.blob])])
    assert any("differently" in problem.message for problem in check(repository).problems)


def test_hints_are_not_problems() -> None:
    repository, first, second = two_snapshots()
    repository.store.put("data/00/" + "0" * 64, b"left by a crash")
    (index_name, *_rest) = [info.name for info in objects(repository, "index/")]
    repository.save_file("index/", repository.load_file(index_name))
    repository.delete_snapshot(first.id)
    report = check(repository, read_data=True)
    assert report.problems == []
    assert any("in no index" in hint for hint in report.hints) and any("more than one" in hint for hint in report.hints)
    assert second.id


def test_a_fingerprint_that_names_a_lost_manifest() -> None:
    repository = create()
    snapshot = backup(repository, {"a": b"1"}, records=False)
    record = repository.save_record("fingerprint", json.dumps({"manifest": "0" * 64}).encode())
    garbage = repository.save_record("fingerprint", b"not json")
    for fingerprint in (record, garbage, "f" * 64):
        repository.save_snapshot(replace(snapshot, tags=[f"fingerprint:{fingerprint}"]))
    found = {problem.object_name: problem.snapshots for problem in check(repository).problems}
    assert set(found) == {
        "backupctl/manifest/" + "0" * 64,
        f"backupctl/fingerprint/{garbage}",
        "backupctl/fingerprint/" + "f" * 64,
    }
    assert all(len(snapshots) == 1 for snapshots in found.values())


def test_an_unreachable_store_says_nothing_about_the_backup() -> None:
    class Cut(FailingStore):
        def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
            if self.fail_at:
                raise Transient("cut", name=name)
            return super().get(name, offset=offset, length=length)

    store = Cut()
    repository = create(store)
    backup(repository, {"a": b"1"})
    store.fail_at = 1
    with pytest.raises(UserError):
        check(repository)


def test_deep_directories_need_no_recursion() -> None:
    repository = create()
    saver = repository.blob_saver()
    tree = saver.save("tree", encode_tree([]))
    for _ in range(3000):
        tree = saver.save("tree", encode_tree([Node(b"d", "dir", subtree=tree)]))
    saver.flush()
    repository.save_snapshot(Snapshot(NOW, tree, ["/d"], "host"))
    assert check(repository).problems == []


def test_paths_are_named_first_few_and_counted_all() -> None:
    repository = create()
    files = {f"file {number:02}": content(number, 500) for number in range(25)}
    first = backup(repository, files)
    second = backup(repository, files | {"zz": content("zz", 500)}, day=1)
    before = {place.pack for place in repository.index if place.blob.kind == "data"}
    assert len(before) == 2
    lost = next(repository.index.lookup("data", hashlib.sha256(files["file 00"]).digest()).__iter__()).pack
    repository.store.delete(f"data/{lost.hex()[:2]}/{lost.hex()}")
    (problem,) = check(reopen(repository)).problems
    assert problem.snapshots == [first.id, second.id]
    assert problem.paths == [f"/d/file {number:02}" for number in range(10)] and problem.path_count == 25
    (problem,) = check(reopen(repository), all_paths=True).problems
    assert problem.paths == [f"/d/file {number:02}" for number in range(25)]


def test_a_lost_tree_names_the_directory() -> None:
    repository = create()
    saver = repository.blob_saver()
    inner = saver.save("tree", encode_tree([FILE]))
    tree = encode_tree([Node(b"a", "dir", subtree=inner), Node(b"b", "dir", subtree=inner), FILE])
    saver.flush()
    lost = next(iter(repository.index)).pack
    snapshot = save_tree(repository, tree)
    repository.store.delete(f"data/{lost.hex()[:2]}/{lost.hex()}")
    (problem,) = check(reopen(repository)).problems
    assert (problem.snapshots, problem.paths) == ([snapshot.id], ["/d/a", "/d/b"])
