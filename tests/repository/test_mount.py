"""The mounted file system in process: what it says of every entry, any range of any file, damage as EIO."""

from __future__ import annotations

import errno
import logging
import os
import random
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from backupctl.clock import SystemClock
from backupctl.hosts.local import LocalHost
from backupctl.operations.mount import layout
from backupctl.operations.records import SnapshotTags
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.mount import Folder, SnapshotFileSystem
from backupctl.repository.random_access import BlobLoader
from backupctl.repository.repository import Repository, pack_name
from backupctl.sources.files import FilesOptions, FilesSource
from tests.nasty_tree import build_nasty_tree

from .engine import damage
from .helpers import NOW, backup, directory, file, new_repository

LONG = random.Random(20261122).randbytes(9 << 20)


def mounted(repo: Repository, snapshot: Snapshot) -> SnapshotFileSystem:
    return SnapshotFileSystem(repo, Folder({b"job": Folder({b"now": snapshot, b"latest": b"now"})}), uid=1, gid=2)


@pytest.fixture
def long() -> Iterator[tuple[Repository, SnapshotFileSystem]]:
    """One large file, `/job/now/s/long`, beside a small one."""
    repo = new_repository()
    snapshot = backup(repo, {"s": [file(b"long", LONG, inode=1), file(b"small", b"content", inode=2)]})[2][0]
    file_system = mounted(repo, snapshot)
    yield repo, file_system
    file_system.close()


def number_of(call: Any, *arguments: Any) -> int:
    with pytest.raises(OSError) as caught:
        list(call(*arguments))
    assert caught.value.errno is not None
    return caught.value.errno


