"""The whole file's hash, made beside its chunks: in order, one behind, and no thread left."""

from __future__ import annotations

import random
import threading
from hashlib import sha256

import pytest

from backupctl.repository.digest_beside import DigestBeside


@pytest.mark.parametrize("pieces", [0, 1, 2, 50])
def test_it_is_the_hash_of_all_pieces_in_order(pieces: int) -> None:
    chosen = random.Random(pieces)
    data = [chosen.randbytes(chosen.randrange(200_000)) for _ in range(pieces)]
    with DigestBeside() as digest:
        for piece in data:
            digest.update(piece)
        assert digest.digest() == sha256(b"".join(data)).digest()


def test_no_thread_outlives_it_whatever_happened() -> None:
    before = threading.active_count()
    with pytest.raises(OSError, match="gone"), DigestBeside() as digest:
        digest.update(bytes(1 << 20))
        raise OSError("gone")
    assert threading.active_count() == before
