"""A directory that follows snapshots: whatever is killed at whatever operation, the next update makes it right."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import FileInfo, FileWriter, Placer
from backupctl.repository.entry import Entry
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.mirror import MirrorPlan, MirrorState, apply_mirror, plan_mirror
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from tests.repository.helpers import backup, directory, file, new_repository, other
from tests.soak import rounds

OWN = {"uid": os.geteuid(), "gid": os.getegid()}
SECOND = 1_000_000_000
MTIMES = (1_700_000_000 * SECOND, 1_700_000_001 * SECOND + 5)
NAMES = (b"a", b"a.b", b"b", b"\xff")


@dataclass(frozen=True)
class Thing:
    kind: str
    content: bytes = b""
    mtime_ns: int = MTIMES[0]
    mode: int = 0o644
    inode: int = 0  # with others of the same: hard links

    def seen(self) -> tuple[object, ...]:
        return self.kind, self.content, self.mtime_ns, 0o777 if self.kind == "symlink" else self.mode


Tree = dict[bytes, Thing]


def draw(dice: random.Random, before: Tree) -> Tree:
    """Half of what was there, changed a little, and something new. Sizes and times meet again on purpose."""
    tree: Tree = {}
    inode = 100

    def fill(where: bytes, depth: int) -> None:
        nonlocal inode
        for name in NAMES:
            path = where + name
            old = before.get(path)
            if old is not None and dice.random() < 0.5:
                thing = old if dice.random() < 0.6 else replace(old, mode=dice.choice((0o600, 0o644, 0o755)))
            elif dice.random() < 0.35:
                continue
            else:
                kind = dice.choice(("file", "file", "file", "dir", "dir", "symlink", "fifo"))
                content = dice.choice((b"", b"one", b"two", b"six", b"x" * 5000)) if kind == "file" else b""
                content = dice.choice((b"there", b"elsewhere")) if kind == "symlink" else content
                thing = Thing(kind, content, dice.choice((MTIMES[0], *MTIMES)), dice.choice((0o644, 0o755)))
            if thing.kind == "dir" and depth == 3:
                continue
            tree[path] = replace(thing, inode=0)
            if thing.kind == "dir":
                fill(path + b"/", depth + 1)

    fill(b"", 0)
    files = sorted(path for path, thing in tree.items() if thing.kind == "file")
    if len(files) > 2 and dice.random() < 0.6:
        inode += 1
        linked = dice.sample(files, 2)
        for path in linked:
            tree[path] = replace(tree[linked[0]], inode=inode)
    return tree


def entries(tree: Tree) -> Iterator[Entry]:
    numbers = {one.inode: sum(other.inode == one.inode for other in tree.values()) for one in tree.values()}
    for number, path in enumerate(sorted(tree, key=lambda path: path.split(b"/"))):
        thing = tree[path]
        values = {"mode": thing.mode, "mtime_ns": thing.mtime_ns, **OWN}
        if thing.kind == "dir":
            yield replace_node(directory(path), values)
        elif thing.kind == "file":
            links = numbers[thing.inode] if thing.inode else 1
            yield file(path, thing.content, inode=thing.inode or 1000 + number, links=links, device_id=1, **values)
        else:
            yield replace_node(other(path, thing.kind, linktarget=thing.content), values)


def replace_node(entry: Entry, values: dict[str, int]) -> Entry:
    entry.node = replace(entry.node, **values)  # type: ignore[arg-type]  # node fields by name
    return entry


class Killed(BaseException):
    pass


class Cut:
    """A placer that dies at an operation, in the middle of a write too, and does nothing any more."""

    def __init__(self, inner: Placer, left: int) -> None:
        self.inner, self.left = inner, left

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def directory(self, path: bytes) -> None:
        self.step()
        self.inner.directory(path)

    def file(self, path: bytes, size: int) -> FileWriter:
        self.step()
        return CutWriter(self, self.inner.file(path, size))

    def symlink(self, path: bytes, target: bytes) -> None:
        self.step()
        self.inner.symlink(path, target)

    def hardlink(self, path: bytes, existing: bytes) -> None:
        self.step()
        self.inner.hardlink(path, existing)

    def remove(self, path: bytes) -> None:
        self.step()
        self.inner.remove(path)

    def special(self, path: bytes, info: FileInfo) -> None:
        self.step()
        self.inner.special(path, info)

    def metadata(self, path: bytes, info: FileInfo) -> None:
        self.step()
        self.inner.metadata(path, info)

    def flush(self) -> list[str]:
        self.step()
        return self.inner.flush()


class CutWriter:
    def __init__(self, placer: Cut, inner: FileWriter) -> None:
        self.placer, self.inner = placer, inner

    def write_at(self, offset: int, data: bytes) -> None:
        try:
            self.placer.step()
        except Killed:
            self.inner.write_at(offset, data[: len(data) // 2])
            self.inner.close()
            raise
        self.inner.write_at(offset, data)

    def close(self) -> None:
        self.inner.close()
        self.placer.step()

    def discard(self) -> None:
        self.placer.step()
        self.inner.discard()


class Follower:
    """A directory and what is known of it, as it is kept between two processes."""

    def __init__(self, repo: Repository, root: Path) -> None:
        self.repo, self.root, self.host = repo, root, LocalHost()
        self.state = MirrorState()

    def scan(self) -> Iterator[FileInfo]:
        root = os.fsencode(self.root)
        for info in self.host.scan(root):
            if info.path != root:
                yield replace(info, path=info.path[len(root) + 1 :])

    def update(self, snapshot: Snapshot, *, operations: int = 1 << 30, distrust: int | None = None) -> MirrorPlan:
        olds = [SnapshotReader(self.repo, self.repo.load_snapshot(one)) for one in self.state.snapshots]
        with SnapshotReader(self.repo, snapshot) as reader:
            plan = plan_mirror(reader, b"s", self.scan(), olds, distrust_from_ns=distrust)
            self.state = self.state.begun(snapshot.id)
            with self.host.placer(os.fsencode(self.root)) as placer:
                stats = apply_mirror(reader, b"s", Cut(placer, operations), plan)
        assert not stats.problems, stats.problems
        self.state = MirrorState.ended(snapshot.id)
        return plan

    def require(self, tree: Tree) -> None:
        found, inodes = {}, {}
        for info in self.scan():
            path = self.root / os.fsdecode(info.path)
            content = path.read_bytes() if info.kind == "file" else info.linktarget
            found[info.path] = (info.kind, content, info.mtime_ns, info.mode)
            if info.kind == "file":
                inodes[info.path] = info.inode
        assert found == {path: thing.seen() for path, thing in tree.items()}
        for path, inode in inodes.items():
            linked = {one for one, thing in tree.items() if thing.inode and thing.inode == tree[path].inode} or {path}
            assert {one for one, number in inodes.items() if number == inode} == linked


def stored(repo: Repository, tree: Tree) -> Snapshot:
    return backup(repo, {"s": entries(tree)})[2][0]


@pytest.mark.parametrize("seed", range(rounds(12, 400)))
def test_trees_and_kills_drawn_at_random(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    repo = new_repository()
    follower = Follower(repo, tmp_path)
    tree: Tree = {}
    for _ in range(5):
        tree = draw(dice, tree)
        snapshot = stored(repo, tree)
        while dice.random() < 0.6:
            try:
                follower.update(snapshot, operations=dice.randrange(40))
            except Killed:
                assert not follower.state.whole
            if dice.random() < 0.5:
                tree = draw(dice, tree)
                snapshot = stored(repo, tree)
        follower.update(snapshot)
        follower.require(tree)
        assert follower.update(snapshot).nothing


def test_killed_at_every_operation(tmp_path: Path) -> None:
    dice = random.Random(7)
    repo = new_repository()
    trees = [draw(dice, {})]
    trees += [draw(dice, trees[0])]
    trees += [draw(dice, trees[1])]
    snapshots = [stored(repo, tree) for tree in trees]
    for operations in range(10_000):
        root = tmp_path / str(operations)
        root.mkdir()
        follower = Follower(repo, root)
        follower.update(snapshots[0])
        try:
            follower.update(snapshots[1], operations=operations)
        except Killed:
            follower.update(snapshots[2])
            follower.require(trees[2])
        else:
            assert operations > 10
            return


@pytest.mark.parametrize("then", [0, 1, 2])
def test_neither_size_nor_time_tells_what_a_killed_update_left(tmp_path: Path, then: int) -> None:
    repo = new_repository()
    trees: list[Tree] = [{b"f": Thing("file", word), b"g": Thing("file", word)} for word in (b"one", b"two", b"six")]
    snapshots = [stored(repo, tree) for tree in trees]
    for operations in range(20):
        root = tmp_path / str(operations)
        root.mkdir()
        follower = Follower(repo, root)
        follower.update(snapshots[0])
        for snapshot in snapshots[1:]:
            with suppress(Killed):
                follower.update(snapshot, operations=operations)
        follower.update(snapshots[then])
        follower.require(trees[then])


def test_only_what_differs_is_fetched(tmp_path: Path) -> None:
    repo = new_repository()
    follower = Follower(repo, tmp_path)
    tree: Tree = {b"d": Thing("dir", mode=0o755), b"d/big": Thing("file", b"b" * 9000), b"f": Thing("file", b"one")}
    first = follower.update(stored(repo, tree))
    assert (first.files, first.bytes, first.kept_files) == (2, 9003, 0)
    tree[b"f"] = Thing("file", b"two")  # the same size, the same time: only the snapshots know
    tree[b"d/big"] = replace(tree[b"d/big"], mode=0o600)
    second = follower.update(stored(repo, tree))
    assert (second.files, second.bytes, second.kept_files) == (1, 3, 1)
    follower.require(tree)
    (tmp_path / "d" / "stranger").mkdir()
    (tmp_path / "d" / "stranger" / "file").write_bytes(b"left by hand")
    os.utime(tmp_path / "d" / "big")
    third = follower.update(stored(repo, tree))
    assert (third.remove, third.files, third.bytes) == ([b"d/stranger"], 1, 9000)
    follower.require(tree)


def test_links_lead_nowhere_and_closed_directories_are_opened(tmp_path: Path) -> None:
    repo = new_repository()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"stays")
    root = tmp_path / "root"
    root.mkdir()
    follower = Follower(repo, root)
    tree: Tree = {b"d": Thing("dir", mode=0o555), b"d/f": Thing("file", b"one")}
    follower.update(stored(repo, tree))
    (root / "d").chmod(0o755)
    (root / "d" / "f").unlink()
    (root / "d").rmdir()
    (root / "d").symlink_to(outside)
    follower.update(stored(repo, tree))
    follower.require(tree)
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o555
    del tree[b"d/f"]
    follower.update(stored(repo, tree))
    follower.require(tree)
    assert (outside / "precious").read_bytes() == b"stays"


def test_what_may_not_have_reached_the_disk_is_fetched_again(tmp_path: Path) -> None:
    repo = new_repository()
    follower = Follower(repo, tmp_path)
    tree: Tree = {b"f": Thing("file", b"one"), b"g": Thing("file", b"two")}
    snapshot = stored(repo, tree)
    follower.update(snapshot)
    begun = min(one.ctime_ns for one in follower.scan())
    assert follower.update(snapshot, distrust=begun).files == 2
    assert follower.update(snapshot, distrust=None).files == 0
