"""Archives: what GNU tar and Python's zipfile unpack is what was backed up; one that broke off is never taken for whole."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import tarfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backupctl.clock import SystemClock
from backupctl.errors import DamageError
from backupctl.hosts.local import LocalHost
from backupctl.repository import zip as zip_module
from backupctl.repository.archive import ArchiveStats, write_archive
from backupctl.repository.format.node import Node
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import encode_tree
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository, pack_name
from backupctl.repository.tar import TarWriter, _record
from backupctl.repository.zip import ZipWriter
from backupctl.sources.files import FilesOptions, FilesSource
from tests.end_to_end.trees import tree
from tests.nasty_tree import build_nasty_tree

from .engine import damage
from .helpers import NOW, OLD_NS, backup, directory, file, new_repository

WRITERS = {"tar": TarWriter, "zip": ZipWriter}


def archive(kind: str, reader: SnapshotReader, path: bytes = b"") -> tuple[bytes, ArchiveStats]:
    out = io.BytesIO()
    stats = write_archive(reader, path, WRITERS[kind](out.write))
    return out.getvalue(), stats


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SnapshotReader, bytes]:
    """The nasty tree, a reader of a snapshot of it, and its path there."""
    origin = tmp_path_factory.mktemp("nasty") / "origin"
    origin.mkdir()
    build_nasty_tree(origin)
    if os.geteuid() != 0:
        (origin / "modes/0000").unlink()
    source = FilesSource("files", FilesOptions(paths=[str(origin)]))
    repo = new_repository()
    _, _, (snapshot, _) = backup(repo, {"files": source.open(LocalHost("local"), SystemClock()).entries()})
    return origin, SnapshotReader(repo, snapshot), b"files" + os.fsencode(origin)


def test_gnu_tar_unpacks_the_nasty_tree_as_it_was(nasty: Any, tmp_path: Path) -> None:
    origin, reader, path = nasty
    data, stats = archive("tar", reader, path)
    assert stats.skipped == []
    done = subprocess.run(
        [
            "tar",
            "-x",
            "-p",
            "--acls",
            "--xattrs",
            "--xattrs-include=*",
            "--delay-directory-restore",
            "--warning=no-timestamp",
            "-C",
            str(tmp_path),
        ],
        input=data,
        stderr=subprocess.PIPE,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    unpacked, wanted = tree(tmp_path), tree(origin)
    assert unpacked.keys() == wanted.keys()
    assert [name for name in wanted if unpacked[name] != wanted[name]] == []
    assert (tmp_path / "links/first").stat().st_ino == (tmp_path / "special/third").stat().st_ino
    assert archive("tar", reader, path)[0] == data, "equal snapshots give equal bytes"


def test_zipfile_unpacks_the_nasty_tree_as_far_as_zip_goes(nasty: Any) -> None:
    origin, reader, path = nasty
    data, stats = archive("zip", reader, path)
    wanted = {name: facts for name, facts in tree(origin).items() if os.path.exists(origin)}
    kinds = {name: stat.S_IFMT(int(str(facts[0]))) for name, facts in wanted.items()}
    left_out = {name for name, kind in kinds.items() if kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK)}
    assert {"special/fifo"} <= {os.fsdecode(name) for name in left_out}
    assert len(stats.skipped) == len(left_out)
    found = {}
    with zipfile.ZipFile(io.BytesIO(data)) as unpacked:
        assert unpacked.testzip() is None
        for one in unpacked.infolist():
            name = one.filename.encode() if one.flag_bits & 0x800 else one.filename.encode("cp437")
            found[name.rstrip(b"/")] = (one.external_attr >> 16, unpacked.read(one))
            when = datetime.fromtimestamp(int(str(wanted[name.rstrip(b"/")][3])) // 10**9, UTC)
            if when.year >= 1980:
                assert one.date_time == (*when.timetuple()[:5], when.second // 2 * 2)
    assert found.keys() == wanted.keys() - left_out
    for name, (mode, content) in found.items():
        assert mode == wanted[name][0], name
        assert content == (wanted[name][-2] or wanted[name][-3]), name
    assert archive("zip", reader, path)[0] == data


def entries() -> Any:
    return [
        directory(b"d"),
        file(b"d/first", b"f" * 5000, inode=1),
        file(b"d/second", b"s" * 512, inode=2),
        directory(b"e"),
        file(b"e/third", b"t", inode=3),
    ]


def crafted(repo: Repository, sources: dict[str, list[Node]], contents: list[bytes]) -> SnapshotReader:
    """A snapshot of trees as given, such as our own writer would not make; file nodes name blobs by `contents`."""
    saver = repo.blob_saver()
    for content in contents:
        saver.save("data", content)
    trees = [
        Node(name.encode(), "dir", 0o755, subtree=saver.save("tree", encode_tree(nodes)))
        for name, nodes in sources.items()
    ]
    root = saver.save("tree", encode_tree(trees))
    saver.flush()
    return SnapshotReader(repo, Snapshot(NOW, root, []))


def file_node(name: bytes, content: bytes, **fields: Any) -> Node:
    return Node(name, "file", 0o644, size=len(content), content=[hashlib.sha256(content).digest()], **fields)


def test_what_an_archive_cannot_hold_is_told_and_the_rest_is_there() -> None:
    reader = crafted(new_repository(), {"s": [Node(b"a", "socket"), file_node(b"b", b"content")]}, [b"content"])
    for kind in WRITERS:
        data, stats = archive(kind, reader)
        assert stats.skipped == [("/s/a", f"a socket cannot be in a {kind} archive")]
        assert (stats.entries, stats.bytes) == (2, 7)
        names = tar_names(data) if kind == "tar" else zip_names(data)
        assert [name.rstrip("/") for name in names] == ["s", "s/b"]


def tar_names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as unpacked:
        return unpacked.getnames()


def zip_names(data: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(data)).namelist()


def broken(repo: Repository, kind: Any, blob: bytes) -> None:
    (place,) = repo.locate(kind, blob)
    damage(repo, pack_name(place.pack), bit=(place.blob.offset + 20) * 8)


@pytest.mark.parametrize("what", ["d/first", "d/second", "e", "e/third"])
def test_an_archive_that_broke_off_is_taken_for_whole_by_nobody(what: str) -> None:
    repo = new_repository()
    snapshot = backup(repo, {"s": entries()})[2][0]
    node = SnapshotReader(repo, snapshot).node(b"s/" + what.encode())
    if node.subtree is not None:
        broken(repo, "tree", node.subtree)
    else:
        broken(repo, "data", (node.content or [b""])[0])
    repo = Repository.open(repo.store, "secret", clock=repo.clock)  # which has read nothing yet
    for kind, writer in WRITERS.items():
        out = io.BytesIO()
        with SnapshotReader(repo, snapshot) as reader, pytest.raises(DamageError, match=f"/s/{what}"):
            write_archive(reader, b"", writer(out.write))
        if kind == "tar":
            done = subprocess.run(["tar", "-t"], input=out.getvalue(), capture_output=True, timeout=60)
            assert done.returncode == 2, out.getvalue()[-2000:]
            assert b"Unexpected EOF" in done.stderr
        else:
            with pytest.raises(zipfile.BadZipFile):
                zip_names(out.getvalue())


def test_hard_links_of_other_machines_and_of_other_content_stay_files_of_their_own() -> None:
    twin = {"inode": 9, "device_id": 4, "links": 3}
    one = [file_node(b"a", b"1", **twin), file_node(b"b", b"1", **twin), file_node(b"c", b"2", **twin)]
    reader = crafted(new_repository(), {"x": one, "y": [file_node(b"a", b"1", **twin)]}, [b"1", b"2"])
    data, _ = archive("tar", reader)
    with tarfile.open(fileobj=io.BytesIO(data)) as unpacked:
        links = {member.name: member.linkname for member in unpacked if not member.isdir()}
    assert links == {"x/a": "", "x/b": "x/a", "x/c": "", "y/a": ""}


def test_large_numbers_in_both_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_module, "_MOST", 3000)
    monkeypatch.setattr(zip_module, "_ZIP64_FROM_BYTES", 2000)
    repo = new_repository()
    large = {"uid": 2**31, "gid": 2**32 - 2, "mtime_ns": 8**11 * 10**9, "user": "ü" * 20}
    rest = [file(b"n%d" % number, os.urandom(1500), inode=number) for number in range(2, 5)]
    reader = SnapshotReader(repo, backup(repo, {"s": [file(b"big", os.urandom(4000), inode=1, **large), *rest]})[2][0])
    data, _ = archive("tar", reader, b"s")
    with tarfile.open(fileobj=io.BytesIO(data)) as unpacked:
        member = unpacked.getmember("big")
    assert (member.uid, member.gid, member.mtime, member.uname) == (2**31, 2**32 - 2, 8**11, "ü" * 20)
    data, _ = archive("zip", reader, b"s")
    assert b"PK\6\6" in data, "a zip64 end of the directory"


def test_one_file_comes_under_its_own_name() -> None:
    repo = new_repository()
    reader = SnapshotReader(repo, backup(repo, {"s": entries()})[2][0])
    data, _ = archive("tar", reader, b"/s/d/first/")
    with tarfile.open(fileobj=io.BytesIO(data)) as unpacked:
        (member,) = unpacked
        assert (member.name, member.size, float(member.mtime)) == ("first", 5000, pytest.approx(OLD_NS / 1e9))


@pytest.mark.parametrize("length", range(1, 110))
def test_the_length_of_a_pax_record_counts_its_own_digits(length: int) -> None:
    record = _record(b"path", b"x" * length)
    assert int(record.split(b" ")[0]) == len(record)
