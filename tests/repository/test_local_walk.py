"""Walking a tree of this machine: the same trees as entry by entry, old trees read once, attributes known by ctime."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from backupctl.clock import FakeClock
from backupctl.hosts import posix
from backupctl.hosts.local import LocalHost
from backupctl.repository import local_walk, small_file, tree_runs
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import iterate_tree
from backupctl.repository.manifest import ManifestReader, read_manifest
from backupctl.repository.old_tree import Old, content_ids
from backupctl.repository.repository import Repository, pack_name
from backupctl.repository.writer import SnapshotWriter
from backupctl.repository.written import WrittenSnapshot
from backupctl.sources.files import FilesOptions, FilesSource
from tests.repository.helpers import NOW, new_repository

HOUR_NS = 3_600_000_000_000
Parent = tuple[Snapshot, ManifestReader]


@pytest.fixture(autouse=True)
def an_hour_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """In threads, whose clock stands an hour from now: files made a moment ago are not fresh."""
    monkeypatch.setenv("BACKUPCTL_WORKERS", "0")
    real = time.time_ns
    monkeypatch.setattr(small_file.time, "time_ns", lambda: real() + HOUR_NS)


def backup(
    repository: Repository, path: Path, *, parent: Parent | None = None, walk: bool = True
) -> tuple[WrittenSnapshot, Parent]:
    previous, manifest = parent or (None, None)
    with (
        SnapshotWriter(repository, parent=previous, parent_manifest=manifest) as writer,
        FilesSource("files", FilesOptions(paths=[str(path)])).open(LocalHost(), FakeClock(NOW)) as session,
    ):
        assert writer.add_source("files", session.trees() if walk else session.entries()) == []
        written = writer.finish()
    return written, (Snapshot(NOW, written.tree, ["/files"]), read_manifest(repository, written.manifest))


def kept(repository: Repository, written: WrittenSnapshot, path: Path) -> bytes:
    """The tree of `path` itself: those above it have the times of directories that other programs work in."""
    found = written.tree
    for name in ("files", *path.parts[1:]):
        nodes = iterate_tree(repository.load_blob("tree", found))
        found = next(node.subtree for node in nodes if node.name == name.encode() and node.subtree)
    return found


def trees_below(repository: Repository, tree: bytes) -> set[bytes]:
    subtrees = {node.subtree for node in iterate_tree(repository.load_blob("tree", tree)) if node.subtree}
    return subtrees.union(*(trees_below(repository, subtree) for subtree in subtrees))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Twelve directories deep and wide, files with and without attributes, a name that JSON has to quote."""
    root = tmp_path / "tree"
    for number in range(12):
        inside = root / f"{number % 3}" / f"below {number}" / "inner"
        inside.mkdir(parents=True)
        for name in ("a", 'quo"te', "zoë"):
            (inside / name).write_bytes(b"%d" % number)
        os.setxattr(inside / 'quo"te', "user.note", b"x" * number)
        (inside / "link").symlink_to("a")
    return root


def test_a_walk_gives_the_trees_that_entries_give(tree: Path) -> None:
    repository = new_repository()
    other = new_repository()
    walked, parent = backup(repository, tree)
    listed, _ = backup(other, tree, walk=False)
    again, _ = backup(repository, tree, parent=parent)
    assert kept(repository, walked, tree) == kept(other, listed, tree) == kept(repository, again, tree)
    assert (again.stats.files_unmodified, again.stats.data_blobs) == (36, 0)


def test_old_trees_go_to_the_workers_sealed_and_each_stretch_of_them_is_read_once(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_runs, "RUN_BYTES", 500)  # two or three trees to a stretch
    monkeypatch.setattr(local_walk, "_TREES_BYTES", 1000)  # two stretches to a task
    whole = local_walk.LocalWalk._task
    monkeypatch.setattr(local_walk.LocalWalk, "_task", lambda self, most: whole(self, 8)._replace(entries=12))
    repository = new_repository()
    first, parent = backup(repository, tree)
    inner = trees_below(repository, kept(repository, first, tree))
    assert len(inner) > 26
    stretches: list[tuple[bytes, int, int]] = []
    read = repository.read_sealed
    monkeypatch.setattr(repository, "read_sealed", lambda *where: (stretches.append(where), read(*where))[1])
    opened: list[bytes] = []
    load = repository.load_blob
    monkeypatch.setattr(repository, "load_blob", lambda kind, blob_id: (opened.append(blob_id), load(kind, blob_id))[1])
    again, _ = backup(repository, tree, parent=parent)
    assert not inner & set(opened), "only the way down to the root of the walk is opened here"
    assert kept(repository, again, tree) == kept(repository, first, tree)
    assert again.stats.files_unmodified == 36
    assert len(stretches) > 10
    assert len(stretches) == len(set(stretches)), "a piece that was cut off needs its tree again"


