"""Searching many snapshots: histories, what is not read twice, and what a damaged object takes with it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backupctl.errors import NoSuchError
from backupctl.repository.find import Finder, Query, blob_ids, pack_contents, versions
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository

from .helpers import NOW, OLD_NS, backup, directory, file, new_repository

LATER_NS = OLD_NS + 86_400_000_000_000


def nights(repo: Repository, count: int, *, without: tuple[int, ...] = ()) -> list[Snapshot]:
    """`srv/log` changes at night 3; `srv/other/…` never does; nights in `without` lack `srv/log`."""
    every = []
    for night in range(count):
        entries = [directory(b"srv"), directory(b"srv/Other"), file(b"srv/Other/still", b"x", inode=5)]
        if night not in without:
            mtime_ns = OLD_NS if night < 3 else LATER_NS
            entries.append(file(b"srv/log", b"%d" % (night // 3), inode=6, mtime_ns=mtime_ns))
        snapshot = backup(repo, {"files": entries})[2][0]
        snapshot.time = NOW + timedelta(days=night)
        every.append(snapshot)
    return every


def history(repo: Repository, every: list[Snapshot], query: Query, incomplete: tuple[int, ...] = ()) -> list[list[int]]:
    """The nights of each version, newest first."""
    finder = Finder(repo, query)
    found = versions(
        (one, number not in incomplete, finder.find(one)) for number, one in reversed(list(enumerate(every)))
    )
    assert not finder.problems
    return [[(one.time - NOW).days for one in version.snapshots] for version in found]


def test_equal_files_in_consecutive_snapshots_are_one_version() -> None:
    repo = new_repository()
    assert history(repo, nights(repo, 6), Query("log")) == [[5, 4, 3], [2, 1, 0]]


def test_a_file_that_was_gone_begins_anew_unless_the_gap_is_an_incomplete_snapshot() -> None:
    repo = new_repository()
    every = nights(repo, 3, without=(1,))
    assert history(repo, every, Query("log")) == [[2], [0]]
    assert history(repo, every, Query("log"), incomplete=(1,)) == [[2, 0]]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (Query("srv/*"), {b"files/srv/Other", b"files/srv/log"}),
        (Query("/srv/*"), set()),
        (Query("/files/srv/l*"), {b"files/srv/log"}),
        (Query("other"), set()),
        (Query("other", ignore_case=True), {b"files/srv/Other"}),
        (Query("OTHER/st*", ignore_case=True), {b"files/srv/Other/still"}),
        (Query("log", oldest=datetime(2023, 11, 15, tzinfo=UTC)), set()),
        (Query("log", oldest=datetime(2023, 11, 14, tzinfo=UTC)), {b"files/srv/log"}),
        (Query("log", newest=datetime(2023, 11, 14, tzinfo=UTC)), set()),
    ],
)
def test_what_matches(query: Query, wanted: set[bytes]) -> None:
    repo = new_repository()
    (one,) = nights(repo, 1)
    assert {path for path, _ in Finder(repo, query).find(one)} == wanted


def test_a_directory_without_a_match_is_read_once_for_all_nights() -> None:
    repo = new_repository()
    every = nights(repo, 6)
    read: list[bytes] = []
    load = repo.load_blob

    def noted(kind: str, blob_id: bytes) -> bytes:
        read.append(blob_id)
        return load(kind, blob_id)  # type: ignore[arg-type]  # as it was asked

    repo.load_blob = noted  # type: ignore[method-assign]  # what is read is the question
    for query in (Query("nothing-like-it"), Query("/no/such/*")):
        read.clear()
        assert history(repo, every, query) == []
        assert len(read) <= 4 + 2 * len(every), "the root of every night, the rest once per version"
        assert len(read) < 4 * len(every)


def test_what_uses_a_blob_a_tree_or_a_pack() -> None:
    repo = new_repository()
    every = nights(repo, 4)
    finder = Finder(repo, Query())
    nodes = dict(finder.find(every[0]))
    (blob,) = nodes[b"files/srv/log"].content or ()
    tree = nodes[b"files/srv/Other"].subtree
    assert tree is not None
    whole, _ = blob_ids(repo, blob.hex()[:16])
    assert whole == {blob}
    assert history(repo, every, Query(blobs=whole)) == [[2, 1, 0]]
    assert {path for path, _ in Finder(repo, Query(trees=frozenset((tree,)))).find(every[3])} == {b"files/srv/Other"}
    assert next(Finder(repo, Query(trees=frozenset((every[0].tree,)))).find(every[0]))[0] == b""

    (place,) = repo.locate("data", blob)
    pack, blobs, trees = pack_contents(repo, place.pack.hex()[:12])
    assert (pack, blob in blobs) == (place.pack.hex(), True)
    found = {path for path, _ in Finder(repo, Query(blobs=blobs, trees=trees)).find(every[0])}
    assert b"files/srv/log" in found

    for ask in (pack_contents, blob_ids):
        with pytest.raises(NoSuchError, match="in any index"):
            ask(repo, "00" * 16)
    assert blob_ids(repo, "00" * 32)[0] == {bytes(32)}, "a whole id may be of an object that no index knows any more"
