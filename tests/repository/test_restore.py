"""What is restored equals what was backed up, and damage stays where it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backupctl.clock import SystemClock
from backupctl.errors import DamageError, NoSuchError, Transient, UserError
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import FileInfo, Placer, PlacingError
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.restore import RestoreStats, restore
from backupctl.repository.restore_plan import plan_restore
from backupctl.repository.verify import verify_tree
from backupctl.sources.files import FilesOptions, FilesSource
from tests.nasty_tree import build_nasty_tree

from .helpers import OLD_NS, backup, directory, file, new_repository, other

BIG = b"".join(bytes([n % 251]) * 4096 for n in range(3 << 8))


@pytest.fixture(autouse=True, params=["alone", "workers", "threads"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The three ways content can take: a few files at once, through worker processes, through threads of ours."""
    if request.param != "alone":
        monkeypatch.setattr("backupctl.repository.restore._SMALL_FILES", 0)
        monkeypatch.setenv("BACKUPCTL_WORKERS", "2" if request.param == "workers" else "0")
    return str(request.param)


def files_of(path: Path) -> Any:
    """Without the directories above: others write there while we run."""
    source = FilesSource("files", FilesOptions(paths=[str(path)]))
    entries = source.open(LocalHost("local"), SystemClock()).entries()
    return (entry for entry in entries if (b"/" + entry.path + b"/").startswith(os.fsencode(path) + b"/"))


def restored(reader: SnapshotReader, into: Path, **options: Any) -> RestoreStats:
    into.mkdir(exist_ok=True)
    with LocalHost("local").placer(os.fsencode(into)) as placer:
        return restore(reader, placer, **options)


