"""Reading trees by windows of their packs."""

from __future__ import annotations

import random

import pytest

from backupctl.errors import DamageError
from backupctl.repository.near_trees import WINDOW_BYTES, WINDOWS, NearTrees
from backupctl.repository.repository import pack_name
from tests.repository.engine import create, reopen

PACK = random.Random(5).randbytes(3 * WINDOW_BYTES + 1000)


def test_neighbours_are_read_together_and_nothing_is_read_past_the_last_blob() -> None:
    reads: list[tuple[int, int]] = []

    def read(pack: bytes, offset: int, length: int) -> bytes:
        assert offset + length <= len(PACK)
        reads.append((offset, length))
        return PACK[offset : offset + length]

    near = NearTrees(read)
    for offset in (*range(0, len(PACK) - 300, 300), len(PACK) - 300):
        assert near.sealed(b"p", offset, 300, len(PACK)) == PACK[offset : offset + 300]
    whole = [one for one in reads if one[1] != 300]
    assert whole == [
        (0, WINDOW_BYTES),
        (WINDOW_BYTES, WINDOW_BYTES),
        (2 * WINDOW_BYTES, WINDOW_BYTES),
        (3 * WINDOW_BYTES, 1000),
    ]
    assert len(reads) - len(whole) <= 3, "only what lies across two windows is read alone"
    near.clear()
    near.sealed(b"p", 0, 10, len(PACK))
    assert reads[-1] == (0, WINDOW_BYTES)


def test_no_more_windows_are_held_than_said() -> None:
    reads: list[bytes] = []

    def read(pack: bytes, offset: int, length: int) -> bytes:
        reads.append(pack)
        return bytes(length)

    near = NearTrees(read)
    packs = [bytes([number]) for number in range(WINDOWS + 1)]
    for pack in (*packs, packs[-1], packs[1], packs[0]):
        near.sealed(pack, 0, 10, 100)
    assert reads == [*packs, packs[0]]


def test_a_tree_that_is_damaged_is_told_and_its_neighbours_are_read() -> None:
    repository = create()
    saver = repository.blob_saver()
    ids = [saver.save("tree", b'{"nodes":[]}' + b" " * number) for number in range(20)]
    saver.flush()
    place = repository.locate("tree", ids[7])[0]
    name = pack_name(place.pack)
    data = bytearray(repository.store.get(name))
    data[place.blob.offset + 20] ^= 1
    repository.store.delete(name)
    repository.store.put(name, bytes(data))
    fresh = reopen(repository)
    with pytest.raises(DamageError, match=name):
        fresh.load_blob("tree", ids[7])
    for number, blob_id in enumerate(ids):
        if number != 7:
            assert fresh.load_blob("tree", blob_id) == b'{"nodes":[]}' + b" " * number
