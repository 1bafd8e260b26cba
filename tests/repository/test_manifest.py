"""Every name and value survives the manifest, and damage in it is named."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from backupctl.errors import DamageError
from backupctl.repository.format.node import Node
from backupctl.repository.manifest import (
    ManifestEntry,
    ManifestReader,
    manifest_entry,
    path_key,
    xattr_hashes,
)
from tests.repository.manifest_lines import ManifestWriter

HASH = sha256(b"x").hexdigest()
names = st.binary(min_size=1, max_size=12).filter(lambda name: b"/" not in name and b"\0" not in name)
entries = st.builds(
    ManifestEntry,
    path=st.lists(names, min_size=1, max_size=4).map(lambda parts: b"/".join([b"files", *parts])),
    type=st.just("file"),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32 - 1),
    gid=st.integers(0, 2**32 - 1),
    mtime_ns=st.integers(-(2**62), 2**62),
    size=st.integers(0, 2**63),
    sha256=st.just(HASH),
    linktarget=st.binary(max_size=8),
    xattrs=st.sampled_from(["", HASH]),
    privileged_xattrs=st.sampled_from(["", HASH]),
    device=st.integers(0, 2**32),
    link_group=st.integers(0, 9),
    fresh=st.booleans(),
)


def written(items: list[ManifestEntry]) -> bytes:
    writer = ManifestWriter()
    for item in items:
        writer.add(item)
    assert writer.entries == len(items)
    return writer.finish()


@given(st.lists(entries, max_size=20))
def test_round_trip(items: list[ManifestEntry]) -> None:
    reader = ManifestReader(written(items))
    assert list(reader) == items
    assert list(reader) == items, "a reader may be read twice"


def test_one_source_out_of_several_added_in_any_order() -> None:
    odd = 'q"\\\udcff'.encode("utf-8", "surrogateescape")
    items = [ManifestEntry(source + b"/" + name, "dir") for source in (b"b", b"ab", b"a", odd) for name in (b"1", b"2")]
    reader = ManifestReader(written(items))
    assert [entry.path for entry in reader] == sorted(entry.path for entry in items)
    assert [entry.path for entry in reader.source("a")] == [b"a/1", b"a/2"]
    assert [entry.path for entry in reader.source("b")] == [b"b/1", b"b/2"]
    assert list(reader.source("c")) == []
    assert list(ManifestReader(b"")) == []


def test_lines_are_json_for_anybody() -> None:
    data = written([ManifestEntry(b"uploads/n\xff", "file", 0o644, 1, 2, -5, 3, HASH)])
    line = json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(data))
    assert line == {
        "path": "uploads/n\\xff",
        "type": "file",
        "mode": 0o644,
        "uid": 1,
        "gid": 2,
        "mtime_ns": -5,
        "size": 3,
        "sha256": HASH,
    }


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b'{"path":"a/b"}\n',
        b'{"path":"a/b","type":"door","mode":0,"uid":0,"gid":0,"mtime_ns":0}\n',
        b'{"path":"a/b","type":"file","mode":0,"uid":0,"gid":0,"mtime_ns":0,"size":1,"sha256":"00"}\n',
        b'{"path":"a\\\\q","type":"dir","mode":0,"uid":0,"gid":0,"mtime_ns":0}\n',
        b'{"path":"a/b","type":"dir","mode":"7","uid":0,"gid":0,"mtime_ns":0}\n',
        b'{"path":5,"type":"dir","mode":7,"uid":0,"gid":0,"mtime_ns":0}\n',
        b"[]\n",
        b'{"path":"a/b","type":"dir"',
        b"x" * (3 << 20),
    ],
)
def test_damage_is_named(line: bytes) -> None:
    data = zstandard.ZstdCompressor().compress(line)
    with pytest.raises(DamageError, match="record 12") as caught:
        list(ManifestReader(data, name="record 12"))
    assert caught.value.name == "record 12"


@pytest.mark.parametrize("count", [1, 1000, 30000])
def test_a_cut_manifest_is_damage(count: int) -> None:
    data = written([ManifestEntry(b"a/%d" % number, "file", sha256=HASH) for number in range(count)])
    for cut in {1, 2, 7, 40, 100, len(data) // 2, len(data) - 1}:
        with pytest.raises(DamageError):
            list(ManifestReader(data[:-cut]))
    with pytest.raises(DamageError):
        list(ManifestReader(b"garbage" + data))


def test_xattrs_are_split_by_who_may_set_them() -> None:
    mine, acl, theirs = (b"user.a", b"1"), (b"system.posix_acl_access", b"\2"), (b"security.capability", b"3")
    assert xattr_hashes([]) == ("", "")
    assert xattr_hashes([mine, theirs, acl]) == xattr_hashes([theirs, acl, mine])
    assert xattr_hashes([theirs])[0] == ""
    assert xattr_hashes([mine])[1] == ""
    assert xattr_hashes([(b"user.a", b"b")]) != xattr_hashes([(b"user.", b"ab")])
    entry = manifest_entry(b"s/f", Node(b"f", "dev", size=9, device=1795, xattrs=[theirs]))
    assert (entry.size, entry.device, entry.xattrs) == (0, 1795, "")
    assert entry.privileged_xattrs


def test_path_key_orders_as_a_walk_does() -> None:
    walked = [b"a", b"a/b", b"a/b/c", b"a!", b"a.txt", b"b"]
    assert sorted(walked, key=path_key) == walked
