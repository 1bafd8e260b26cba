"""Sealing many blobs with one set of ciphers: any reader opens what came of it, and rows of a dump become small."""

from __future__ import annotations

import random
from hashlib import sha256

import pytest
import zstandard

from backupctl.repository.format.crypto import Keys, unseal
from backupctl.repository.format.sealing import BlobSealer
from backupctl.repository.format.unpacked import LEVEL, decompress


def rows(size: int) -> bytes:
    chosen = random.Random(7)
    words = b"please leave the parcel with our neighbour on the second floor because nobody is at home".split()
    made = bytearray()
    while len(made) < size:
        note = b" ".join(chosen.choices(words, k=9))
        made += b"%d\t%d\t%d.%02d\t%s\n" % (
            len(made),
            chosen.getrandbits(40),
            chosen.getrandbits(10),
            chosen.getrandbits(6),
            note,
        )
    return bytes(made[:size])


@pytest.mark.parametrize("size", [1, 64 << 10, (256 << 10) - 1, 256 << 10, 3 << 20])
@pytest.mark.parametrize("content", [rows, random.Random(1).randbytes])
def test_any_reader_opens_it(size, content):
    sealer, data = BlobSealer(Keys.random()), content(size)
    plain_length, sealed = sealer.encode("data", sha256(data).digest(), data)
    stored = unseal(sealer.keys, bytes(sealed))
    assert plain_length in (0, size)
    assert (decompress(stored, max_bytes=size) if plain_length else stored) == data


def test_rows_become_smaller_than_at_the_level_of_small_blobs():
    data = rows(1 << 20)
    _, compressed = BlobSealer(Keys.random()).compress("data", data)
    assert len(compressed) < 0.99 * len(zstandard.ZstdCompressor(level=LEVEL).compress(data))
