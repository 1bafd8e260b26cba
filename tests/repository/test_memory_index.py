"""The index against a plain model: segments, what is added later, merging, and what it weighs."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupctl.repository import index_loading
from backupctl.repository.format import FormatError
from backupctl.repository.format.index import encode_index
from backupctl.repository.format.pack import BlobKind, PackedBlob
from backupctl.repository.index_loading import load_segments, rows_of
from backupctl.repository.memory_index import MemoryIndex
from backupctl.repository.segment import RECORD, anonymous, from_rows, merged, opened, overlap

Listing = list[tuple[bytes, list[PackedBlob]]]


def name(what: object) -> bytes:
    return hashlib.sha256(repr(what).encode()).digest()


def pack(number: int, blobs: Iterable[int], kind: BlobKind = "data") -> tuple[bytes, list[PackedBlob]]:
    return name(("pack", number)), [
        PackedBlob(kind, name(blob), 100 * place, 40 + blob, blob % 3) for place, blob in enumerate(blobs)
    ]


def load(files: Sequence[Listing]) -> MemoryIndex:
    encoded = {f"{number:064x}": encode_index(packs) for number, packs in enumerate(files)}
    segments, read = load_segments(list(encoded), lambda file_id: rows_of(encoded[file_id]), None)
    assert read == set(encoded)
    return MemoryIndex(segments)


def contents(index: MemoryIndex) -> list[tuple[bytes, PackedBlob]]:
    return [(place.pack, place.blob) for place in index]


packs = st.builds(pack, st.integers(0, 30), st.lists(st.integers(0, 60), max_size=5), st.sampled_from(["data", "tree"]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(packs, max_size=4), max_size=9), st.lists(packs, max_size=4), st.integers(2, 5))
def test_like_a_dictionary_of_packs(files: list[Listing], later: Listing, loose: int) -> None:
    model: dict[bytes, list[PackedBlob]] = {}
    by_id = {pack_id: blobs for one in files for pack_id, blobs in one}  # of equal ids one listing: packs never change
    files = [[(pack_id, by_id[pack_id]) for pack_id, _ in one] for one in files]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_loading, "MAX_LOOSE", loose)
        patch.setattr(index_loading, "MAX_SEGMENTS", 2)
        index = load(files)
    model.update(by_id)
    for pack_id, blobs in later:
        index.add_pack(pack_id, blobs)
        model.setdefault(pack_id, blobs)
    flat = [(pack_id, blob) for pack_id, blobs in model.items() for blob in blobs]
    found = contents(index)
    assert sorted(found, key=repr) == sorted(flat, key=repr) and len(index) == len(flat)
    assert set(index.packs) == set(model) and len(index.packs) == len(model)
    assert [index.pack(record[1] >> 1) for record in index.records()] == [pack_id for pack_id, _ in found]
    for number, (pack_id, blob) in enumerate(found):
        assert (index.at(number).pack, index.at(number).blob) == (pack_id, blob)
        assert number in index.numbers(blob.kind, blob.id)
    for kind, blob_id in {(kind, name(blob)) for kind in ("data", "tree") for blob in range(61)}:
        copies = [one for one in found if (one[1].kind, one[1].id) == (kind, blob_id)]
        assert [(place.pack, place.blob) for place in index.lookup(kind, blob_id)] == copies
        assert ((kind, blob_id) in index) is bool(copies)
        assert index.blob_size(kind, blob_id) == (copies[0][1].size if copies else None)
    assert index.blobs_of([*model, name("unknown")]) == model
    for number, pack_id in enumerate(index.packs):
        assert index.pack_number(pack_id) == number and pack_id in index.packs
    assert name("unknown") not in index.packs


def test_numbers_go_pack_by_pack() -> None:
    """Whoever reads by ascending numbers reads each pack once, from front to back."""
    index = load([[pack(file * 10 + number, range(file * 40 + number, file * 40 + number + 5)) for number in range(6)]
                  for file in range(7)])  # fmt: skip
    seen = [(place.pack, place.blob.offset) for place in index]
    order = list(dict.fromkeys(pack_id for pack_id, _ in seen))
    assert seen == [(pack_id, offset) for pack_id in order for offset in range(0, 500, 100)]


def test_a_pack_in_two_index_files_is_there_once() -> None:
    files = [[pack(number, [number, number + 1]) for number in range(start, start + 4)] for start in (0, 2, 3)]
    index = load(files)
    assert len(index.packs) == 7 and len(index) == 14
    assert len(index.lookup("data", name(3))) == 2


@pytest.mark.parametrize("count", [1, 1000, 1024, 1025, 40_000, 65_537])
def test_weight(count: int) -> None:
    """At most 64 bytes per blob whatever the fill of its tables, with packs of 16 blobs; what only grows in steps of a
    page aside. 65,537 is the worst that rounding up to powers of two can do."""
    rows = b"".join(RECORD.pack(name(number), number // 16 << 1, 0, 40, 0) for number in range(count))
    ids = [name(("pack", number)) for number in range((count + 15) // 16)]
    segment = from_rows(ids, rows, ["0" * 64])
    assert len(segment.data) - 200 <= 64 * count
    assert all(segment.blobs.find(name(number)) == [number] for number in range(count))
    assert all(segment.packs.find(pack_id) == [number] for number, pack_id in enumerate(ids))
    assert segment.blobs.find(name("nothing")) == []


def test_merging_gives_the_memory_of_its_parts_back() -> None:
    rows = b"".join(RECORD.pack(name(number), 0, 0, 40, 0) for number in range(20_000))
    parts = [from_rows([name(one)], rows, [f"{one:064x}"]) for one in range(2)]
    assert not overlap(parts)
    together = merged(parts)
    assert together.count == 40_000 and together.files == [f"{one:064x}" for one in range(2)]
    last = 20_000 * RECORD.size // mmap.PAGESIZE * mmap.PAGESIZE
    assert all(bytes(part.rows[:last]) == bytes(last) for part in parts), "emptied, page by page"
    assert bytes(together.rows[: len(rows)]) == rows


def test_other_bytes_are_no_segment() -> None:
    good = from_rows([name(1)], RECORD.pack(name(2), 0, 0, 40, 0), ["0" * 64])
    for data in (b"", b"x" * 10, bytes(500), bytes(good.data)[1:], bytes(good.data) + b"x", bytes(good.data) * 2):
        copy = anonymous(max(1, len(data)))
        copy[: len(data)] = data
        with pytest.raises(FormatError):
            opened(copy)
    copy = anonymous(len(good.data))
    copy[:] = good.data
    assert opened(copy).blobs.find(name(2)) == [0]


def test_fields_out_of_the_ordinary() -> None:
    """The quick way through an index file takes nothing that the slow one refuses."""
    blob = {"id": '"' + "a" * 64 + '"', "type": '"data"', "offset": "0", "length": "40"}

    def file(**changes: str) -> bytes:
        fields = {key: value for key, value in {**blob, **changes}.items() if value}
        text = ",".join(f'"{key}":{value}' for key, value in fields.items())
        return f'{{"packs":[{{"id":"{"b" * 64}","blobs":[{{{text}}}]}}]}}'.encode()

    assert rows_of(file())[1] == RECORD.pack(b"\xaa" * 32, 0, 0, 40, 0)
    assert rows_of(file(offset="null", uncompressed_length="null"))[1] == RECORD.pack(b"\xaa" * 32, 0, 0, 40, 0)
    assert rows_of(file(offset=""))[1] == RECORD.pack(b"\xaa" * 32, 0, 0, 40, 0)
    for bad in (
        {"id": '"' + "a" * 62 + '  "'},
        {"id": '"' + "a" * 66 + '"'},
        {"id": "1"},
        {"id": ""},
        {"type": "[]"},
        {"type": '"file"'},
        {"offset": "-1"},
        {"offset": "4294967296"},
        {"offset": "1.0"},
        {"offset": "true"},
        {"length": "31"},
        {"length": '"40"'},
        {"uncompressed_length": "-1"},
    ):
        with pytest.raises(FormatError):
            rows_of(file(**bad))
