"""The quick ways of reading agree with the careful ones, in this process, in threads and in workers."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from array import array
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupctl.clock import FakeClock
from backupctl.repository import check_reading, pack_opening
from backupctl.repository.check import check
from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import Keys, seal
from backupctl.repository.format.node import Node
from backupctl.repository.format.tree import encode_tree, iterate_tree
from backupctl.repository.format.tree_scan import TreeScan, TreeScans, _scan_any, _scan_written, scan_tree
from backupctl.repository.pack_opening import open_file
from backupctl.repository.repository import Repository
from backupctl.storage.local import LocalStore
from backupctl.storage.nearby import open_object
from tests.repository.engine import NOW, PASSWORD, backup, content, create, damage, objects, reopen

FILE = Node(b"f", "file", 0o644, 1, 2, 3, 1000, 1000, "user", "group", 5, 6, 7, content=[b"\1" * 32, b"\2" * 32])
NODES = [
    FILE,
    replace(FILE, name="名".encode(), content=[], size=0, mtime_ns=1_700_000_000_123_456_789),
    Node(b"d", "dir", 0o1755, subtree=b"\3" * 32, uid=3_000_000_000),
    Node(b"e", "symlink", 0o777, linktarget=b"/there", links=1),
    Node(b"g", "chardev", 0o600, device=259, links=1),
    Node(b"h", "fifo"),
]


def test_trees_as_we_write_them_are_scanned_the_quick_way() -> None:
    tree = encode_tree(NODES)
    found = _scan_written(tree)
    assert found == _scan_any(tree)
    assert found is not None and found.sound
    assert found.subtrees == b"\3" * 32 and found.content == b"\1" * 32 + b"\2" * 32
    assert (found.sizes, found.counts) == (array("Q", [7, 0]), array("I", [2, 0]))
    assert scan_tree(encode_tree([])) == TreeScan()


def test_the_scans_of_many_trees_come_back_as_they_were() -> None:
    scans = [scan_tree(encode_tree(nodes)) for nodes in (NODES, [], [FILE], NODES[2:], [FILE])] + [scan_tree(b"{")]
    many = TreeScans()
    for number, scan in enumerate(scans):
        many.add(3 * number, scan)
    assert list(pickle.loads(pickle.dumps(many))) == [(3 * number, scan) for number, scan in enumerate(scans)]


PIECES = st.sampled_from(
    [
        *(
            "{",
            "}",
            "[",
            "]",
            ",",
            '"',
            "\\",
            "/",
            "..",
            "null",
            "1",
            "-",
            "99999999999999999999",
            "é",
            "\\u0041",
            "",
            "\x00",
        ),
        *(
            '"content":[]',
            '"type":"dir"',
            '"subtree":"' + "0" * 64 + '"',
            "2026-02-30",
            "2026-02-29",
            "24:00:00",
            "+01:00",
        ),
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 30), PIECES)
def test_what_the_quick_way_takes_the_careful_way_takes_too(where: int, cut: int, piece: str) -> None:
    """For trees with any small piece cut out or put in."""
    tree = encode_tree(NODES).decode()
    start = where % len(tree)
    data = (tree[:start] + piece + tree[start + cut :]).encode()
    quick = _scan_written(data)
    if quick is not None:
        assert quick == _scan_any(data) and quick.sound
    try:
        list(iterate_tree(data))
    except FormatError:
        assert not scan_tree(data).sound


@pytest.mark.parametrize("day", ["01-32", "02-30", "04-31", "13-01", "00-10", "02-29"])
def test_days_that_are_not_in_the_calendar(day: str) -> None:
    tree = re.sub(rb"1970-01-01", b"2025-" + day.encode(), encode_tree([FILE]))
    assert not scan_tree(tree).sound


@pytest.mark.parametrize("workers", ["0", "2"])
def test_workers_and_threads_find_what_we_find(workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pack and every blob gets there, in slices."""
    monkeypatch.setenv("BACKUPCTL_WORKERS", workers)
    monkeypatch.setattr(check_reading, "_SLICE_BYTES", 9_000)
    repository = create()
    snapshot = backup(repository, {f"f{number}": content(number, 50_000) for number in range(8)}, target_bytes=40_000)
    packs = sorted(info.name for info in objects(repository, "data/"))
    assert len(packs) > 8
    data = {place.pack.hex() for place in repository.index if place.blob.kind == "data"}
    bad = [name for name in packs if name[8:] in data][3::4]
    for name in bad:
        damage(repository, name, bit=8 * 9000)
    plain = check(reopen(repository), read_data=True)
    monkeypatch.setattr(check_reading, "WORTHWHILE_BYTES", 0)
    found = check(reopen(repository), read_data=True)
    assert found.packs_read == len(packs) == plain.packs_read
    assert sorted(problem.object_name for problem in found.problems) == bad
    assert [(one.object_name, one.message, one.snapshots, one.paths) for one in found.problems] == [
        (one.object_name, one.message, one.snapshots, one.paths) for one in plain.problems
    ]
    assert all("1 of" in one.message and one.snapshots == [snapshot.id] for one in found.problems)
    assert all(re.fullmatch(r"/d/f\d", path) for one in found.problems for path in one.paths)


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "nothing": lambda data: data,
    "a blob": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "the middle": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
    "the header": lambda data: data[:-10] + bytes([data[-10] ^ 1]) + data[-9:],
    "the length of the header": lambda data: data[:-4] + b"\xff\xff\xff\xff",
    "one byte less": lambda data: data[:-1],
    "one byte more": lambda data: data + b"\0",
    "another order": lambda data: data[::-1],
    "nothing in it": lambda data: b"",
    "missing": lambda data: None,
}


