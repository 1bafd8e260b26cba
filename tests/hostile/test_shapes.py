"""Snapshots of absurd shape, through every verb that walks one: refused or contained with one of our errors, in bounded
time and memory."""

from __future__ import annotations

import hashlib
import os
import resource
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from backupctl.errors import DamageError, UserError
from backupctl.hosts import posix
from backupctl.repository import endless
from backupctl.repository.check import check
from backupctl.repository.copy import copy_snapshot
from backupctl.repository.diff import SnapshotDiff
from backupctl.repository.find import Finder, Query
from backupctl.repository.format.crypto import seal
from backupctl.repository.format.node import Node
from backupctl.repository.format.pack import PackedBlob, encode_header, encode_trailer
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import encode_tree
from backupctl.repository.format.unpacked import compress
from backupctl.repository.manifest import ManifestReader
from backupctl.repository.manifest_facts import ManifestFacts, SourceTotals
from backupctl.repository.prune_plan import plan_prune
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository, pack_name
from backupctl.repository.restore_plan import plan_restore
from tests.hostile.evil import Evil, memory_repository, restored
from tests.soak import rounds

MEMORY_BYTES = 300 << 20


def ls(repo: Repository, snapshot: Snapshot) -> None:
    with SnapshotReader(repo, snapshot) as reader:
        for _ in islice(reader.list(recursive=True), 1_000_000):
            pass


def find(repo: Repository, snapshot: Snapshot) -> None:
    search = Finder(repo, Query("*.nothing"))
    list(search.find(snapshot))
    if search.problems:
        raise DamageError(search.problems[0], name="found")


def find_by_path(repo: Repository, snapshot: Snapshot) -> None:
    search = Finder(repo, Query("/s/**/nothing"))
    list(search.find(snapshot))
    if search.problems:
        raise DamageError(search.problems[0], name="found")


def planned(repo: Repository, snapshot: Snapshot) -> None:
    with SnapshotReader(repo, snapshot) as reader:
        plan = plan_restore(reader)
    if plan.problems:
        raise DamageError(plan.problems[0].message, name="planned")


def checked(repo: Repository, snapshot: Snapshot) -> None:
    report = check(repo, read_data=True)
    if report.problems:
        raise DamageError(report.problems[0].message, name=report.problems[0].object_name)


def pruned(repo: Repository, snapshot: Snapshot) -> None:
    plan_prune(repo)


def compared(repo: Repository, snapshot: Snapshot) -> None:
    """As a drill reads what the source held: from the trees, by way of a manifest that is as hostile as they are."""
    top = encode_tree([Node(b"www", "dir", 0o755, subtree=snapshot.tree)])
    record = ManifestFacts(hashlib.sha256(top).digest(), {"www": SourceTotals(files=1 << 60)}).encode()

    def load(tree: bytes) -> bytes:
        return top if hashlib.sha256(top).digest() == tree else repo.load_blob("tree", tree)

    for _ in islice(ManifestReader(record, load_tree=load), 1_000_000):
        pass


def copied(repo: Repository, snapshot: Snapshot) -> None:
    destination = memory_repository()
    copy_snapshot(repo, destination, snapshot)


VERBS: dict[str, Callable[[Repository, Snapshot], None]] = {
    "ls": ls,
    "find": find,
    "find by path": find_by_path,
    "restore plan": planned,
    "check": checked,
    "prune": pruned,
    "copy": copied,
}


def said_by(verb: str, evil: Evil, snapshot: Snapshot) -> str:
    """What the verb refuses with; "" when it went through."""
    evil.repo.reset_index()
    try:
        VERBS[verb](evil.repo, snapshot)
    except UserError as error:
        return error.message
    return ""


def nested(evil: Evil, levels: int, repeats: int = 1, name: str = "d") -> Snapshot:
    tree = evil.tree(evil.file("leaf"))
    for _ in range(levels):
        node = {"type": "dir", "mode": 1 << 31 | 0o755, "mtime": "2026-11-22T00:00:00Z", "subtree": tree}
        tree = evil.tree(*({"name": f"{name}{number}" if repeats > 1 else name, **node} for number in range(repeats)))
    return evil.snapshot(tree)


