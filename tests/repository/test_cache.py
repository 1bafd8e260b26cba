"""The cache saves requests, and whatever happens to it changes no result."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from backupctl.clock import FakeClock
from backupctl.errors import DamageError
from backupctl.repository.cache import Cache, CachePlace
from backupctl.repository.memory_index import MemoryIndex
from backupctl.repository.prune import apply_prune, plan_prune
from backupctl.repository.repository import Repository, pack_name
from backupctl.storage.memory import MemoryStore
from tests.repository.engine import NOW, PASSWORD, backup, content, create, damage, objects, restore


class CountingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.gets: Counter[str] = Counter()

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        self.gets[name.partition("/")[0]] += 1
        return super().get(name, offset=offset, length=length)


@pytest.fixture
def store() -> CountingStore:
    """A repository with six index files."""
    store = CountingStore()
    repository = create(store)
    for day in range(6):
        backup(repository, {"a": content("a", 9000), "b": content(day, 9000)}, day=day)
    return store


@pytest.fixture
def place(tmp_path: Path) -> CachePlace:
    return CachePlace(tmp_path / "deep" / "cache")


def reopen(store: MemoryStore, place: CachePlace | None) -> Repository:
    return Repository.open(store, PASSWORD, clock=FakeClock(NOW), cache=place)


def contents(index: MemoryIndex) -> set[object]:
    return {(one.pack, one.blob) for one in index}


def files(place: CachePlace, kind: str = "index") -> list[Path]:
    return sorted(place.directory.glob(f"*/{kind}/*"))


def test_a_second_opening_reads_no_index_file(store: CountingStore, place: CachePlace) -> None:
    plain = contents(reopen(store, None).index)
    assert store.gets["index"] == 6
    assert contents(reopen(store, place).index) == plain
    assert store.gets["index"] == 12
    assert contents(reopen(store, place).index) == plain
    assert store.gets["index"] == 12
    writer = reopen(store, place)
    backup(writer, {"new": content("new", 100)})
    again = reopen(store, place)
    assert contents(again.index) == contents(reopen(store, None).index) > plain
    assert store.gets["index"] == 12 + 1 + 7


def test_nobody_else_can_read_it_and_backups_leave_it_out(store: CountingStore, place: CachePlace) -> None:
    before = os.umask(0)
    try:
        reopen(store, place).index  # noqa: B018 — reading it is what fills the cache
    finally:
        os.umask(before)
    assert files(place)
    for path in (place.directory, *place.directory.rglob("*")):
        assert path.name == "CACHEDIR.TAG" or path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    assert (place.directory / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")


def spoil(path: Path, how: str, other: bytes) -> None:
    data = bytearray(path.read_bytes())
    if how == "empty":
        data.clear()
    elif how == "cut":
        del data[len(data) // 2 :]
    elif how == "longer":
        data += bytes(100)
    elif how == "another":
        data[:] = other
    else:
        data[{"first bit": 0, "middle bit": len(data) // 2, "last bit": -1, "trailer bit": -40}[how]] ^= 1
    path.write_bytes(bytes(data))


DAMAGE = ["empty", "cut", "longer", "another", "first bit", "middle bit", "last bit", "trailer bit"]


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_noticed_and_mended(
    store: CountingStore, place: CachePlace, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = contents(reopen(store, place).index)
    whole = {path: path.read_bytes() for path in files(place)}
    assert len(whole) > 6, "small segments were merged"
    paths = list(whole)
    for number, path in enumerate(paths):
        spoil(path, how, whole[paths[number - 1]])
    store.gets.clear()
    assert contents(reopen(store, place).index) == plain
    assert store.gets["index"] == 6
    assert "is not used and removed" in caplog.text
    caplog.clear()
    assert contents(reopen(store, place).index) == plain
    assert store.gets["index"] == 6 and not caplog.records, "it was made anew"


def test_a_cache_of_another_repository_is_foreign(store: CountingStore, place: CachePlace) -> None:
    """Its segments are well-formed and sealed, under another key."""
    other = create(CountingStore())
    backup(other, {"x": b"x"})
    mine, theirs = reopen(store, place), reopen(other.store, place)
    plain = contents(mine.index)
    assert contents(theirs.index)
    assert len(list(place.directory.glob("*/"))) == 2
    for path in files(place):
        if path.parent.parent.name == mine.id:
            path.write_bytes(next((place.directory / theirs.id / "index").iterdir()).read_bytes())
    assert contents(reopen(store, place).index) == plain
    shutil.rmtree(place.directory / mine.id)
    (place.directory / theirs.id).rename(place.directory / mine.id)
    assert contents(reopen(store, place).index) == plain


def test_a_segment_of_ours_under_another_name_is_foreign(store: CountingStore, place: CachePlace) -> None:
    plain = contents(reopen(store, place).index)
    single = [path for path in files(place) if path.name in reopen(store, None).list_ids("index/")]
    for path in files(place):
        if path not in single:
            path.unlink()
    data = [path.read_bytes() for path in single]
    for number, path in enumerate(single):
        path.write_bytes(data[number - 1])
    assert contents(reopen(store, place).index) == plain


def test_it_may_be_deleted_while_it_is_used(store: CountingStore, place: CachePlace) -> None:
    repository = reopen(store, place)
    plain = contents(repository.index)
    shutil.rmtree(place.directory)
    assert contents(repository.index) == plain
    with repository.lock():
        assert contents(repository.index) == plain
    snapshots = repository.snapshots()
    for snapshot in snapshots:
        shutil.rmtree(place.directory, ignore_errors=True)
        restore(repository, snapshot)
    backup(repository, {"new": content("new", 9000)})
    repository.reset_index()
    assert contents(repository.index) > plain


@pytest.mark.parametrize("what", ["no directory", "full disk", "full at the end", "vanishes"])
def test_a_cache_that_cannot_be_written_costs_one_warning(
    store: CountingStore,
    place: CachePlace,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if what == "no directory":
        place.directory.parent.mkdir()
        place.directory.write_text("a file in its place")
    elif what == "full disk":
        monkeypatch.setattr(os, "posix_fallocate", full)
        monkeypatch.setattr(os, "write", full)
    elif what == "full at the end":
        monkeypatch.setattr(os, "pwrite", full)
        monkeypatch.setattr(os, "write", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    plain = contents(reopen(store, None).index)
    repository = reopen(store, place)
    assert contents(repository.index) == plain
    for snapshot in repository.snapshots():
        assert restore(repository, snapshot)["a"] == content("a", 9000)
    monkeypatch.undo()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "costs speed only" in caplog.text
    assert files(place) == []


def test_what_the_repository_has_no_longer_goes(store: CountingStore, place: CachePlace) -> None:
    repository = reopen(store, place)
    for snapshot in repository.snapshots():
        restore(repository, snapshot)
        restore(repository, snapshot)
    unfinished = files(place)[0].with_name("new-left")
    unfinished.write_bytes(b"")
    os.utime(unfinished, (1, 1))
    for snapshot in repository.snapshots()[1:]:
        repository.delete_snapshot(snapshot.id)
    apply_prune(repository, plan_prune(repository))
    repository = reopen(store, place)
    left = contents(repository.index)
    assert left == contents(reopen(store, None).index)
    names = {path.name for path in files(place)}
    listed = repository.list_ids("index/")
    assert set(listed) <= names and len(names) <= len(listed) + 1
    packs = {pack.hex() for pack in repository.index.packs}
    assert {path.name for path in files(place, "trees")} <= packs


# trees


def walk(repository: Repository) -> None:
    for snapshot in repository.snapshots():
        restore(repository, snapshot)


def test_trees_of_a_pack_are_fetched_together(store: CountingStore, place: CachePlace) -> None:
    repository = reopen(store, place)
    trees = [one for one in repository.index if one.blob.kind == "tree"]
    packs = {one.pack for one in trees}
    asked = Counter(one.pack for one in trees)
    assert max(asked.values()) >= 3
    store.gets.clear()
    walk(repository)
    for tree in trees:
        repository.load_blob("tree", tree.blob.id)
    data_reads = 6 * 6  # two files of three blobs in each snapshot, all in data packs, which are not kept
    assert store.gets["data"] - data_reads == 2 * len(packs), "once for the first tree, once for all"
    store.gets.clear()
    walk(reopen(store, place))
    assert store.gets["data"] == data_reads


def test_a_writer_leaves_its_trees_for_the_next_one(place: CachePlace) -> None:
    store = CountingStore()
    create(store)
    snapshot = backup(reopen(store, place), {"a": b""})
    assert files(place, "trees")
    store.gets.clear()
    reopen(store, place).load_blob("tree", snapshot.tree)
    assert store.gets["data"] == 0


@pytest.mark.parametrize("how", ["empty", "cut", "middle bit", "first bit", "another"])
def test_a_tree_is_verified_on_each_read(
    store: CountingStore, place: CachePlace, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    walk(repository := reopen(store, place))
    trees = [one for one in repository.index if one.blob.kind == "tree"]
    good = {one.blob.id: repository.load_blob("tree", one.blob.id) for one in trees}
    paths = files(place, "trees")
    whole = [path.read_bytes() for path in paths]
    assert paths
    for number, path in enumerate(paths):
        data = bytearray(whole[number])
        for one in trees:  # hit every tree, wherever it lies
            if one.pack.hex() == path.name and "bit" in how:
                data[one.blob.offset + (0 if how == "first bit" else one.blob.length // 2)] ^= 1
        path.write_bytes(bytes(data))
        if "bit" not in how:
            spoil(path, how, whole[number - 1])
    for again in (repository, reopen(store, place)):
        assert {tree: again.load_blob("tree", tree) for tree in good} == good
    assert "is not used and removed" in caplog.text


def test_a_tree_that_only_the_cache_has_proves_nothing(store: CountingStore, place: CachePlace) -> None:
    """Who proves that the repository alone is enough (a drill) goes past the cache."""
    walk(repository := reopen(store, place))
    (snapshot, *_) = repository.snapshots()
    (tree,) = repository.locate("tree", snapshot.tree)
    damage(repository, pack_name(tree.pack), bit=8 * tree.blob.offset)
    assert repository.load_blob("tree", snapshot.tree)
    repository.bypass_cache()
    with pytest.raises(DamageError):
        repository.load_blob("tree", snapshot.tree)


def test_a_near_repository_keeps_no_trees(store: CountingStore, tmp_path: Path) -> None:
    place = CachePlace(tmp_path, trees=False)
    walk(reopen(store, place))
    assert files(place) and not files(place, "trees")


def test_the_least_recently_used_trees_make_room(tmp_path: Path) -> None:
    cache = Cache(CachePlace(tmp_path, max_bytes=1000), "f" * 64, b"k" * 32)
    packs = [bytes([number]) * 32 for number in range(5)]
    for number, pack in enumerate(packs[:4]):
        cache.save_trees(pack, bytes(240))
        path = tmp_path / ("f" * 64) / "trees" / pack.hex()
        os.utime(path, ns=(number, number))
    assert cache.tree(packs[0], 0, 5, lambda: b"") == bytes(5), "used again: no longer the oldest"
    cache.save_trees(packs[4], bytes(240))
    left = {path.name for path in (tmp_path / ("f" * 64) / "trees").iterdir()}
    assert left == {packs[0].hex(), packs[3].hex(), packs[4].hex()}
    cache.save_trees(b"\xff" * 32, bytes(2000))
    assert {path.name for path in (tmp_path / ("f" * 64) / "trees").iterdir()} == left, (
        "one that is too big is not kept"
    )


# the index and the lock


def test_the_index_is_looked_at_again_under_each_lock(store: CountingStore, place: CachePlace) -> None:
    """What was read before the lock may have been pruned before the lock."""
    repository = reopen(store, place)
    (last,) = (one for one in repository.snapshots()[-1:])
    (old,) = repository.locate("tree", last.tree)
    other = reopen(store, None)
    for snapshot in other.snapshots():
        other.delete_snapshot(snapshot.id)
    apply_prune(other, plan_prune(other))
    with repository.lock():
        assert not repository.has_blob("tree", last.tree) and old.pack not in repository.index.packs
        backup(repository, {"b": content(5, 9000), "a": content("a", 9000)})
    (made,) = reopen(store, None).snapshots()
    assert restore(reopen(store, None), made)["b"] == content(5, 9000)
    backup(other, {"later": b"later"})
    with repository.lock():
        assert contents(repository.index) == contents(reopen(store, None).index)


def test_an_index_file_that_is_bad_is_not_kept_as_empty(store: CountingStore, place: CachePlace) -> None:
    (victim, *_) = objects(reopen(store, None), "index/")
    good = store.get(victim.name)
    damage(reopen(store, None), victim.name)
    assert len(reopen(store, place).index) < len(create_plain(store, victim.name, good))
    assert contents(reopen(store, place).index) == contents(reopen(store, None).index)


def create_plain(store: MemoryStore, name: str, data: bytes) -> MemoryIndex:
    """The index after the file was put back from a copy."""
    store.delete(name)
    store.put(name, data)
    return reopen(store, None).index