@pytest.mark.parametrize("workers", ["none", "0", "2"])
@pytest.mark.parametrize("what", DAMAGE)
def test_files_that_workers_read_themselves_are_judged_as_what_comes_through_a_store(
    what: str, workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = create()
    backup(repository, {f"f{number}": content(number, 30_000) for number in range(4)}, target_bytes=40_000)
    packs = sorted({place.pack.hex() for place in repository.index if place.blob.kind == "data"})
    trees = sorted({place.pack.hex() for place in repository.index if place.blob.kind == "tree"})
    for pack in (packs[1], trees[0]):
        name = f"data/{pack[:2]}/{pack}"
        spoilt = DAMAGE[what](repository.store.get(name))
        repository.store.delete(name)
        if spoilt is not None:
            repository.store.put(name, spoilt)
    local = LocalStore(tmp_path / "store", create=True)
    for info in list(repository.store.list()):
        local.put(info.name, repository.store.get(info.name))
    expected = check(reopen(repository), read_data=True)
    if workers != "none":
        monkeypatch.setenv("BACKUPCTL_WORKERS", workers)
        monkeypatch.setattr(check_reading, "WORTHWHILE_BYTES", 0)
    monkeypatch.setattr(pack_opening, "_SLICE_BYTES", 9_000)
    found = check(Repository.open(local, PASSWORD, clock=FakeClock(NOW)), read_data=True)
    for problem in found.problems:
        problem.message = problem.message.replace(local.location, repository.store.location)
    assert asdict(found) == asdict(replace(expected, coverage=found.coverage))
    assert bool(found.problems) == (what != "nothing")


@pytest.mark.parametrize(
    ("header", "sound"),
    [
        (b"\x00" + (132).to_bytes(4, "little") + bytes(32), True),  # its blob is bad, the file is whole
        (b"\x00" + (133).to_bytes(4, "little") + bytes(32), False),  # more than there is
        (b"\x00" + (131).to_bytes(4, "little") + bytes(32), False),
        (b"\x00" + b"\xff" * 4 + bytes(32), False),
        (b"\x03" + (132).to_bytes(4, "little") + bytes(32), False),  # four bytes short
        (b"\x00" + (132).to_bytes(4, "little") + bytes(32) + b"\x01", False),
        (b"", False),
    ],
)
def test_a_header_that_lies_under_a_good_seal_is_left_to_the_careful_way(
    header: bytes, sound: bool, tmp_path: Path
) -> None:
    """A worker may open a pack before the index was read, so it has only the header's word."""
    keys = Keys.random()
    sealed = seal(keys, header)
    data = bytes(132) + sealed + len(sealed).to_bytes(4, "little")
    name = f"data/{hashlib.sha256(data).hexdigest()[:2]}/{hashlib.sha256(data).hexdigest()}"
    store = LocalStore(tmp_path / "store", create=True)
    store.put(name, data)
    opened = open_file(keys, store.directory, name, scan=True)
    assert (opened is not None) == sound
    if opened is not None:
        assert (opened.bad, list(opened.trees), opened.digest) == ([0], [], hashlib.sha256(header).digest())


def test_another_directory_in_the_place_of_the_store_is_not_read(tmp_path: Path) -> None:
    """As when the disk is unmounted."""
    store = LocalStore(tmp_path / "store", create=True)
    store.put("data/one", b"1")
    there = store.directory
    store.path.rename(tmp_path / "away")
    LocalStore(tmp_path / "store", create=True).put("data/one", b"2")
    with pytest.raises(FileNotFoundError):
        open_object(there, "data/one")
    (tmp_path / "store").rename(tmp_path / "other")
    (tmp_path / "away").rename(tmp_path / "store")
    os.close(open_object(there, "data/one"))
    with pytest.raises(FileNotFoundError):
        open_object(there, "data")
