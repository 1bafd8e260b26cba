"""One source in several parts: joined, they are the tree that one writer makes, whoever changed what meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupctl.clock import FakeClock
from backupctl.errors import DamageError
from backupctl.hosts import posix
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import FileInfo
from backupctl.repository import small_file
from backupctl.repository.entry import Entry
from backupctl.repository.format.node import Node
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import iterate_tree
from backupctl.repository.manifest import ManifestReader, read_manifest
from backupctl.repository.prune import PruneLimits, apply_prune, plan_prune
from backupctl.repository.repository import Repository
from backupctl.repository.stretches import (
    EACH,
    LEAST,
    Weight,
    load_stretch,
    pattern_of,
    plan_stretches,
    save_stretch,
    weigh_scan,
)
from backupctl.repository.writer import SnapshotWriter
from backupctl.repository.written import WrittenSnapshot
from backupctl.sources.files import FilesOptions, FilesSession, FilesSource
from tests.repository.helpers import NOW, OLD_NS, new_repository

HOUR_NS = 3_600_000_000_000
Parent = tuple[Snapshot, ManifestReader]


@pytest.fixture(autouse=True)
def an_hour_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """In threads, whose clock stands an hour from now: files made a moment ago are not fresh."""
    monkeypatch.setenv("BACKUPCTL_WORKERS", "0")
    real = time.time_ns
    monkeypatch.setattr(small_file.time, "time_ns", lambda: real() + HOUR_NS)


@pytest.fixture(autouse=True)
def calm_above(monkeypatch: pytest.MonkeyPatch) -> None:
    """The directories above, in which other tests work meanwhile, stay the same."""

    def parent(self: FilesSession, path: bytes) -> Iterator[Entry]:
        yield Entry(path, Node(path.rpartition(b"/")[2], "dir", 0o711, OLD_NS, ctime_ns=OLD_NS))

    monkeypatch.setattr(FilesSession, "_parent", parent)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Directories of several depths, names with wildcards in them, a file with links in three of them, a large file."""
    root = tmp_path / "tree"
    for one in ("a/x", "a/y/deep", "a/[z]*", "b", "c/only"):
        (root / one).mkdir(parents=True)
        for number in range(3):
            (root / one / f"{number}").write_bytes(f"{one} {number}".encode() * 99)
    (root / "loose").write_bytes(b"beside the directories")
    (root / "a" / "film").write_bytes(os.urandom(3 << 20))
    os.link(root / "b" / "0", root / "a" / "x" / "link")
    os.link(root / "b" / "0", root / "c" / "only" / "link")
    return root


class Site:
    """One source, read by one writer or by several that share nothing but the store."""

    def __init__(self, store_of: Repository, path: Path, *, walk: bool = True, exclude: tuple[str, ...] = ()) -> None:
        self.repository, self.path, self.walk = store_of, path, walk
        self.source = FilesSource("files", FilesOptions(paths=[str(path)], exclude=list(exclude)))
        if not walk:
            self.host: LocalHost = type("Elsewhere", (LocalHost,), {})("far")  # scanned, as any other host
        else:
            self.host = LocalHost()

    def whole(self, parent: Parent | None = None) -> tuple[WrittenSnapshot, Parent]:
        with self.writer(parent) as writer, self.source.open(self.host, FakeClock(NOW)) as session:
            assert writer.add_source("files", session.trees()) == []
            return self.finish(writer)

    def finish(self, writer: SnapshotWriter) -> tuple[WrittenSnapshot, Parent]:
        written = writer.finish()
        return written, (Snapshot(NOW, written.tree, ["/files"]), read_manifest(self.repository, written.manifest))

    def writer(
        self, parent: Parent | None, *, part: bool = False, repository: Repository | None = None
    ) -> SnapshotWriter:
        previous, manifest = parent or (None, None)
        later = FakeClock(datetime.now(UTC) + timedelta(hours=1))
        return SnapshotWriter(
            repository or self.repository, parent=previous, parent_manifest=manifest, part=part, clock=later
        )

    def stretch(self, directories: list[bytes], parent: Parent | None = None) -> str:
        other = Repository(self.repository.store, self.repository.keys, self.repository.config, clock=FakeClock(NOW))
        with (
            self.writer(parent, part=True, repository=other) as writer,
            self.source.open(self.host, FakeClock(NOW)) as session,
        ):
            writer.add_source("files", session.stretch(directories))
            written = writer.finish()
            return save_stretch(other, written, writer.looks["files"], writer.problems, writer.notes, session.met())

    def divided(self, directories: list[bytes], parent: Parent | None = None) -> tuple[WrittenSnapshot, Parent]:
        half = len(directories) // 2 or 1
        with self.writer(parent) as writer, self.source.open(self.host, FakeClock(NOW)) as session:
            self.problems = list(writer.add_source("files", session.trees(directories), divided=True))
            records = [self.stretch(part, parent) for part in (directories[:half], directories[half:])]
            found = [load_stretch(self.repository, record) for record in records]
            self.problems += writer.add_stretches(directories, found)
            for one in found:
                session.seen(one.kinds, one.seen_bytes)
            self.fingerprint = session.fingerprint()
            return self.finish(writer)

    def inside(self, *names: str) -> list[bytes]:
        return [os.fsencode(self.path / name) for name in names]