def test_every_entry_of_the_nasty_tree_is_what_it_was(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.mkdir()
    build_nasty_tree(origin)
    if os.geteuid() != 0:
        (origin / "modes/0000").unlink()
    repo = new_repository()
    source = FilesSource("files", FilesOptions(paths=[str(origin)]))
    snapshot = backup(repo, {"files": source.open(LocalHost("local"), SystemClock()).entries()})[2][0]
    file_system = mounted(repo, snapshot)
    seen = 0
    inodes: dict[int, set[int]] = {}
    top = f"/job/now/files{origin}"
    for where, names, files in os.walk(origin):
        inside = top + where.removeprefix(str(origin))
        assert sorted(name for name, _, _ in file_system.readdir(inside)) == sorted([".", "..", *names, *files])
        for name in [*names, *files]:
            seen += 1
            path, info = f"{inside}/{name}", os.lstat(f"{where}/{name}")
            status = file_system.getattr(path)
            inodes.setdefault(status["st_ino"], set()).add(info.st_ino)
            same = ["st_mode", "st_uid", "st_gid", "st_rdev"]
            same += [] if stat.S_ISDIR(info.st_mode) else ["st_nlink", "st_size"]
            assert {key: status[key] for key in same} == {key: getattr(info, key) for key in same}, path
            assert (status["st_mtime"], status["st_ctime"]) == (info.st_mtime_ns, info.st_ctime_ns)
            attributes = os.listxattr(f"{where}/{name}", follow_symlinks=False)
            assert sorted(file_system.listxattr(path)) == sorted(attributes)
            for one in attributes:
                expected = os.getxattr(f"{where}/{name}", one, follow_symlinks=False)
                assert file_system.getxattr(path, one) == expected
            if stat.S_ISLNK(info.st_mode):
                assert file_system.readlink(path) == os.readlink(f"{where}/{name}")
            elif stat.S_ISREG(info.st_mode):
                handle = file_system.open(path)
                content = Path(where, name).read_bytes()
                assert file_system.read(path, len(content) + 1, 0, handle) == content
                file_system.release(path, handle)
    assert seen > 120
    assert all(len(originals) == 1 for originals in inodes.values()), "an inode number is one file"
    assert len(inodes) == len(set.union(*inodes.values())), "hard links of one file share theirs"
    file_system.close()


def test_any_range_of_a_large_file(long: Any) -> None:
    _, file_system = long
    handle = file_system.open("/job/now/s/long")
    rng = random.Random(1)
    for _ in range(200):
        offset, size = rng.randrange(len(LONG) + 10), rng.choice((0, 1, 4096, 131072, 3 << 20))
        assert file_system.read("", size, offset, handle) == LONG[offset : offset + size]
    assert file_system.read("", 10, len(LONG) - 3, handle) == LONG[-3:]


def test_a_range_loads_only_its_blobs_and_many_readers_load_each_once(long: Any) -> None:
    repo, file_system = long
    loaded: list[bytes] = []
    load = repo.load_blob

    def noted(kind: Any, blob_id: bytes) -> bytes:
        if kind == "data":
            loaded.append(blob_id)
        return bytes(load(kind, blob_id))

    repo.load_blob = noted
    handle = file_system.open("/job/now/s/long")
    assert loaded == [], "opening reads nothing"
    file_system.read("", 10, 5 << 20, handle)
    assert len(loaded) == 1
    with ThreadPoolExecutor(8) as readers:
        list(readers.map(lambda offset: file_system.read("", 4096, offset, handle), range(0, len(LONG), 4096)))
    assert len(loaded) == len(set(loaded)), "no blob twice, however many ask for it at once"


def test_the_cache_stays_within_its_bounds() -> None:
    repo = new_repository()
    saver = repo.blob_saver()
    blobs = [saver.save("data", bytes([number]) * 1000) for number in range(50)]
    saver.flush()
    loader = BlobLoader(repo, cache_bytes=5000, threads=4)
    for _ in range(3):
        for number, blob in enumerate(blobs):
            assert loader.load(blob) == bytes([number]) * 1000
    loader.close()
    assert sum(len(one.result()) for one in loader._blobs.values()) <= 5000
    assert len(loader._blobs) == len(loader._sizes)


def test_damage_is_an_input_output_error_that_is_named_and_never_other_bytes(
    long: Any, caplog: pytest.LogCaptureFixture
) -> None:
    repo, file_system = long
    handle = file_system.open("/job/now/s/long")
    blob = file_system._open[handle]._content[2]
    (place,) = repo.locate("data", blob)
    damage(repo, pack_name(place.pack), bit=(place.blob.offset + 40) * 8)
    start, end = file_system._open[handle]._ends[1:3]
    with caplog.at_level(logging.ERROR):
        assert number_of(file_system.read, "/job/now/s/long", 10, start, handle) == errno.EIO
    assert "/s/long" in caplog.text
    assert pack_name(place.pack) in caplog.text
    assert number_of(file_system.read, "", end - start + 2, start - 1, handle) == errno.EIO
    assert file_system.read("", 100, start - 100, handle) == LONG[start - 100 : start]
    assert file_system.read("", 100, end, handle) == LONG[end : end + 100]
    assert file_system.read("", 7, 0, file_system.open("/job/now/s/small")) == b"content"


def test_a_directory_that_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    repo = new_repository()
    snapshot = backup(repo, {"s": [directory(b"d"), file(b"d/f", b"1"), file(b"g", b"2", inode=8)]})[2][0]
    file_system = mounted(repo, snapshot)
    subtree = file_system._find("/job/now/s/d").node.subtree  # type: ignore[union-attr]  # it is there
    assert subtree is not None
    (place,) = repo.locate("tree", subtree)
    damage(repo, pack_name(place.pack), bit=(place.blob.offset + 20) * 8)
    file_system.close()
    repo = Repository.open(repo.store, "secret", clock=repo.clock)  # which has read nothing yet
    file_system = mounted(repo, snapshot)
    assert number_of(file_system.readdir, "/job/now/s/d") == errno.EIO
    assert number_of(file_system.getattr, "/job/now/s/d/f") == errno.EIO
    assert "/s/d" in caplog.text
    assert file_system.getattr("/job/now/s/g")["st_size"] == 1
    file_system.close()


def test_what_is_not_there_or_cannot_be_done(long: Any) -> None:
    _, file_system = long
    assert [name for name, _, _ in file_system.readdir("/job")] == [".", "..", "now", "latest"]
    assert file_system.readlink("/job/latest") == "now"
    assert stat.S_ISLNK(file_system.getattr("/job/latest")["st_mode"])
    assert file_system.getattr("/")["st_uid"] == 1
    assert file_system.getattr("/job/now")["st_mode"] == stat.S_IFDIR | 0o755
    for path, wanted in (
        ("/nope", errno.ENOENT),
        ("/job/nope", errno.ENOENT),
        ("/job/now/s/nope", errno.ENOENT),
        ("/job/now/s/small/below", errno.ENOTDIR),
        ("/job/latest/s", errno.ENOENT),
    ):
        assert number_of(file_system.getattr, path) == wanted, path
    assert number_of(file_system.getxattr, "/job/now/s/small", "user.none") == errno.ENODATA
    assert number_of(file_system.readlink, "/job/now/s/small") == errno.EINVAL
    assert number_of(file_system.readdir, "/job/now/s/small") == errno.ENOTDIR
    assert number_of(file_system.open, "/job/now/s", os.O_RDONLY) == errno.EINVAL
    assert number_of(file_system.open, "/job/now/s/small", os.O_RDWR) == errno.EROFS
    assert file_system.statfs("/")["f_bfree"] == 0


def test_the_layout_names_snapshots_by_time_and_marks_what_is_not_whole() -> None:
    def made(number: int, *, job: str = "site", complete: bool = True, ours: bool = True) -> Snapshot:
        tags = SnapshotTags(ours=True, job=job, run="1", complete=complete).encode() if ours else []
        time = NOW.replace(hour=number // 10, microsecond=number % 10)
        return Snapshot(time, bytes(32), tags=tags, id=f"{number:08x}" * 8)

    root = layout(
        [made(10), made(20), made(21), made(30, complete=False), made(40, job="shop"), made(50, ours=False)]
    ).entries
    assert list(root) == [b"shop", b"site", b"foreign"]
    site, foreign = root[b"site"], root[b"foreign"]
    assert isinstance(site, Folder)
    assert isinstance(foreign, Folder)
    assert list(site.entries) == [
        b"2026-11-22T01:00:00Z",
        b"2026-11-22T02:00:00Z",
        b"2026-11-22T02:00:00Z-00000015",
        b"2026-11-22T03:00:00Z-incomplete",
        b"latest",
    ]
    assert site.entries[b"latest"] == b"2026-11-22T02:00:00Z-00000015", "the newest complete one"
    assert list(foreign.entries) == [b"2026-11-22T05:00:00Z-00000032"]
    assert list(layout([made(10), made(40, job="shop")], "shop").entries) == [b"shop"]
