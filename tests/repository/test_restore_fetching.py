"""How a restore asks for content: pack by pack, in stretches, several at once; and what it would make, counted beforehand."""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupctl.clock import FakeClock
from backupctl.hosts.local import LocalHost
from backupctl.hosts.workers import COUNT_VARIABLE
from backupctl.repository import restore as restoring
from backupctl.repository import windows
from backupctl.repository.entry import Entry
from backupctl.repository.fetching import MAX_GAP_BYTES, MAX_RUN_BYTES, Place, runs
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.restore import restore
from backupctl.repository.restore_plan import _counted, _walked, plan_restore
from backupctl.storage.local import LocalStore
from backupctl.storage.memory import MemoryStore
from backupctl.storage.protocol import ObjectStore
from tests.repository.helpers import NOW, OLD_NS, backup, directory, file, other

PACKS_OF_DATA = 3  # at least, in what `contents` makes
DEADLINE_SECONDS = 60  # reached only when requests never meet


class Watched:
    """A store that notes which stretches of packs are asked for, and how many at once. While `meet` is set, a request
    waits for a second one to be under way."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._under_way = threading.Condition()
        self._now = 0
        self.reads: list[tuple[str, int, int]] = []
        self.most_at_once = 0
        self.meet = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        if not name.startswith("data/"):
            return self._store.get(name, offset=offset, length=length)
        with self._under_way:
            self.reads.append((name, offset, length or 0))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            self._under_way.notify_all()
            if self.meet:
                self._under_way.wait_for(lambda: self.most_at_once > 1, DEADLINE_SECONDS)
        try:
            return self._store.get(name, offset=offset, length=length)
        finally:
            with self._under_way:
                self._now -= 1


def contents(count: int) -> Iterator[Entry]:
    """Files of about 24 KiB that do not compress: some packs full."""
    chosen = random.Random(7)
    for number in range(count):
        yield file(b"%05d" % number, chosen.randbytes(16_384 + chosen.randrange(16_384)), inode=number + 1)


def restored_in_stretches(store: ObjectStore, target: Path, count: int) -> None:
    entries = list(contents(count))
    watched = Watched(store)
    repo = Repository.create(watched, "secret", clock=FakeClock(NOW), scrypt_n=2)  # type: ignore[arg-type]  # passes the rest on
    _, _, (snapshot, _) = backup(repo, {"s": entries})
    target.mkdir()
    with SnapshotReader(repo, snapshot) as reader:
        reader.node(b"s/00000")  # index and trees are loaded: what follows is content alone
        watched.reads.clear()
        watched.meet, watched.most_at_once = True, 0
        with LocalHost("local").placer(os.fsencode(target)) as placer:
            stats = restore(reader, placer, path=b"s")
    assert (stats.problems, stats.restored_files) == ([], count)
    for entry in entries[:: count // 10]:
        with entry.open() as stream:  # type: ignore[misc]  # a file
            assert (target / os.fsdecode(entry.path)).read_bytes() == stream.read(-1)
    packs = list(dict.fromkeys(name for name, _, _ in watched.reads))
    assert len(packs) >= PACKS_OF_DATA
    total = sum(length for _, _, length in watched.reads)
    assert len(watched.reads) <= total // (MAX_RUN_BYTES - (64 << 10)) + 2 * len(packs), "not one for each blob"
    assert all(length <= MAX_RUN_BYTES for _, _, length in watched.reads)
    assert total <= 1.05 * sum(entry.node.size for entry in entries), "no byte is read twice"
    assert watched.most_at_once > 1
    for name in packs:
        stretches = sorted((start, start + length) for one, start, length in watched.reads if one == name)
        assert all(end <= after for (_, end), (after, _) in itertools.pairwise(stretches))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_pack_is_read_in_few_stretches_and_several_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv(COUNT_VARIABLE, workers)
    restored_in_stretches(MemoryStore(), tmp_path / "t", 2200)


@pytest.mark.servers
def test_s3_is_asked_for_few_stretches_and_several_at_once(s3_store: ObjectStore, tmp_path: Path) -> None:
    restored_in_stretches(s3_store, tmp_path / "t", 2200)


def test_many_small_windows_of_a_local_repository_give_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COUNT_VARIABLE, "2")
    monkeypatch.setattr(windows, "WINDOW_FILES", 16)
    monkeypatch.setattr(windows, "WINDOW_BLOBS", 8)
    repo = Repository.create(LocalStore(tmp_path / "r", create=True), "secret", clock=FakeClock(NOW), scrypt_n=2)
    chosen = random.Random(8)
    large = chosen.randbytes(24 << 20)  # more blobs than a window holds
    wanted = {b"%02d/%03d" % (number // 10, number): chosen.randbytes(number) for number in range(300)}
    entries = [directory(b"%02d" % number) for number in range(30)]
    entries += [file(path, content, inode=1000 + number) for number, (path, content) in enumerate(wanted.items())]
    entries += [file(name, large, inode=1, links=2) for name in (b"large", b"z-linked")]
    _, _, (snapshot, _) = backup(repo, {"s": sorted(entries, key=lambda entry: entry.path.split(b"/"))})
    target = tmp_path / "t"
    target.mkdir()
    with SnapshotReader(repo, snapshot) as reader, LocalHost("local").placer(os.fsencode(target)) as placer:
        assert len(reader.node(b"s/large").content or ()) > 4 * windows.Window(restoring._SHARE).most_blobs
        stats = restore(reader, placer, path=b"s")
    assert (stats.problems, stats.warnings, stats.restored_files) == ([], [], 302)
    assert stats.restored_bytes == len(large) + sum(map(len, wanted.values()))
    for path, content in wanted.items():
        found = target / os.fsdecode(path)
        assert (found.read_bytes(), found.stat().st_mtime_ns) == (content, OLD_NS)
    assert all((target / f"{number:02d}").stat().st_mtime_ns == OLD_NS for number in range(30))
    assert (target / "large").read_bytes() == large
    assert (target / "large").samefile(target / "z-linked")


def test_a_stretch_ends_at_a_gap_at_another_pack_and_where_it_is_long() -> None:
    def place(pack: int, offset: int, length: int) -> Place:
        return Place(bytes(32), pack, offset, length, 0)

    def cut(*places: Place) -> list[tuple[bytes, int, int]]:
        return [(run.pack, run.start, run.end) for run in runs(places, lambda number: b"%d" % number)]

    assert cut(place(0, 0, 10), place(0, 10, 10), place(0, 20 + MAX_GAP_BYTES, 5)) == [(b"0", 0, 25 + MAX_GAP_BYTES)]
    assert cut(place(0, 0, 10), place(0, 11 + MAX_GAP_BYTES, 5)) == [
        (b"0", 0, 10),
        (b"0", 11 + MAX_GAP_BYTES, 16 + MAX_GAP_BYTES),
    ]
    assert cut(place(0, 0, 10), place(1, 10, 10)) == [(b"0", 0, 10), (b"1", 10, 20)]
    assert len(cut(place(0, 0, MAX_RUN_BYTES), place(0, MAX_RUN_BYTES, 1))) == 2


def test_counting_from_the_text_of_trees_and_walking_them_agree() -> None:
    repo = Repository.create(MemoryStore(), "secret", clock=FakeClock(NOW), scrypt_n=2)
    entries = [
        file(b'a "quoted" name', b"1234"),
        directory(b"d"),
        file(b"d/empty"),
        other(b"d/fifo", "fifo"),
        other(b"d/link", "symlink", linktarget=b'"type":"fifo","links":2'),
        directory(b"d/\xff\xfe"),
        file(b"d/\xff\xfe/x", b"12", xattrs=[(b"user.a", b"b")]),
    ]
    linked = [file(b"first", b"same", inode=5, links=2), file(b"second", b"same", inode=5, links=2)]
    _, _, (snapshot, _) = backup(repo, {"s": entries, "t": linked})
    with SnapshotReader(repo, snapshot) as reader:
        plain = reader.node(b"s").subtree
        assert plain is not None
        counted = _counted(reader, plain)
        assert counted == _walked(reader, b"s")
        assert counted is not None
        assert (counted.files, counted.bytes, counted.directories, counted.links, counted.specials) == (3, 6, 2, 1, 1)
        assert _counted(reader, snapshot.tree) is None, "hard links are for the walk"
        both = plan_restore(reader)
        assert (both.files, both.bytes, both.links) == (4, 10, 2)
