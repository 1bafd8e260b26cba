"""What differs between two snapshots: every kind of difference, equal parts not read, damage named."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from backupctl.errors import NoSuchError
from backupctl.repository.diff import SnapshotDiff
from backupctl.repository.entry import Entry
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository

from .engine import damage
from .helpers import OLD_NS, backup, directory, file, new_repository, other

OLD = [
    directory(b"srv"),
    file(b"srv/changed", b"before", inode=1),
    file(b"srv/chmod", b"same", inode=2),
    file(b"srv/gone", b"g" * 5000, inode=3),
    file(b"srv/kind", b"was a file", inode=4),
    other(b"srv/link", "symlink", linktarget=b"changed"),
    directory(b"srv/quiet"),
    file(b"srv/quiet/one", b"1", inode=5),
    directory(b"srv/went"),
    file(b"srv/went/inside-\xff", b"x", inode=6),
]
NEW = [
    directory(b"srv"),
    file(b"srv/changed", b"after it", inode=1, mtime_ns=OLD_NS + 1, ctime_ns=OLD_NS + 1),
    file(b"srv/chmod", b"same", inode=2, mode=0o600, ctime_ns=OLD_NS + 1),
    file(b"srv/fresh", b"f" * 7000, inode=7),
    directory(b"srv/kind"),
    file(b"srv/kind/below", b"now a directory", inode=8),
    other(b"srv/link", "symlink", linktarget=b"fresh"),
    directory(b"srv/quiet"),
    file(b"srv/quiet/one", b"1", inode=5),
]


def snapshots(repo: Repository, *trees: Iterable[Entry]) -> list[Snapshot]:
    return [backup(repo, {"files": tree})[2][0] for tree in trees]


def test_every_kind_of_difference_in_order() -> None:
    repo = new_repository()
    old, new = snapshots(repo, OLD, NEW)
    diff = SnapshotDiff(repo, old, new, metadata=True)
    found = [(one.kind, one.path.removeprefix(b"files/srv/"), one.fields) for one in diff]
    assert found == [
        ("changed", b"changed", ("mtime",)),
        ("metadata", b"chmod", ("mode",)),
        ("added", b"fresh", ()),
        ("removed", b"gone", ()),
        ("type", b"kind", ()),
        ("added", b"kind/below", ()),
        ("changed", b"link", ()),
        ("removed", b"went", ()),
        ("removed", b"went/inside-\xff", ()),
    ]
    stats = diff.stats
    assert (stats.added.files, stats.added.bytes, stats.added.directories) == (2, 7015, 0)
    assert (stats.removed.files, stats.removed.bytes, stats.removed.directories) == (2, 5001, 1)
    assert (stats.changed.files, stats.changed.others, stats.retyped, stats.metadata) == (1, 1, 1, 1)
    assert stats.differences == len(found)
    data_bytes = {"added": 8 + 7000 + 15, "removed": 6 + 5000 + 10 + 1}
    assert data_bytes["added"] < stats.added_blob_bytes < data_bytes["added"] + 10_000, "plus trees"
    assert data_bytes["removed"] < stats.removed_blob_bytes < data_bytes["removed"] + 10_000


def test_without_metadata_only_content_counts() -> None:
    repo = new_repository()
    old, new = snapshots(repo, OLD, NEW)
    assert "metadata" not in {one.kind for one in SnapshotDiff(repo, old, new)}


def test_equal_subtrees_are_not_read() -> None:
    repo = new_repository()
    old, new = snapshots(repo, OLD, NEW)
    read: list[bytes] = []
    load = repo.load_blob

    def noted(kind: str, blob_id: bytes) -> bytes:
        read.append(blob_id)
        return load(kind, blob_id)  # type: ignore[arg-type]  # as it was asked

    repo.load_blob = noted  # type: ignore[method-assign]  # what is read is the question
    assert list(SnapshotDiff(repo, new, new)) == []
    assert read == []
    list(SnapshotDiff(repo, old, new))
    assert len(read) == 2 * 3 + 2, "root, files and srv of both, and the two directories that are on one side only"


def test_one_path_only_and_a_path_that_one_side_lacks() -> None:
    repo = new_repository()
    old, new = snapshots(repo, OLD, NEW)
    (one,) = SnapshotDiff(repo, old, new, b"/files/srv/changed/")
    assert (one.kind, one.path) == ("changed", b"files/srv/changed")
    assert [one.kind for one in SnapshotDiff(repo, old, new, b"files/srv/went")] == ["removed", "removed"]
    assert [one.kind for one in SnapshotDiff(repo, new, old, b"files/srv/went")] == ["added", "added"]
    with pytest.raises(NoSuchError, match=r"neither .* holds /files/nope"):
        list(SnapshotDiff(repo, old, new, b"files/nope"))


def test_a_directory_that_cannot_be_read_is_named_and_the_rest_compared() -> None:
    repo = new_repository()
    old, new = snapshots(
        repo,
        [directory(b"a"), file(b"a/x", b"1"), file(b"b", b"1")],
        [directory(b"a"), file(b"a/x", b"2"), file(b"b", b"2")],
    )
    from backupctl.repository.reader import SnapshotReader
    from backupctl.repository.repository import pack_name

    subtree = SnapshotReader(repo, old).node(b"files/a").subtree
    assert subtree is not None
    (place,) = repo.locate("tree", subtree)
    damage(repo, pack_name(place.pack), bit=(place.blob.offset + 20) * 8)
    repo = Repository.open(repo.store, "secret", clock=repo.clock)  # which has read nothing yet
    diff = SnapshotDiff(repo, old, new)
    assert [(one.kind, one.path) for one in diff] == [("changed", b"files/b")]
    (problem,) = diff.stats.problems
    assert old.short_id in problem
    assert "/files/a" in problem