def test_a_manifest_over_a_tree_that_unfolds_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endless, "MAX_REPEATS", 2_000)
    evil = Evil()
    with pytest.raises(DamageError, match="without end"):
        compared(evil.repo, nested(evil, 60, repeats=2))


@pytest.mark.parametrize("verb", VERBS)
def test_a_tree_of_trees_that_unfolds_without_end(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty small trees, 2^60 files."""
    monkeypatch.setattr(endless, "MAX_REPEATS", 2_000)
    evil = Evil()
    said = said_by(verb, evil, nested(evil, 60, repeats=2))
    if verb in ("check", "prune", "copy", "find"):
        assert said == "", "each tree is looked at once, however many places it stands in"
    else:
        assert "without end" in said


@pytest.fixture(scope="module")
def deep() -> tuple[Evil, Snapshot]:
    evil = Evil()
    return evil, nested(evil, rounds(2_000, 10_000))


@pytest.mark.parametrize("verb", VERBS)
def test_thousands_of_levels(deep: tuple[Evil, Snapshot], verb: str) -> None:
    tracemalloc.start()
    try:
        assert said_by(verb, *deep) == ""
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("verb", ["ls", "find", "restore plan"])
def test_paths_that_no_system_takes(verb: str) -> None:
    evil = Evil()
    assert "nested" in said_by(verb, evil, nested(evil, 300, name="d" * 255))


def test_thousands_of_levels_are_restored_as_far_as_the_system_goes(
    deep: tuple[Evil, Snapshot], tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        stats = restored(SnapshotReader(deep[0].repo, deep[1]), tmp_path / "t")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert stats.problems or stats.restored_files == 1
    assert len(stats.problems) <= 2, "one lost directory is one problem, whatever is below it"
    posix.remove_tree(os.fsencode(tmp_path / "t"))  # deeper than pytest's own way of tidying up can go


def test_a_wide_directory() -> None:
    evil = Evil()
    empty = {"type": "file", "mode": 0o644, "content": []}
    snapshot = evil.snapshot(evil.tree(*({"name": f"{number:06}", **empty} for number in range(3_000))))
    for verb in VERBS:
        assert said_by(verb, evil, snapshot) == ""


def bomb(evil: Evil, count: int, size: int) -> Snapshot:
    blob = evil.data(b"bomb" * 250_000)
    return evil.snapshot(evil.tree(evil.file("bomb", size=size) | {"content": [blob] * count}))


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_of_one_blob_many_times_is_counted_and_not_made(verb: str) -> None:
    """Twenty gigabytes in a tree of one megabyte: the plan says how much it would be."""
    evil = Evil()
    snapshot = bomb(evil, 20_000, 20_000_000_000)
    assert said_by(verb, evil, snapshot) == ""
    with SnapshotReader(evil.repo, snapshot) as reader:
        assert plan_restore(reader).bytes == 20_000_000_000


def test_a_size_that_lies_leaves_no_file(tmp_path: Path) -> None:
    evil = Evil()
    snapshot = bomb(evil, 3, 1 << 60)
    stats = restored(SnapshotReader(evil.repo, snapshot), tmp_path / "t")
    assert [problem.path for problem in stats.problems] == ["bomb"]
    assert list((tmp_path / "t").iterdir()) == []
    assert "2,9" in said_by("check", evil, snapshot) or "says" in said_by("check", evil, snapshot)


@pytest.mark.parametrize("verb", VERBS)
def test_a_data_blob_for_a_tree(verb: str) -> None:
    evil = Evil()
    snapshot = evil.snapshot(evil.data(b'{"nodes":[]}\n'))
    assert "is in no index" in said_by(verb, evil, snapshot)


@pytest.mark.parametrize("verb", list(VERBS))
@pytest.mark.parametrize("tree", [b"", b"{}", b"[]", b"null", b'{"nodes":null}', b"\xff" * 100, b'{"nodes":[1]}'])
def test_trees_that_are_none(verb: str, tree: bytes) -> None:
    evil = Evil()
    inner = {"name": "d", "type": "dir", "mode": 1 << 31, "subtree": evil.raw_tree(tree)}
    snapshot = evil.snapshot(evil.tree(inner))
    assert "tree" in said_by(verb, evil, snapshot)


@pytest.mark.parametrize("verb", ["ls", "find", "restore plan", "check"])
def test_two_entries_of_one_name(verb: str) -> None:
    evil = Evil()
    snapshot = evil.snapshot(evil.tree(evil.directory("d", evil.link("a", "/"), evil.file("a"))))
    assert said_by(verb, evil, snapshot)


def planted(evil: Evil, kind: str, plain: bytes, stored: bytes, plain_length: int) -> tuple[Snapshot, str]:
    """A pack as a hostile writer would make it, indexed, and a snapshot that needs its blob."""
    repo = evil.repo
    sealed = seal(repo.keys, stored)
    blob_id = hashlib.sha256(plain).digest()
    blob = PackedBlob("tree" if kind == "tree" else "data", blob_id, 0, len(sealed), plain_length)
    pack = sealed + encode_trailer(seal(repo.keys, encode_header([blob])))
    pack_id = hashlib.sha256(pack).digest()
    repo.store.put(pack_name(pack_id), pack)
    repo.save_index([(pack_id, [blob])])
    if kind == "tree":
        return evil.snapshot(blob_id.hex()), pack_name(pack_id)
    node = evil.file("f", size=len(plain)) | {"content": [blob_id.hex()]}
    return evil.snapshot(evil.tree(node)), pack_name(pack_id)


@pytest.mark.parametrize("kind", ["data", "tree"])
@pytest.mark.parametrize("plain_length", [1, 1000, (1 << 32) - 1])
def test_blobs_that_lie_about_their_length(tmp_path: Path, kind: str, plain_length: int) -> None:
    """300 MB of zeros in 30 KB, behind a length that is too small, or as large as can be said."""
    evil = Evil()
    plain = b'{"nodes":[]}\n' if kind == "tree" else b"\0" * 100
    snapshot, pack = planted(evil, kind, plain, compress(bytes(300_000_000)), plain_length)
    said = said_by("check", evil, snapshot)
    assert pack in said
    evil.repo.reset_index()
    tracemalloc.start()
    try:
        stats = restored(SnapshotReader(evil.repo, snapshot), tmp_path / "t")
        assert [problem.path for problem in stats.problems] == ["f"]
    except DamageError as error:
        assert kind == "tree" and pack in error.message
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MEMORY_BYTES or (plain_length > 1 << 30 and kind == "tree")  # up to the limit for trees
    assert not list((tmp_path / "t").iterdir())


@pytest.mark.parametrize(
    "offset_length", [(0, 1 << 31), ((1 << 32) - 1, 32), (0, 32), (0, 33), (5, 100)], ids=lambda pair: f"{pair}"
)
def test_an_index_that_points_nowhere(tmp_path: Path, offset_length: tuple[int, int]) -> None:
    evil = Evil()
    snapshot = evil.snapshot(evil.tree(evil.file("f") | {"content": ["ab" * 32]}))
    offset, length = offset_length
    evil.repo.save_index([(b"\7" * 32, [PackedBlob("data", b"\xab" * 32, offset, length, 0)])])
    evil.repo.store.put(pack_name(b"\7" * 32), b"x" * 200)
    evil.repo.reset_index()
    stats = restored(SnapshotReader(evil.repo, snapshot), tmp_path / "t")
    assert [problem.path for problem in stats.problems] == ["f"]
    assert said_by("check", evil, snapshot)


def test_a_diff_of_two_endless_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endless, "MAX_REPEATS", 2_000)
    evil = Evil()
    first, second = nested(evil, 60, repeats=2), nested(evil, 59, repeats=2, name="e")
    with pytest.raises(DamageError):
        for _ in islice(SnapshotDiff(evil.repo, first, second), 1_000_000):
            pass