def same(one: WrittenSnapshot, other: WrittenSnapshot) -> None:
    """All but what two writers of one new blob store twice."""
    assert one.tree == other.tree
    assert one.sources == other.sources
    counts = [asdict(written.stats) for written in (one, other)]
    for name in ("data_added", "data_added_packed", "data_blobs", "tree_blobs"):
        for each in counts:
            del each[name]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("walk", [True, False])
def test_stretches_joined_are_the_tree_of_one_writer(tree: Path, walk: bool) -> None:
    repository = new_repository()
    site = Site(repository, tree, walk=walk)
    whole, parent = site.whole()
    directories = site.inside("a/x", "a/[z]*", "c/only", "b")
    divided, again = site.divided(directories)
    assert site.problems == []
    same(divided, whole)
    assert list(again[1]) == list(parent[1]), "every file's facts, its whole hash among them"
    with site.source.open(site.host, FakeClock(NOW)) as session:
        list(session.entries())
        assert session.fingerprint() == site.fingerprint


@pytest.mark.parametrize("walk", [True, False])
def test_only_what_changed_is_read_and_counted_as_one_writer_counts(tree: Path, walk: bool) -> None:
    repository = new_repository()
    site = Site(repository, tree, walk=walk)
    _, parent = site.whole()
    (tree / "a" / "x" / "1").write_bytes(b"other words")
    (tree / "b" / "new").mkdir()
    divided, _ = site.divided(site.inside("a/x", "a/y", "b", "c/only"), parent)
    whole, _ = site.whole(parent)
    same(divided, whole)
    assert (divided.stats.files_changed, divided.stats.files_unmodified, divided.stats.data_blobs) == (1, 18, 1)
    assert divided.stats.dirs_unmodified == whole.stats.dirs_unmodified > 0


@pytest.mark.parametrize("walk", [True, False])
def test_a_planned_directory_may_be_gone_excluded_a_link_or_below_one(tree: Path, tmp_path: Path, walk: bool) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "secret").write_bytes(b"not asked for")
    for name in ("a/y/deep", "b"):
        for one in (tree / name).iterdir():
            one.unlink()
        (tree / name).rmdir()
    (tree / "a" / "y").rmdir()
    (tree / "a" / "y").symlink_to(outside)
    (tree / "b").symlink_to(outside / "deep")
    site = Site(new_repository(), tree, walk=walk, exclude=("only",))
    divided, _ = site.divided(site.inside("a/y/deep", "a/x", "a/gone", "b", "c/only", "never/there"))
    assert site.problems == []
    same(divided, site.whole()[0])


@pytest.mark.parametrize("walk", [True, False])
def test_a_planned_directory_that_cannot_be_looked_at_is_a_problem(
    tree: Path, monkeypatch: pytest.MonkeyPatch, walk: bool
) -> None:
    """Left out of the rest, it would be missing without a word."""
    look = posix.look

    def denied(directory: int, name: bytes, path: bytes) -> posix.Record:
        if path.endswith((b"/tree/b", b"/tree/a")):
            raise PermissionError(13, "Permission denied")
        return look(directory, name, path)

    site = Site(new_repository(), tree, walk=walk)
    monkeypatch.setattr(posix, "look", denied)
    with site.writer(None, part=True) as writer, site.source.open(site.host, FakeClock(NOW)) as session:
        problems = writer.add_source("files", session.stretch(site.inside("a/x", "b", "c/only")))
    assert {(one.kind, one.message) for one in problems} == {("unreadable", "Permission denied")}
    assert len(problems) == 2


