"""zstd with bounds, and the "unpacked" encoding (0x02 and a zstd frame) of index, lock and snapshot files."""

from __future__ import annotations

import io
import threading

import zstandard

from backupctl.repository.format import FormatError

LEVEL = 3
MAX_UNPACKED_BYTES = 1 << 30
MAX_RATIO = 256
"""Of such a file's content to its stored bytes, beyond the first UNPACKED_FREE_BYTES. An index is hex digits of hashes, which
zstd makes three times smaller, a record of a hundred thousand like problems some fifty times; a bomb is 30,000 to 1."""
UNPACKED_FREE_BYTES = 16 << 20
_PIECE_BYTES = 8 << 20
MAX_WINDOW_BYTES = 1 << 27
_TRUSTED_BYTES = 64 << 20  # above this, a stated size is not allocated before the content proves it
_local = threading.local()  # compressors and decompressors are not thread-safe


def compress(data: bytes) -> bytes:
    """One zstd frame."""
    compressor = getattr(_local, "compressor", None)
    if compressor is None:
        compressor = _local.compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False)
    compressed: bytes = compressor.compress(data)
    return compressed


def decompress(data: bytes | memoryview, *, max_bytes: int) -> bytes:
    """The content of all frames in `data` (they need not state their size). Never makes more than `max_bytes` plus one
    piece; raises FormatError when there would be more, or when `data` is not zstd."""
    if (at_once := _decompress_at_once(data, max_bytes)) is not None:
        return at_once
    pieces: list[bytes] = []
    size = 0
    try:
        with zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).stream_reader(
            io.BytesIO(data), read_across_frames=True
        ) as reader:
            while piece := reader.read(min(_PIECE_BYTES, max_bytes + 1 - size)):
                size += len(piece)
                if size > max_bytes:
                    raise FormatError(f"more than {max_bytes} bytes when decompressed")
                pieces.append(piece)
    except zstandard.ZstdError as error:
        raise FormatError(f"not zstd: {error}") from None
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _decompress_at_once(data: bytes | memoryview, max_bytes: int) -> bytes | None:
    """The content of one frame that states its size; None for anything else, or what is damaged."""
    decompressor = getattr(_local, "decompressor", None)
    if decompressor is None:
        decompressor = _local.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    try:
        if not 0 < zstandard.frame_content_size(data) <= min(max_bytes, _TRUSTED_BYTES):
            return None
        content: bytes = decompressor.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError:
        return None  # more frames, or damage: the other way says
    return content


def encode_unpacked(data: bytes) -> bytes:
    return b"\x02" + compress(data)


def decode_unpacked(data: bytes, *, max_bytes: int = MAX_UNPACKED_BYTES) -> bytes:
    """Raises FormatError for an encoding that restic does not know either, and for content out of all proportion."""
    if not data or data[:1] in (b"{", b"["):
        return data
    if data[:1] == b"\x02":
        return decompress(memoryview(data)[1:], max_bytes=min(max_bytes, UNPACKED_FREE_BYTES + MAX_RATIO * len(data)))
    raise FormatError(f"unknown encoding: the first byte is 0x{data[0]:02x}")