def test_a_sealed_old_tree_that_is_damaged_is_looked_for_with_care(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = new_repository()
    first, parent = backup(repository, tree)
    read = repository.read_sealed
    monkeypatch.setattr(repository, "read_sealed", lambda *where: bytes(len(read(*where))))
    again, _ = backup(repository, tree, parent=parent)
    assert kept(repository, again, tree) == kept(repository, first, tree)
    assert (again.stats.files_unmodified, again.stats.data_blobs) == (36, 0), "the store itself had it whole"


def test_old_trees_that_are_too_long_to_go_with_others_are_opened_here(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = new_repository()
    first, parent = backup(repository, tree)
    monkeypatch.setattr(tree_runs, "_MOST_BYTES", 100)
    again, _ = backup(repository, tree, parent=parent)
    assert kept(repository, again, tree) == kept(repository, first, tree)
    assert again.stats.files_unmodified == 36


def test_an_old_tree_that_no_pack_holds_any_more_costs_reading(tree: Path) -> None:
    repository = new_repository()
    _, parent = backup(repository, tree)
    (lost,) = {place.pack for place in repository.index if place.blob.kind == "tree"}
    repository.store.delete(pack_name(lost))
    again = Repository.open(repository.store, "secret", clock=repository.clock)
    notes: list[str] = []
    with (
        SnapshotWriter(again, parent=parent[0], parent_manifest=parent[1]) as writer,
        FilesSource("files", FilesOptions(paths=[str(tree)])).open(LocalHost(), FakeClock(NOW)) as session,
    ):
        assert writer.add_source("files", session.trees()) == []
        written = writer.finish()
        notes += writer.notes
    assert written.stats.files_unmodified == 0
    assert any("the parent snapshot is damaged there" in note for note in notes)
    assert {node.name for node in iterate_tree(again.load_blob("tree", kept(again, written, tree)))} == {
        b"0",
        b"1",
        b"2",
    }


def test_attributes_of_an_unchanged_file_are_taken_over_unread(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = new_repository()
    first, parent = backup(repository, tree)
    looked: list[bytes] = []
    read = posix.read_xattrs
    monkeypatch.setattr(posix, "read_xattrs", lambda directory, name: (looked.append(name), read(directory, name))[1])
    unchanged, _ = backup(repository, tree, parent=parent)
    assert kept(repository, unchanged, tree) == kept(repository, first, tree)
    assert unchanged.stats.files_unmodified == 36
    assert not {b"a", b'quo"te'} & set(looked)


@pytest.mark.parametrize("change", ["set", "other", "removed", "first"])
def test_a_changed_attribute_is_stored(tree: Path, change: str) -> None:
    repository, other = new_repository(), new_repository()
    first, parent = backup(repository, tree)
    path = tree / "0" / "below 3" / "inner" / ("a" if change == "first" else 'quo"te')
    if change == "removed":
        os.removexattr(path, "user.note")
    else:
        os.setxattr(path, "user.other" if change == "other" else "user.note", b"new")
    written, _ = backup(repository, tree, parent=parent)
    listed, _ = backup(other, tree, walk=False)
    assert kept(repository, written, tree) == kept(other, listed, tree) != kept(repository, first, tree)
    assert (written.stats.files_changed, written.stats.files_unmodified) == (1, 35)


def test_an_old_node_is_cut_out_whatever_its_attributes_are() -> None:
    tricky = '"extended_attributes":[{"name":"user.],\\"content\\":[\\"x\\"]}","value":"eA=="}],'
    nodes = [f'{{"name":"a","type":"file",{tricky}"content":["11"]}}', '{"name":"b","type":"file","content":["22"]}']
    old = Old('{"nodes":[' + ",".join(nodes) + "]}\n")
    starts = ['{"name":"a","type":"file",', '{"name":"b","type":"file",']
    assert [old.find_file(name, start) for name, start in zip("ab", starts, strict=True)] == nodes
    assert [content_ids(node, start) for node, start in zip(nodes, starts, strict=True)] == ['"11"', '"22"']
    assert content_ids(nodes[0], '{"name":"a","type":"file","mode":420,') is None
    assert old.find_file("a", '{"name":"a","type":"file","mode":420,') == nodes[0]