def test_file_systems_below_have_the_same_numbers_whoever_reads_them(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inodes of two file systems are the same: with one number for both, a restore would link what is not linked."""
    look = posix.look

    def mounted(directory: int, name: bytes, path: bytes) -> posix.Record:
        found = look(directory, name, path)
        return found._replace(device_id=found.device_id + (b"/tree/a/y" in path) + 2 * (b"/tree/b" in path))

    monkeypatch.setattr(posix, "look", mounted)
    for name in ("a/x", "a/y/deep", "b"):
        os.link(tree / name / "2", tree / name / "2 too")
    site = Site(new_repository(), tree, walk=False)
    whole, _ = site.whole()
    for directories in (["a/x", "a/y"], ["a/y/deep", "b", "c/only"], ["b", "a"]):
        divided, _ = site.divided(site.inside(*directories))
        same(divided, whole)


def test_a_file_that_changed_while_it_was_read_is_told_whoever_reads_it(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = {(tree / name).stat().st_ino for name in ("a/x/1", "a/y/deep/2")}
    monkeypatch.setattr(small_file.posix, "differs", lambda status, descriptor: status.st_ino in moving)
    site = Site(new_repository(), tree)
    site.divided(site.inside("a/x", "b"))
    found = sorted((one.source, one.path, one.kind) for one in site.problems)
    here = str(tree).lstrip("/")
    assert found == [("files", f"{here}/a/x/1", "changed"), ("files", f"{here}/a/y/deep/2", "changed")]


def test_a_stretch_whose_trees_are_in_no_index_is_refused(tree: Path) -> None:
    repository = new_repository()
    site = Site(repository, tree)
    record = site.stretch(site.inside("a/x"))
    for info in list(repository.store.list("index/")):
        repository.store.delete(info.name)
    with pytest.raises(DamageError, match="in no index"):
        load_stretch(repository, record)


def test_prune_removes_what_nobody_joined(tree: Path) -> None:
    repository = new_repository()
    site = Site(repository, tree)
    record = site.stretch(site.inside("a/x"))
    repository.reset_index()
    plan = plan_prune(repository, PruneLimits())
    assert f"backupctl/stretch/{record}" in plan.orphan_records
    with repository.lock(exclusive=True):
        apply_prune(repository, plan)
    assert [info.name for info in repository.store.list("data/")] == []


@pytest.mark.parametrize("from_tree", [True, False])
def test_a_plan_takes_what_is_heavy_apart_and_puts_what_is_light_together(tree: Path, from_tree: bool) -> None:
    repository = new_repository()
    site = Site(repository, tree)
    written, _ = site.whole()
    source = next(iterate_tree(repository.load_blob("tree", written.tree))).subtree if from_tree else None
    with site.source.open(site.host, FakeClock(NOW)) as session:
        weights = session.weights(lambda one: repository.load_blob("tree", one), source, least=EACH)
    assert weights == [weigh_scan(site.host.scan(os.fsencode(tree)), least=EACH)]
    assert weights[0].total > 16 * EACH + (3 << 20)
    plan = plan_stretches(weights, 2, least=2 * EACH)
    cut = sorted(directory for stretch in plan for directory in stretch)
    assert cut == site.inside("a/[z]*", "a/x", "a/y", "b", "c"), "the film beside them makes `a` too heavy"
    assert plan_stretches(weights, 2, least=LEAST) == [], "too little to divide"
    assert pattern_of(b"/a/[z]*") == "/a/[[]z][*]"


def test_a_plan_has_the_same_number_of_stretches_for_each_writer_heaviest_first() -> None:
    small = [Weight(b"/srv/%d" % number, 10) for number in range(80)]
    big = Weight(b"/srv/big", 300)  # of files alone
    plan = plan_stretches([Weight(b"/srv", 1150, [*small, big])], 2, least=1)
    assert plan[0] == [b"/srv/big"]
    assert [len(stretch) for stretch in plan[1:]] == [14, 14, 14, 14, 14, 10]
    even = [Weight(b"/srv", 800, small)]
    assert [len(stretch) for stretch in plan_stretches(even, 4, least=90)] == [10] * 8
    assert [len(stretch) for stretch in plan_stretches(even, 4, least=150)] == [20] * 4
    assert [len(stretch) for stretch in plan_stretches(even, 4, least=390)] == [39, 39, 2]


def test_names_that_are_no_text_stay_in_the_rest() -> None:
    infos = [FileInfo(b"/s", "dir"), FileInfo(b"/s/\xff", "dir"), FileInfo(b"/s/\xff/f", "file", size=9 * EACH)]
    weight = weigh_scan(iter(infos), least=1)
    assert weight is not None
    assert weight.total == 10 * EACH
    assert plan_stretches([weight], 4, least=1) == []
