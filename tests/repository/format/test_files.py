"""Packs, indexes, snapshots, locks, config and the unpacked encoding."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from backupctl.repository.format import FormatError, index
from backupctl.repository.format.config import RepositoryConfig, decode_config, encode_config, new_config
from backupctl.repository.format.index import decode_index, encode_index
from backupctl.repository.format.lock import LockInfo, decode_lock, encode_lock
from backupctl.repository.format.pack import (
    BlobKind,
    PackedBlob,
    decode_header,
    encode_header,
    encode_trailer,
    pack_bytes,
    sealed_header,
)
from backupctl.repository.format.polynomial import is_irreducible, random_polynomial
from backupctl.repository.format.snapshot import Snapshot, decode_snapshot, encode_snapshot
from backupctl.repository.format.unpacked import UNPACKED_FREE_BYTES, decode_unpacked, decompress, encode_unpacked

WHEN = datetime(2026, 11, 22, 3, 4, 5, 600, tzinfo=UTC)


def test_header_vector() -> None:
    blob = PackedBlob("data", bytes(range(32)), 0, 100, 200)
    assert encode_header([blob]).hex() == "0264000000c8000000" + bytes(range(32)).hex()
    assert pack_bytes([blob]) == 100 + 41 + 36


LENGTHS = st.integers(32, 2**20)
BLOBS = st.lists(
    st.tuples(
        st.sampled_from(["data", "tree"]), st.binary(min_size=32, max_size=32), LENGTHS, st.integers(0, 2**32 - 1)
    ),
    max_size=8,
)


@given(BLOBS)
def test_headers_and_indexes_round_trip(rows: list[tuple[str, bytes, int, int]]) -> None:
    blobs, offset = [], 0
    for kind, blob_id, length, plain_length in rows:
        blobs.append(PackedBlob(kind, blob_id, offset, length, plain_length))  # type: ignore[arg-type]  # one of the two
        offset += length
    assert decode_header(encode_header(blobs)) == blobs
    encoded = encode_index([(bytes(32), reversed(blobs)), (b"\1" * 32, [])])
    assert list(decode_index(encoded)) == [(bytes(32), blobs), (b"\1" * 32, [])]


PIECES = st.sampled_from(
    ["", "{", "}", "[", "]", ",", "},{", "]}", '"', "\\", " ", "\0", "é", "1", "-", "A", '"packs":[]', "null"]
)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 40), PIECES, st.sampled_from([1, 300, 100_000]))
def test_indexes_are_read_the_quick_way_as_the_careful_way(where: int, cut: int, piece: str, stretch: int) -> None:
    """With any small piece cut out or put in."""
    kinds: list[BlobKind] = ["data", "tree"]
    blobs = [PackedBlob(kinds[one % 2], bytes([one] * 32), 40 * one, 40, one % 3) for one in range(5)]
    whole = encode_index([(bytes(32), blobs), (b"\1" * 32, []), (b"\2" * 32, blobs[:1])])
    start = where % (len(whole) + 1)
    data = whole[:start] + piece.encode() + whole[start + cut :]

    def read(careful: bool) -> tuple[list[object], str]:
        found: list[object] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index, "_STRETCH_BYTES", stretch)
            if careful:
                patch.setattr(index, "_START", b"never")
            try:
                found.extend(index.iterate_index(data))
            except FormatError as error:
                return found, str(error)
        return found, ""

    assert read(False) == read(True)
    assert (data == whole) <= (len(list(index._iterate_compact(data))) == 3)


@given(st.binary(max_size=120))
def test_any_header_either_reads_or_is_a_format_error(data: bytes) -> None:
    try:
        decode_header(data)
    except FormatError:
        return


@given(st.binary(max_size=120))
def test_any_pack_tail_either_reads_or_is_a_format_error(data: bytes) -> None:
    try:
        sealed_header(data)
    except FormatError:
        return


def test_trailer() -> None:
    header = b"h" * 69
    assert sealed_header(b"blob" * 10 + encode_trailer(header)) == header


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"packs":[1]}',
        b'{"packs":[{"id":"00","blobs":[]}]}',
        b'{"packs":[{"id":"' + b"0" * 64 + b'","blobs":[1]}]}',
        b'{"packs":[{"id":"' + b"0" * 64 + b'","blobs":[{"id":"' + b"0" * 64 + b'","type":"x","length":40}]}]}',
        b'{"packs":[{"id":"' + b"0" * 64 + b'","blobs":[{"id":"' + b"0" * 64 + b'","type":"data","length":3}]}]}',
    ],
)
def test_malformed_indexes_are_format_errors(data: bytes) -> None:
    with pytest.raises(FormatError):
        list(decode_index(data))


def test_old_and_unknown_index_keys_are_tolerated() -> None:
    assert list(decode_index(b'{"supersedes":["x"],"packs":[],"packs_to_delete":[]}')) == []


def test_snapshot_round_trip_and_omissions() -> None:
    full = Snapshot(
        WHEN,
        bytes(32),
        ["/a"],
        "host",
        "me",
        1,
        2,
        ["*.tmp"],
        ["complete"],
        "aa",
        "bb",
        "backupctl 1",
        {"files_new": 1},
    )
    assert decode_snapshot(encode_snapshot(full)) == full
    small = encode_snapshot(Snapshot(WHEN, bytes(32)))
    assert small == b'{"time":"2026-11-22T03:04:05.0006Z","tree":"' + b"0" * 64 + b'","paths":[]}'
    assert decode_snapshot(small, "ff" * 32).short_id == "ffffffff"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"time":"2026-11-22T03:04:05Z"}',
        b'{"time":"x","tree":"' + b"0" * 64 + b'"}',
        b'{"time":"0000-11-22T03:04:05Z","tree":"' + b"0" * 64 + b'"}',
        b'{"time":"2026-11-22T03:04:05Z","tree":"' + b"0" * 64 + b'","paths":"x"}',
        b'{"time":"2026-11-22T03:04:05Z","tree":"' + b"0" * 64 + b'","tags":[1]}',
        b'{"time":"2026-11-22T03:04:05Z","tree":"' + b"0" * 64 + b'","summary":[]}',
    ],
)
def test_malformed_snapshots_are_format_errors(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_snapshot(data)


def test_lock_round_trip() -> None:
    lock = LockInfo(WHEN, True, "h", "u", 7, 0, 3, "boot", "pid:[1]", 99, "id")
    assert decode_lock(encode_lock(lock), "id") == lock
    assert b'"uid"' not in encode_lock(lock) and b'"gid":3' in encode_lock(lock)
    assert (
        decode_lock(b'{"time":"2026-11-22T03:04:05Z","exclusive":false,"hostname":"h","username":"u","pid":1}').pid == 1
    )


def test_config_round_trip_and_refusals() -> None:
    config = new_config()
    assert decode_config(encode_config(config)) == config
    assert decode_config(encode_config(config)[:-1] + b',"append_only":true}') == config
    assert decode_config(encode_config(replace(config, version=1))).version == 1
    for bad in (
        b"\x02",
        b'{"version":1}',
        encode_config(config).replace(b":2,", b":true,"),
        encode_config(config).replace(b":2,", b":2.0,"),
        b'{"version":3,"id":"x","chunker_polynomial":"25b468838dcb75"}',
        encode_config(RepositoryConfig("x", config.chunker_polynomial ^ 1)),
        encode_config(RepositoryConfig("x", 1 << 60 | 1)),
        b'{"version":2,"id":"x","chunker_polynomial":"zz"}',
    ):
        with pytest.raises(FormatError):
            decode_config(bad)


def test_polynomials() -> None:
    assert all(is_irreducible(p) for p in (0x244BE692D08741, 0x3DA3358B4DC173, 0b111, 0b1011))
    assert not any(is_irreducible(p) for p in (0, 1, 0b101, 0b1111, 0x244BE692D08741 ^ 1))
    assert random_polynomial().bit_length() == 54


def test_irreducibility_against_trial_division() -> None:
    def divides(a: int, b: int) -> bool:
        while b.bit_length() >= a.bit_length():
            b ^= a << b.bit_length() - a.bit_length()
        return b == 0

    for candidate in range(4, 512):
        smaller = (d for d in range(2, candidate) if d.bit_length() * 2 <= candidate.bit_length() + 1)
        assert is_irreducible(candidate) == (not any(divides(d, candidate) for d in smaller))


@given(st.binary(max_size=400))
def test_unpacked_round_trip(data: bytes) -> None:
    assert decode_unpacked(encode_unpacked(data)) == data


def test_unpacked_forms() -> None:
    assert decode_unpacked(b"") == b""
    assert decode_unpacked(b"{}") == b"{}"
    frames = zstandard.ZstdCompressor(write_content_size=False).compress(b"ab") + zstandard.compress(b"cd" * 500)
    assert decode_unpacked(b"\x02" + frames) == b"ab" + b"cd" * 500
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00xyz"
    assert decode_unpacked(b"\x02" + skippable + zstandard.compress(b"x")) == b"x"
    for bad in (b"\n{}", b"\x01x", b"\x02not zstd at all", b"\x02" + zstandard.compress(b"x" * 100)[4:]):
        with pytest.raises(FormatError):
            decode_unpacked(bad)


def test_a_bomb_is_bounded() -> None:
    bomb = zstandard.compress(bytes(64 << 20))
    with pytest.raises(FormatError, match="more than"):
        decompress(bomb, max_bytes=1 << 20)
    assert len(decompress(bomb, max_bytes=64 << 20)) == 64 << 20


def test_what_compresses_well_is_read_and_a_bomb_is_not() -> None:
    lines = b"".join(b'{"path":"/srv/www/%06d","kind":"unreadable"},' % number for number in range(400_000))
    assert len(lines) > UNPACKED_FREE_BYTES
    assert decode_unpacked(encode_unpacked(lines)) == lines
    assert decode_unpacked(encode_unpacked(bytes(UNPACKED_FREE_BYTES))) == bytes(UNPACKED_FREE_BYTES)
    with pytest.raises(FormatError, match="when decompressed"):
        decode_unpacked(encode_unpacked(bytes(2 * UNPACKED_FREE_BYTES)))
