"""Cuts depend on content alone, respect the limits, and survive edits."""

from __future__ import annotations

import random
import tracemalloc
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyfastcdc import FastCDC

from backupctl.repository.chunker import AHEAD_BYTES, MAX_CHUNK_SIZE, MIN_CHUNK_SIZE, SMALL_LEVEL, Chunker
from backupctl.repository.entry import Chunking

KEY = bytes(range(1, 9))
DATA = random.Random(7).randbytes(12 << 20)


class Dribble:
    """A stream that gives what it likes, as pipes do."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data, self._sizes, self._position, self._turn = data, sizes, 0, 0

    def read(self, size: int = -1, /) -> bytes:
        assert size > 0, "the chunker must never ask for everything at once"
        take = min(size, self._sizes[self._turn % len(self._sizes)])
        self._turn += 1
        piece = self._data[self._position : self._position + take]
        self._position += len(piece)
        return piece

    def close(self) -> None: ...


def cut(data: bytes, chunking: Chunking | None = None, key: bytes = KEY) -> list[bytes]:
    return list(Chunker(key).chunks(BytesIO(data), chunking or Chunking()))


def test_limits_and_content() -> None:
    chunks = cut(DATA)
    assert b"".join(chunks) == DATA
    assert len(chunks) > 3
    assert all(MIN_CHUNK_SIZE <= len(chunk) <= MAX_CHUNK_SIZE for chunk in chunks[:-1])
    assert all(type(chunk) is bytes for chunk in chunks)


@pytest.mark.parametrize("size", [0, 1, MIN_CHUNK_SIZE - 1, MIN_CHUNK_SIZE])
def test_small_streams_are_one_chunk(size: int) -> None:
    assert cut(DATA[:size]) == ([DATA[:size]] if size else [])


def test_zeros_are_cut_at_the_limits() -> None:
    chunks = cut(bytes(MAX_CHUNK_SIZE * 2 + 5))
    assert b"".join(chunks) == bytes(MAX_CHUNK_SIZE * 2 + 5)
    assert max(map(len, chunks)) <= MAX_CHUNK_SIZE


@pytest.mark.parametrize("size", [AHEAD_BYTES - 1, AHEAD_BYTES, AHEAD_BYTES + 1, MAX_CHUNK_SIZE, 40_000_001])
def test_cuts_are_those_of_the_library_with_a_stream(size: int) -> None:
    """Repositories are full of them: others would store everything again."""
    library = Chunker(KEY)._cdc
    for data in (DATA * 4, bytes(size), (DATA[: 3 << 19] + bytes(5 << 20)) * 7):
        assert cut(data[:size]) == [bytes(chunk.data) for chunk in library.cut_stream(BytesIO(data[:size]))]


def test_few_chunks_are_held() -> None:
    """What is allocated beside a stream that makes its bytes as they are asked for; the last one is a run of the largest chunks."""
    for data, most in ((DATA, 10 << 20), (bytes(1 << 20), 3 * MAX_CHUNK_SIZE + (2 << 20))):

        class Endless:
            def __init__(self, data: bytes) -> None:
                self._data, self._left = data, 64 << 20

            def read(self, size: int = -1, /) -> bytes:
                size = min(size, len(self._data), self._left)
                self._left -= size
                return self._data[:size]

            def close(self) -> None: ...

        tracemalloc.start()
        try:
            total = sum(len(chunk) for chunk in Chunker(KEY).chunks(Endless(data), Chunking()))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert total == 64 << 20
        assert peak < most, f"{peak:,} bytes"


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(0, 5 << 20),
    reads=st.lists(st.integers(1 << 9, 3 << 20), min_size=1, max_size=5),
    chunking=st.sampled_from([Chunking(), *(Chunking("fixed", n) for n in (4096, 3 << 20)), Chunking("content", 8192)]),
)
def test_cuts_do_not_depend_on_read_sizes(size: int, reads: list[int], chunking: Chunking) -> None:
    assert list(Chunker(KEY).chunks(Dribble(DATA[:size], reads), chunking)) == cut(DATA[:size], chunking)


def test_an_insertion_changes_only_what_is_near() -> None:
    before, after = set(cut(DATA)), set(cut(DATA[:100] + b"inserted" + DATA[100:]))
    assert len(before & after) >= len(before) - 2


def test_small_cuts_keep_what_is_between_changed_rows() -> None:
    """Rows of 100 bytes, one in a thousand of another length: less than 12 % of the bytes are new."""
    draw = random.Random(11)
    rows = [b"%d\t%s\n" % (number, draw.randbytes(47).hex().encode()) for number in range(60_000)]
    small = Chunking("content", 8192)
    before = set(cut(b"".join(rows), small))
    assert all(2048 <= len(chunk) <= 65536 for chunk in list(before) if not chunk.endswith(rows[-1]))
    for number in draw.sample(range(len(rows)), len(rows) // 1000):
        rows[number] = b"%d\tchanged\n" % number
    after = cut(b"".join(rows), small)
    assert sum(len(chunk) for chunk in after if chunk not in before) < 0.12 * sum(map(len, after))


def test_cuts_are_secret() -> None:
    assert [len(c) for c in cut(DATA)] != [len(c) for c in cut(DATA, key=bytes(range(9, 17)))]
    assert cut(DATA, key=bytes(8)) == cut(DATA, key=bytes(8))


def test_fixed_blocks() -> None:
    chunks = cut(DATA[: (3 << 20) + 10], Chunking("fixed", 4096))
    assert [len(chunk) for chunk in chunks] == [4096] * 768 + [10]
    with pytest.raises(ValueError, match="block size"):
        cut(b"x", Chunking("fixed", 0))


def test_a_stream_that_fails_is_not_an_end() -> None:
    class Broken(Dribble):
        def read(self, size: int = -1, /) -> bytes:
            if self._position > 2 << 20:
                raise OSError("pipe died")
            return super().read(size)

    with pytest.raises(OSError, match="pipe died"):
        list(Chunker(KEY).chunks(Broken(DATA, [1 << 16]), Chunking()))


@pytest.mark.parametrize("average", [8192, 32768])
def test_small_cuts_are_those_of_the_stream_as_a_whole(average: int) -> None:
    """Older snapshots were cut that way: what did not change must be found in them."""
    text = b"".join(b"%d\tsome row\t%d\n" % (n, n * n) for n in range(60_000))
    data = text + DATA[: 2 << 20] + bytes(3 << 20) + text[::-1]
    whole = FastCDC(
        average,
        min_size=average // 4,
        max_size=average * 8,
        seed=int.from_bytes(KEY, "big") >> 1,
        normalized_chunking=SMALL_LEVEL,
    )
    assert [len(chunk) for chunk in cut(data, Chunking("content", average))] == [
        chunk.length for chunk in whole.cut_stream(BytesIO(data))
    ]


def test_small_chunks_come_in_batches_and_large_ones_alone() -> None:
    for chunking in (Chunking("fixed", 8192), Chunking("content", 8192), Chunking()):
        pieces = list(Chunker(KEY).pieces(BytesIO(DATA[:-100]), chunking))
        assert [bytes(chunk) for piece in pieces for chunk in piece.chunks()] == cut(DATA[:-100], chunking)
        assert b"".join(piece.data for piece in pieces) == DATA[:-100]
        if chunking.block_size:
            assert all(abs(len(piece.data) - (1 << 20)) < 65536 for piece in pieces[:-1])
        else:
            assert all(len(piece.sizes) == 1 for piece in pieces)
    assert list(Chunker(KEY).pieces(BytesIO(b""), Chunking())) == []
