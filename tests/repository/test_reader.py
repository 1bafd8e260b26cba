"""Finding and reading what is in a snapshot, and refusing what cannot be true."""

from __future__ import annotations

from typing import Any

import pytest

from backupctl.errors import DamageError, NoSuchError
from backupctl.repository.format.node import Node
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import encode_tree
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository

from .helpers import NOW, backup, directory, file, new_repository, other

LONG = b"".join(n.to_bytes(4, "big") for n in range(700_000))
TREE = [
    directory(b"srv"),
    file(b"srv/a.log", b"a", inode=1),
    directory(b"srv/sub"),
    file(b"srv/sub/\xff.log", LONG, inode=2),
    other(b"srv/z", "symlink", linktarget=b"a.log"),
]


@pytest.fixture
def reader() -> SnapshotReader:
    repo = new_repository()
    return SnapshotReader(repo, backup(repo, {"files": TREE})[2][0])


def paths(found: Any) -> list[bytes]:
    return [path for path, _ in found]


def test_nodes_lists_and_walks(reader: SnapshotReader) -> None:
    assert reader.node(b"").type == "dir"
    assert reader.node(b"/files//srv/").name == b"srv"
    assert paths(reader.list()) == [b"files"]
    assert paths(reader.list(b"files/srv")) == [b"files/srv/a.log", b"files/srv/sub", b"files/srv/z"]
    assert paths(reader.list(b"files/srv/z")) == paths(reader.walk(b"files/srv/z")) == [b"files/srv/z"]
    assert paths(reader.list(b"files/srv", recursive=True)) == paths(reader.walk(b"files/srv"))
    assert paths(reader.walk()) == [b"files", *(b"files/" + entry.path for entry in TREE)]


@pytest.mark.parametrize("path", [b"nope", b"files/nope", b"files/srv/a.log/below", b"files/srv/../srv", b"."])
def test_a_path_that_is_not_there(reader: SnapshotReader, path: bytes) -> None:
    with pytest.raises(NoSuchError, match="holds nothing") as caught:
        reader.node(path)
    assert "backupctl ls" in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.log", [b"files/srv/a.log", b"files/srv/sub/\xff.log"]),
        ("a*", [b"files/srv/a.log"]),
        ("/files/srv/*", [b"files/srv/a.log", b"files/srv/sub", b"files/srv/z"]),
        ("/files/**.log", [b"files/srv/a.log", b"files/srv/sub/\xff.log"]),
        ("nope", []),
    ],
)
def test_find(reader: SnapshotReader, pattern: str, wanted: list[bytes]) -> None:
    assert paths(reader.find(pattern)) == wanted


def test_streams(reader: SnapshotReader) -> None:
    path = b"files/srv/sub/\xff.log"
    with reader.open(path) as stream:
        assert stream.size == len(LONG)
        pieces = []
        while piece := stream.read(70_001):
            pieces.append(piece)
        assert max(map(len, pieces)) <= 70_001
        assert b"".join(pieces) == LONG
        assert stream.read(1) == b""
    with reader.open(path) as stream:
        assert stream.read(5) + stream.read() == LONG
    with reader.open(path) as stream:
        assert b"".join(stream.blobs()) == LONG
    with reader.open(path) as stream:
        assert stream.read(0) == b""
    with pytest.raises(NoSuchError, match="not a regular file"):
        reader.open(b"files/srv")


def test_a_source_as_a_restore_sees_it(reader: SnapshotReader) -> None:
    files = reader.files("files")
    assert files.names() == [b"srv"]
    assert files.names(b"srv") == [b"a.log", b"sub", b"z"]
    assert files.size(b"srv/sub/\xff.log") == len(LONG)
    assert files.open(b"/srv/a.log").read() == b"a"
    with pytest.raises(NoSuchError):
        reader.files("other")


def crafted(repo: Repository, tree: bytes) -> SnapshotReader:
    saver = repo.blob_saver()
    snapshot = Snapshot(NOW, saver.save("tree", tree))
    saver.flush()
    return SnapshotReader(repo, snapshot)


@pytest.mark.parametrize("name", ["", ".", "..", "../../etc/cron.d/x", "/etc/passwd", "a/b", "nul\\\\x00"])
def test_hostile_names(name: str) -> None:
    node = encode_tree([Node(b"NAME", "dir", 0o755, subtree=bytes(32))]).replace(b"NAME", name.encode())
    with crafted(new_repository(), node) as reader, pytest.raises(DamageError):
        list(reader.walk())


def test_two_entries_of_one_name() -> None:
    tree = encode_tree([Node(b"x1", "symlink", 0o777, linktarget=b"/etc"), Node(b"x2", "fifo")])
    tree = tree.replace(b"x1", b"xx").replace(b"x2", b"xx")
    with crafted(new_repository(), tree) as reader, pytest.raises(DamageError, match="two entries are named xx"):
        list(reader.walk())


@pytest.mark.parametrize("tree", [b"", b"{}", b"not json", b'{"nodes":[{}]}', b'{"nodes":[{"name":"d","type":"dir"}]}'])
def test_trees_that_are_none(tree: bytes) -> None:
    with crafted(new_repository(), tree) as reader, pytest.raises(DamageError):
        list(reader.walk())


@pytest.mark.parametrize("size", [4, 6, 1 << 40])
def test_a_size_that_lies_is_damage(size: int) -> None:
    """restic's own `restore --verify` believes it: see the format's pitfall 12."""
    repo = new_repository()
    saver = repo.blob_saver()
    blob = saver.save("data", b"12345")
    saver.flush()
    tree = encode_tree([Node(b"f", "file", 0o644, inode=9, size=size, content=[blob])])
    with (
        crafted(repo, tree) as reader,
        reader.open(b"f") as stream,
        pytest.raises(DamageError, match="/f: its blobs hold"),
    ):
        while stream.read(3):
            pass
    with crafted(repo, tree) as reader, reader.open(b"f") as stream, pytest.raises(DamageError):
        stream.read()


def test_a_blob_that_is_in_no_index_names_the_file() -> None:
    tree = encode_tree([Node(b"f", "file", 0o644, inode=9, size=5, content=[bytes(32)])])
    with crafted(new_repository(), tree) as reader, pytest.raises(DamageError, match=r"^/f: "):
        reader.open(b"f").read()