def test_the_nasty_tree_survives(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.mkdir()
    build_nasty_tree(origin)
    repo = new_repository()
    writer, _, (snapshot, manifest) = backup(repo, {"files": files_of(origin)})
    _, again, _ = backup(repo, {"files": files_of(origin)}, parent=(snapshot, manifest))
    stats = again.stats
    assert (stats.files_new, stats.files_changed, stats.dirs_new, stats.dirs_changed) == (0, 0, 0, 0)
    assert (stats.data_blobs, stats.tree_blobs, stats.data_added) == (0, 0, 0)
    inside = os.fsencode(origin)[1:]
    readable = os.geteuid() == 0
    assert [problem for problem in writer.problems if readable or "modes/0000" not in problem.path] == []
    target = tmp_path / "target"
    with SnapshotReader(repo, snapshot) as reader:
        plan = plan_restore(reader, b"files/" + inside)
        result = restored(reader, target, path=b"files/" + inside)
    assert (result.problems, result.warnings) == ([], [])
    assert plan.files + 2 == result.restored_files == plan.files + plan.links - 4
    assert plan.bytes == result.restored_bytes
    report = verify_tree(LocalHost("local"), os.fsencode(target), manifest, "files", path=inside)
    assert (report.differences, report.unchecked) == ([], [])
    assert report.equal
    assert report.entries > 120
    assert (target / "links/first").stat().st_ino == (target / "special/third").stat().st_ino
    sparse = (target / "sizes/sparse").stat()
    assert sparse.st_size == 20 << 20
    assert sparse.st_blocks * 512 < 4 << 20


def test_one_file_and_a_target_inside_the_root(tmp_path: Path) -> None:
    repo = new_repository()
    entries = [directory(b"d"), file(b"d/f", b"content", mode=0o640), file(b"d/g", b"other", inode=8)]
    _, _, (snapshot, _) = backup(repo, {"s": entries})
    seen: list[tuple[int, int, bytes]] = []
    with SnapshotReader(repo, snapshot) as reader:
        stats = restored(reader, tmp_path / "t", target=b"in/side", path=b"/s/d/f/", progress=lambda *a: seen.append(a))
        assert (stats.restored_files, stats.restored_bytes) == (1, 7)
        with pytest.raises(NoSuchError, match="nothing at /s/x"):
            restored(reader, tmp_path / "t", path=b"s/x")
    found = tmp_path / "t/in/side/f"
    assert found.read_bytes() == b"content"
    assert (found.stat().st_mode & 0o7777, found.stat().st_mtime_ns) == (0o640, OLD_NS)
    assert [path.name for path in found.parent.iterdir()] == ["f"]
    assert seen[-1] == (1, 7, b"s/d/f")


def damaged(repo: Repository, content: bytes) -> Repository:
    """The same repository without the pack that holds the blob with `content`."""
    (place,) = repo.locate("data", hashlib.sha256(content).digest())
    name = f"data/{place.pack.hex()[:2]}/{place.pack.hex()}"
    data = bytearray(repo.store.get(name))
    data[place.blob.offset + 20] ^= 1
    repo.store.delete(name)
    repo.store.put(name, bytes(data))
    return Repository(repo.store, repo.keys, repo.config, clock=repo.clock)


def test_a_damaged_file_is_named_and_does_not_stop_the_rest(tmp_path: Path) -> None:
    repo = new_repository()
    entries = [file(b"a", b"good a", inode=1), file(b"b", b"bad", inode=2), file(b"c", b"good c", inode=3)]
    _, _, (snapshot, manifest) = backup(repo, {"s": entries})
    told: list[str] = []
    with SnapshotReader(damaged(repo, b"bad"), snapshot) as reader:
        stats = restored(reader, tmp_path / "t", path=b"s", on_problem=lambda problem: told.append(problem.path))
    assert told == [problem.path for problem in stats.problems] == ["s/b"]
    assert "data/" in stats.problems[0].message
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["a", "c"]
    assert stats.restored_files == 2
    report = verify_tree(LocalHost("local"), os.fsencode(tmp_path / "t"), manifest, "s")
    assert ("b", "missing") in [(d.path, d.aspect) for d in report.differences]


def test_a_damaged_directory_does_not_stop_the_rest(tmp_path: Path) -> None:
    repo = new_repository()
    _, _, (snapshot, _) = backup(repo, {"s": [directory(b"a"), file(b"a/x", b"1"), file(b"b", b"2", inode=2)]})
    with SnapshotReader(repo, snapshot) as reader:
        tree = reader.node(b"s/a").subtree
    load = repo.load_blob

    def broken(kind: Any, blob_id: bytes) -> bytes:
        if blob_id == tree:
            raise DamageError("pack is gone", name="data/00")
        return load(kind, blob_id)

    repo.load_blob = broken  # type: ignore[method-assign]  # the fault to inject
    with SnapshotReader(repo, snapshot) as reader:
        plan = plan_restore(reader, b"s")
        stats = restored(reader, tmp_path / "t", path=b"s")
    assert [problem.path for problem in plan.problems] == [problem.path for problem in stats.problems] == ["s/a"]
    assert (tmp_path / "t/b").read_bytes() == b"2"


def test_a_store_that_fails_ends_the_restore(tmp_path: Path) -> None:
    repo = new_repository()
    _, _, (snapshot, _) = backup(repo, {"s": [file(b"a", BIG)]})

    def unreachable(name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        raise Transient("the store is away")

    with SnapshotReader(repo, snapshot) as reader:
        reader.node(b"s/a")
        repo.store.get = unreachable  # type: ignore[method-assign]  # the fault to inject
        with pytest.raises(Transient):
            restored(reader, tmp_path / "t", path=b"s")
    assert list((tmp_path / "t").iterdir()) == []


def test_what_cannot_be_made_is_a_problem_of_its_own(tmp_path: Path) -> None:
    repo = new_repository()
    entries = [directory(b"d"), file(b"d/f", b"1"), file(b"e", b"2", inode=8), other(b"p", "fifo")]
    _, _, (snapshot, _) = backup(repo, {"s": entries})
    (tmp_path / "t").mkdir()
    (tmp_path / "t/d").write_bytes(b"in the way")
    with SnapshotReader(repo, snapshot) as reader:
        stats = restored(reader, tmp_path / "t", path=b"s")
    assert [problem.path for problem in stats.problems] == ["s/d"]
    assert (tmp_path / "t/e").read_bytes() == b"2"
    assert (tmp_path / "t/d").read_bytes() == b"in the way"
    assert (tmp_path / "t/p").is_fifo()


class Queueing:
    """A placer over a slow line: does what it is told, and says what went wrong with one of the next calls."""

    def __init__(self, inner: Placer) -> None:
        self._inner = inner
        self._failures: list[UserError] = []

    def _later(self, call: Callable[[], Any]) -> Any:
        earlier = self._failures.pop(0) if self._failures else None
        try:
            result = call()
        except UserError as error:
            self._failures += [error, error]  # as when several requests of one object fail
            result = None
        if earlier is not None:
            raise earlier
        return result

    def directory(self, path: bytes) -> None:
        self._later(lambda: self._inner.directory(path))

    def file(self, path: bytes, size: int) -> Any:
        return self._later(lambda: self._inner.file(path, size)) or Nowhere()

    def symlink(self, path: bytes, target: bytes) -> None:
        self._later(lambda: self._inner.symlink(path, target))

    def hardlink(self, path: bytes, existing: bytes) -> None:
        self._later(lambda: self._inner.hardlink(path, existing))

    def remove(self, path: bytes) -> None:
        self._later(lambda: self._inner.remove(path))

    def special(self, path: bytes, info: FileInfo) -> None:
        self._later(lambda: self._inner.special(path, info))

    def metadata(self, path: bytes, info: FileInfo) -> None:
        self._later(lambda: self._inner.metadata(path, info))

    def flush(self) -> list[str]:
        if self._failures:
            raise self._failures.pop(0)
        return self._inner.flush()


class Nowhere:
    def write_at(self, offset: int, data: bytes) -> None: ...

    def close(self) -> None: ...

    def discard(self) -> None: ...


def test_a_late_error_costs_no_other_object(tmp_path: Path) -> None:
    repo = new_repository()
    entries = [
        file(b"a", b"lost", inode=1),
        file(b"b", b"good b", inode=2),
        other(b"c", "symlink", linktarget=b"b"),
        file(b"d", b"good d", inode=3),
        other(b"e", "fifo"),
        file(b"z", b"lost", inode=4),
    ]
    _, _, (snapshot, _) = backup(repo, {"s": entries})
    target = tmp_path / "t"
    (target / "a").mkdir(parents=True)
    (target / "z").mkdir()
    with SnapshotReader(repo, snapshot) as reader, LocalHost("local").placer(os.fsencode(target)) as placer:
        stats = restore(reader, Queueing(placer), path=b"s")
    assert [problem.path for problem in stats.problems] == ["s/a", "s/z"]
    assert (stats.restored_files, stats.restored_bytes) == (2, len(b"good bgood d"))
    assert (target / "b").read_bytes() == b"good b"
    assert (target / "c").readlink() == Path("b")
    assert (target / "d").read_bytes() == b"good d"
    assert [(target / name).lstat().st_mtime_ns for name in "bcde"] == [OLD_NS] * 4


class FullDisk(Queueing):
    """Says only at the end that the content of `a` did not fit."""

    def file(self, path: bytes, size: int) -> Any:
        writer = self._inner.file(path, size)
        if path == b"a" and size:
            self._failures.append(PlacingError("cannot restore 'a': no space", path=path))
        return writer

    def _later(self, call: Callable[[], Any]) -> Any:
        return call()


def test_a_late_error_leaves_no_half_file_under_any_name(tmp_path: Path) -> None:
    repo = new_repository()
    entries = [
        file(b"a", b"half", inode=1, links=2),
        file(b"b", b"half", inode=1, links=2),
        file(b"c", b"whole", inode=3),
    ]
    _, _, (snapshot, _) = backup(repo, {"s": entries})
    target = tmp_path / "t"
    target.mkdir()
    with SnapshotReader(repo, snapshot) as reader, LocalHost("local").placer(os.fsencode(target)) as placer:
        stats = restore(reader, FullDisk(placer), path=b"s")
    assert [problem.path for problem in stats.problems] == ["s/a", "s/b"]
    assert [path.name for path in target.iterdir()] == ["c"]
    assert (stats.restored_files, stats.restored_bytes) == (1, len(b"whole"))


def test_a_symlink_in_the_tree_never_leads_out(tmp_path: Path) -> None:
    """A tree as an attacker would write it: a link, and a directory of the same name to write through it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    repo = new_repository()
    _, _, (snapshot, _) = backup(repo, {"s": [other(b"a", "symlink", linktarget=os.fsencode(outside))]})
    _, _, (evil, _) = backup(repo, {"s": [directory(b"a"), file(b"a/planted", b"x")]})
    with SnapshotReader(repo, snapshot) as reader:
        restored(reader, tmp_path / "t", path=b"s")
    with SnapshotReader(repo, evil) as reader:
        stats = restored(reader, tmp_path / "t", path=b"s")
    assert list(outside.iterdir()) == []
    assert [problem.path for problem in stats.problems] == ["s/a"]


def test_discarding_leaves_nothing_and_errors_are_user_errors(tmp_path: Path) -> None:
    with LocalHost("local").placer(os.fsencode(tmp_path)) as placer:
        writer = placer.file(b"f", 10)
        writer.write_at(0, b"half")
        writer.discard()
        with pytest.raises(UserError):
            placer.hardlink(b"g", b"f")
    assert list(tmp_path.iterdir()) == []
