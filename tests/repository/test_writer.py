"""What a run stores, what it does not read again, and what it does with sources that misbehave."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from backupctl.clock import FakeClock
from backupctl.errors import Denied, SourceError, StoreUnreachableError, UnreachableError
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import ByteSource
from backupctl.repository.entry import Chunking, Entry
from backupctl.repository.format.times import datetime_ns
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.writer import SnapshotWriter
from backupctl.sources.files import FilesOptions, FilesSource
from backupctl.storage.memory import MemoryStore
from tests.faults.faulty_store import FaultyStore

from .helpers import NOW, OLD_NS, backup, directory, file, new_repository, other

BIG = bytes(range(256)) * (3 << 12)  # 3 MiB


def never() -> ByteSource:
    raise AssertionError("must not be opened")


class Stream(BytesIO):
    """Fails where it is told to."""

    def __init__(self, content: bytes = b"", *, read: Exception | None = None, close: Exception | None = None) -> None:
        super().__init__(content)
        self.fail_read, self.fail_close, self.closings = read, close, 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if not data and self.fail_read:
            raise self.fail_read
        return data

    def close(self) -> None:
        self.closings += 1
        if self.fail_close:
            raise self.fail_close


def contents(repo: Repository, snapshot: Any) -> dict[bytes, Any]:
    with SnapshotReader(repo, snapshot) as reader:
        return {path: reader.open(path).read() if node.type == "file" else node.type for path, node in reader.walk()}


def test_a_tree_comes_back() -> None:
    repo = new_repository()
    entries = [
        directory(b"srv", uid=3),
        directory(b"srv/empty"),
        file(b"srv/zero"),
        directory(b"srv/zoo"),
        other(b"srv/zoo/link", "symlink", linktarget=b"\xfe"),
        other(b"srv/zoo/sock", "socket"),
        file(b"srv/zoo/\xff", b"one"),
        file(b"srv/zoo.big", BIG, inode=9),
    ]
    writer, written, (snapshot, manifest) = backup(repo, {"files": entries, "db": [file(b"dump.sql", b"-- sql")]})
    assert contents(repo, snapshot) == {
        b"db": "dir",
        b"db/dump.sql": b"-- sql",
        b"files": "dir",
        b"files/srv": "dir",
        b"files/srv/empty": "dir",
        b"files/srv/zero": b"",
        b"files/srv/zoo": "dir",
        b"files/srv/zoo/link": "symlink",
        b"files/srv/zoo/\xff": b"one",
        b"files/srv/zoo.big": BIG,
    }
    assert writer.problems == []
    assert [entry.path for entry in manifest] == [path for path in contents(repo, snapshot) if b"/" in path]
    hashes = {entry.path: entry.sha256 for entry in manifest if entry.type == "file"}
    assert hashes[b"files/srv/zoo.big"] == sha256(BIG).hexdigest()
    assert hashes[b"files/srv/zoo/\xff"] == sha256(b"one").hexdigest()
    assert hashes[b"files/srv/zero"] == sha256(b"").hexdigest()
    stats = written.stats
    assert (stats.files_new, stats.dirs_new, stats.total_files_processed) == (4, 3, 4)
    assert stats.total_bytes_processed == len(BIG) + 3 + 6
    assert stats.data_blobs >= 3
    assert stats.tree_blobs == 6
    assert stats.data_added > stats.data_added_packed > 0


def test_equal_input_gives_equal_trees_and_stores_nothing_new() -> None:
    repo = new_repository()
    _, first, _ = backup(repo, {"files": [directory(b"d"), file(b"d/f", BIG)]})
    _, second, _ = backup(repo, {"files": [directory(b"d"), file(b"d/f", BIG)]})
    assert first.tree == second.tree
    assert (second.stats.data_blobs, second.stats.tree_blobs, second.stats.data_added) == (0, 0, 0)


def test_directories_nobody_yields_are_made() -> None:
    repo = new_repository()
    _, _, (snapshot, manifest) = backup(repo, {"files": [file(b"a/b/c", b"1"), file(b"a/d", b"2")]})
    with SnapshotReader(repo, snapshot) as reader:
        assert [(path, node.mode) for path, node in reader.walk(b"files") if node.type == "dir"] == [
            (b"files/a", 0o755),
            (b"files/a/b", 0o755),
        ]
    assert [entry.path for entry in manifest] == [b"files/a", b"files/a/b", b"files/a/b/c", b"files/a/d"]


def test_unchanged_files_are_not_opened() -> None:
    repo = new_repository()
    tree = [directory(b"d"), file(b"d/a", b"aaa", inode=1), file(b"d/b", BIG, inode=2), file(b"d/c", b"c", inode=3)]
    _, _, parent = backup(repo, {"files": tree})
    later = [
        directory(b"d"),
        file(b"d/a", b"aaa", inode=1, opener=never, user="renamed"),
        file(b"d/b", BIG, inode=2, opener=never),
        file(b"d/bb", b"new", inode=4),
        file(b"d/c", b"C", inode=3, mtime_ns=OLD_NS + 1),
    ]
    _, written, (snapshot, manifest) = backup(repo, {"files": later}, parent=parent)
    stats = written.stats
    assert (stats.files_new, stats.files_changed, stats.files_unmodified) == (1, 2, 1)
    assert (stats.dirs_new, stats.dirs_changed, stats.dirs_unmodified) == (0, 1, 0)
    assert contents(repo, snapshot)[b"files/d/b"] == BIG
    assert next(e.sha256 for e in manifest if e.path == b"files/d/b") == sha256(BIG).hexdigest()
    _, again, _ = backup(repo, {"files": later}, parent=(snapshot, manifest))
    assert (again.stats.files_unmodified, again.stats.dirs_unmodified, again.stats.tree_blobs) == (4, 1, 0)


@pytest.mark.parametrize(
    "change",
    [{"mtime_ns": OLD_NS + 1}, {"ctime_ns": OLD_NS + 1}, {"inode": 8}, {"size": 4}, {"stable": False}],
)
def test_any_sign_of_change_means_reading(change: dict[str, Any]) -> None:
    repo = new_repository()
    _, _, parent = backup(repo, {"files": [file(b"f", b"old")]})
    _, _, (snapshot, _) = backup(repo, {"files": [file(b"f", b"new", **({"size": 3} | change))]}, parent=parent)
    assert contents(repo, snapshot)[b"files/f"] == b"new"


def test_a_file_changed_in_the_very_moment_of_its_backup_is_read_again() -> None:
    repo = new_repository()
    now_ns = datetime_ns(NOW) + 1_000_001
    _, _, parent = backup(repo, {"files": [file(b"f", b"old", ctime_ns=now_ns)]})
    _, _, (snapshot, _) = backup(repo, {"files": [file(b"f", b"new", ctime_ns=now_ns)]}, parent=parent)
    assert contents(repo, snapshot)[b"files/f"] == b"new"


def test_metadata_that_opening_brought_is_what_is_stored() -> None:
    entry = file(b"f", b"longer")
    entry.node.size, entry.node.ctime_ns = 3, 1

    def opener() -> ByteSource:
        entry.node.mtime_ns, entry.node.mode = 99, 0o600
        return BytesIO(b"longer")

    entry.open = opener
    repo = new_repository()
    _, _, (snapshot, manifest) = backup(repo, {"s": [entry]})
    with SnapshotReader(repo, snapshot) as reader:
        node = reader.node(b"s/f")
    assert (node.mtime_ns, node.atime_ns, node.mode, node.size) == (99, 99, 0o600, 6)
    assert [(line.mtime_ns, line.mode, line.size) for line in manifest] == [(99, 0o600, 6)]


def test_blobs_that_are_gone_are_read_again() -> None:
    repo = new_repository()
    _, _, parent = backup(repo, {"files": [file(b"f", b"data")]})
    empty = Repository(MemoryStore(), repo.keys, repo.config, clock=repo.clock)
    writer, _, (snapshot, _) = backup(empty, {"files": [file(b"f", b"data")]}, parent=parent)
    assert contents(empty, snapshot)[b"files/f"] == b"data"
    assert any("damaged" in note for note in writer.notes)


def test_without_the_parents_manifest_everything_is_read() -> None:
    repo = new_repository()
    _, _, (snapshot, _) = backup(repo, {"files": [file(b"f", b"data")]})
    opened = []
    entry = file(b"f", b"data", opener=lambda: opened.append(1) or BytesIO(b"data"))
    with SnapshotWriter(repo, parent=snapshot) as writer:
        writer.add_source("files", [entry])
        writer.finish()
    assert opened


def test_hard_links_are_read_once() -> None:
    repo = new_repository()
    linked = {"links": 2, "inode": 5, "device_id": 66}
    entries = [file(b"a", b"same", **linked), file(b"b", b"same", opener=never, **linked), file(b"c", b"x", inode=6)]
    _, _, (snapshot, manifest) = backup(repo, {"files": entries})
    with SnapshotReader(repo, snapshot) as reader:
        a, b, c = (reader.node(b"files/" + name) for name in (b"a", b"b", b"c"))
    assert (a.content, a.device_id, a.inode) == (b.content, b.device_id, b.inode)
    assert a.device_id not in (0, 66)
    assert c.device_id == 0
    groups = [entry.link_group for entry in manifest]
    assert groups[0] == groups[1] != 0 == groups[2]


def test_links_of_two_hosts_never_look_like_one_file() -> None:
    repo = new_repository()
    linked = {"links": 2, "inode": 5, "device_id": 66}
    _, _, (snapshot, _) = backup(repo, {"one": [file(b"a", b"1", **linked)], "two": [file(b"a", b"2", **linked)]})
    with SnapshotReader(repo, snapshot) as reader:
        assert reader.node(b"one/a").device_id != reader.node(b"two/a").device_id
        assert reader.open(b"two/a").read() == b"2"


def problems(*entries: Entry, then: Exception | None = None) -> tuple[list[tuple[str, str]], set[bytes], list[str]]:
    """What a run over these entries and a good file reports (kind, path), what it stored, and the messages."""
    repo = new_repository()

    def source() -> Iterator[Entry]:
        yield from entries
        if then:
            raise then
        yield file(b"z", b"fine")

    writer, _, (snapshot, _) = backup(repo, {"s": source(), "t": [file(b"other", b"fine")]})
    stored = set(contents(repo, snapshot)) - {b"s", b"t", b"t/other"}
    assert b"t/other" in contents(repo, snapshot)
    assert all(problem.source == "s" for problem in writer.problems)
    return [(p.kind, p.path) for p in writer.problems], stored, [p.message for p in writer.problems]


def raising(error: Exception) -> Any:
    def opener() -> ByteSource:
        raise error

    return opener


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (file(b"f\xff", opener=raising(FileNotFoundError(2, "No such file or directory"))), "vanished"),
        (file(b"f\xff", opener=raising(PermissionError(13, "Permission denied"))), "unreadable"),
        (file(b"f\xff", opener=raising(SourceError("pg_dump is missing"))), "failed"),
        (file(b"f\xff", opener=lambda: Stream(b"half", read=OSError(5, "Input/output error"))), "failed"),
        (file(b"f\xff", opener=lambda: Stream(BIG, read=SourceError("pg_dump died"))), "failed"),
        (file(b"f\xff", opener=lambda: Stream(b"whole", close=SourceError("no end marker"))), "failed"),
        (file(b"f\xff", opener=lambda: Stream(b"whole", close=OSError(5, "Input/output error"))), "failed"),
        (replace(file(b"f\xff"), error="Permission denied"), "unreadable"),
        (replace(file(b"f\xff"), error="lstat: No such file or directory"), "vanished"),
    ],
)
def test_what_cannot_be_read_is_left_out_and_named(entry: Entry, kind: str) -> None:
    found, stored, messages = problems(entry)
    assert found == [(kind, "f\\xff")]
    assert stored == {b"s/z"}
    assert messages[0]


def test_a_file_that_changes_is_stored_and_named() -> None:
    found, stored, _ = problems(replace(file(b"f", b"content"), changed=lambda stream: True))
    assert (found, stored) == ([("changed", "f")], {b"s/f", b"s/z"})


def test_streams_are_closed_exactly_once() -> None:
    streams = [Stream(b"good"), Stream(b"bad", read=OSError(5, "x")), Stream(b"bad", close=OSError(5, "x"))]
    problems(*(file(b"f%d" % n, opener=lambda stream=stream: stream) for n, stream in enumerate(streams)))
    assert [stream.closings for stream in streams] == [1, 1, 1]


@pytest.mark.parametrize("error", [SourceError("mysqldump died"), UnreachableError("host is gone"), OSError(5, "EIO")])
def test_a_source_that_ends_early_keeps_what_it_gave(error: Exception) -> None:
    found, stored, messages = problems(file(b"d/f", b"1"), then=error)
    assert (found, stored) == ([("failed", "")], {b"s/d", b"s/d/f"})
    assert "ended early" in messages[0]


def test_a_dead_host_is_not_asked_for_every_file() -> None:
    dead = raising(UnreachableError("host is gone"))
    found, stored, _ = problems(file(b"a", opener=dead), file(b"b", opener=dead))
    assert (found, stored) == ([("failed", "a")], set())


@pytest.mark.parametrize(
    "paths",
    [
        [b"a", b"a"],
        [b"b", b"a"],
        [b"a/b", b"c", b"a/d"],
        [b"a/b", b"a"],
        [b"a//b"],
        [b"/a"],
        [b"a/../b"],
        [b""],
        [b"\0"],
    ],
)
def test_a_source_that_breaks_the_order_is_a_bug(paths: list[bytes]) -> None:
    with SnapshotWriter(new_repository()) as writer, pytest.raises(ValueError, match="yielded"):
        writer.add_source("s", [file(path) for path in paths])


@pytest.mark.parametrize("name", ["", "a/b", ".", "..", "twice"])
def test_impossible_source_names(name: str) -> None:
    with SnapshotWriter(new_repository()) as writer:
        writer.add_source("twice", [])
        with pytest.raises(ValueError, match="source"):
            writer.add_source(name, [])


def test_a_store_that_refuses_ends_the_run() -> None:
    class Refusing(MemoryStore):
        def put(self, name: str, data: bytes, *, if_absent: bool = False) -> None:
            if name.startswith("data/"):
                raise Denied("no", name=name)
            super().put(name, data, if_absent=if_absent)

    repo = Repository.create(Refusing(), "secret", clock=FakeClock(NOW), scrypt_n=2)
    with pytest.raises(Denied):
        backup(repo, {"s": [file(b"a", BIG)]})
    assert repo.snapshots() == []
    assert repo.records("manifest") == []


def test_files_that_move_under_a_real_host(tmp_path: Path) -> None:
    for name in ("changes", "grows", "kept", "vanishes"):
        (tmp_path / name).write_bytes(BIG)
    source = FilesSource("s", FilesOptions(paths=[str(tmp_path)]))

    class Meddling:
        """Changes the file after its first bytes are read."""

        def __init__(self, stream: Any, path: Path) -> None:
            self.inner, self._path, self._done = stream, path, False

        def read(self, size: int = -1, /) -> bytes:
            data: bytes = self.inner.read(size)
            if self._done:
                return data
            self._done = True
            with self._path.open("r+b" if self._path.name == "changes" else "ab") as writer:
                writer.write(b"!")
            return data

        def close(self) -> None:
            self.inner.close()

    def meddled() -> Iterator[Entry]:
        for entry in source.open(LocalHost("local"), FakeClock(NOW)).entries():
            path = Path("/") / os.fsdecode(entry.path)
            if path.name in ("changes", "grows"):
                entry.open = lambda inner=entry.open, path=path: Meddling(inner(), path)
                entry.changed = lambda stream, inner=entry.changed: inner(stream.inner)
            if path.name == "vanishes":
                path.unlink()
            yield entry

    repo = new_repository()
    writer, _, (snapshot, _) = backup(repo, {"s": meddled()})
    found = {(problem.kind, problem.path.rpartition("/")[2]) for problem in writer.problems}
    assert found == {("changed", "changes"), ("changed", "grows"), ("vanished", "vanishes")}
    with SnapshotReader(repo, snapshot) as reader:
        names = {node.name for _, node in reader.list(b"s" + os.fsencode(tmp_path))}
        assert names == {b"changes", b"grows", b"kept"}
        for path, node in reader.walk():
            assert node.type == "dir" or reader.open(path).read(), "what was read is whole"


def test_half_read_bytes_do_not_count() -> None:
    broken = file(b"a", opener=lambda: Stream(BIG, read=OSError(5, "Input/output error")))
    with SnapshotWriter(new_repository()) as writer:
        writer.add_source("s", [broken, file(b"b", b"12")])
        assert writer.finish().stats.total_bytes_processed == 2


def test_progress_and_fixed_blocks() -> None:
    repo = new_repository()
    seen: list[tuple[int, int, bytes]] = []
    entry = replace(file(b"db.sqlite", BIG), chunking=Chunking("fixed", 65536))
    with SnapshotWriter(repo, progress=lambda *step: seen.append(step)) as writer:
        writer.add_source("s", [file(b"a", b"1"), entry])
        written = writer.finish()
    assert seen[0] == (1, 1, b"s/a")
    assert seen[-1] == (2, len(BIG) + 1, b"s/db.sqlite")
    assert written.stats.total_bytes_processed == len(BIG) + 1
    assert sorted(step[1] for step in seen) == [step[1] for step in seen]


def test_a_store_that_drops_out_ends_the_run_and_is_not_blamed_on_the_source() -> None:
    store = FaultyStore(MemoryStore())
    repo = Repository.create(store, "secret", clock=FakeClock(NOW), scrypt_n=2)
    store.fail("put", 1, StoreUnreachableError("memory does not answer"), times=None)
    with pytest.raises(StoreUnreachableError), SnapshotWriter(repo, clock=FakeClock(NOW)) as writer:
        writer.add_source("files", [file(b"big-%02d" % number, BIG + b"%d" % number) for number in range(20)])
        assert writer.problems == []
        writer.finish()
