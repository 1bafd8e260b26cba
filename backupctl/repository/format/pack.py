"""Pack files: sealed blobs, a sealed header that lists them, and the header's length.

Blob_1 … Blob_n || seal(entries) || u32le(len(seal(entries)))
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import OVERHEAD_BYTES

BlobKind = Literal["data", "tree"]

TARGET_BYTES = 16 << 20
MAX_HEADER_BYTES = 16 << 20
MIN_PACK_BYTES = 73
MAX_BLOB_BYTES = {"data": 128 << 20, "tree": 1 << 30}
"""Of content. Every known writer cuts data at 8 MiB; a gibibyte of tree is a directory of some 2.5 million entries."""
_PLAIN = struct.Struct("<BI32s")
_ZSTD = struct.Struct("<BII32s")
_TRAILER = struct.Struct("<I")
KINDS: tuple[BlobKind, BlobKind] = ("data", "tree")


Row = tuple[bool, int, int, int, bytes]
"""of a tree?, offset, sealed length, length of the content (0: not compressed), id"""


class PackedBlob(NamedTuple):
    """A blob's place in a pack. `length` is its sealed length; `plain_length` its content's, 0 when not compressed."""

    kind: BlobKind
    id: bytes
    offset: int
    length: int
    plain_length: int

    @property
    def size(self) -> int:
        """Bytes of content."""
        return self.plain_length or self.length - OVERHEAD_BYTES


def require_possible(blob: PackedBlob) -> None:
    """Raises FormatError for a blob that nobody wrote in good faith, before memory is spent on it."""
    limit = MAX_BLOB_BYTES[blob.kind]
    if max(blob.plain_length, blob.length - OVERHEAD_BYTES) > limit:
        raise FormatError(f"a {blob.kind} blob of {max(blob.plain_length, blob.length)} bytes; {limit} is the limit")


def entry_bytes(blob: PackedBlob) -> int:
    return _ZSTD.size if blob.plain_length else _PLAIN.size


def pack_bytes(blobs: Iterable[PackedBlob]) -> int:
    """The size of the pack file that holds exactly these blobs."""
    return sum(blob.length + entry_bytes(blob) for blob in blobs) + OVERHEAD_BYTES + _TRAILER.size


def encode_entry(kind: BlobKind, blob_id: bytes, length: int, plain_length: int) -> bytes:
    """One blob's part of a plaintext header."""
    code = kind == "tree"
    return _ZSTD.pack(code + 2, length, plain_length, blob_id) if plain_length else _PLAIN.pack(code, length, blob_id)


def encode_header(blobs: Iterable[PackedBlob]) -> bytes:
    """The plaintext header; `blobs` in the order of their offsets."""
    return b"".join([encode_entry(blob.kind, blob.id, blob.length, blob.plain_length) for blob in blobs])


def iterate_header(header: bytes) -> Iterator[Row]:
    """What a header lists that we made ourselves, or that was decoded before: nothing is looked at twice."""
    position = offset = 0
    while position < len(header):
        code = header[position]
        if code < 2:
            _, length, blob_id = _PLAIN.unpack_from(header, position)
            plain_length = 0
            position += _PLAIN.size
        else:
            _, length, plain_length, blob_id = _ZSTD.unpack_from(header, position)
            position += _ZSTD.size
        yield code & 1 == 1, offset, length, plain_length, blob_id
        offset += length


def decode_header(header: bytes) -> list[PackedBlob]:
    """Raises FormatError."""
    blobs: list[PackedBlob] = []
    position = offset = 0
    while position < len(header):
        code = header[position]
        layout = _PLAIN if code < 2 else _ZSTD
        if code > 3 or position + layout.size > len(header):
            raise FormatError(f"bad pack header entry at byte {position}")
        if code < 2:
            _, length, blob_id = _PLAIN.unpack_from(header, position)
            plain_length = 0
        else:
            _, length, plain_length, blob_id = _ZSTD.unpack_from(header, position)
            if plain_length == 0:
                raise FormatError(f"a compressed blob of length 0 in the pack header at byte {position}")
        if length < OVERHEAD_BYTES:
            raise FormatError(f"an impossible blob length in the pack header at byte {position}")
        blobs.append(PackedBlob(KINDS[code % 2], blob_id, offset, length, plain_length))
        offset += length
        position += layout.size
    return blobs


def encode_trailer(sealed_header: bytes) -> bytes:
    return sealed_header + _TRAILER.pack(len(sealed_header))


def tail_bytes(tail: bytes) -> int:
    """How many bytes the end of a pack has, from its header on, by its last four. Raises FormatError."""
    if len(tail) < _TRAILER.size:
        raise FormatError(f"{len(tail)} bytes are too few for a pack")
    (length,) = _TRAILER.unpack(tail[-_TRAILER.size :])
    if not OVERHEAD_BYTES < length <= MAX_HEADER_BYTES:
        raise FormatError(f"the pack header cannot be {length} bytes long")
    return int(length) + _TRAILER.size


def sealed_header(pack: bytes) -> bytes:
    """The sealed header at the end of a whole pack, or of enough of its end. Raises FormatError."""
    if len(pack) < MIN_PACK_BYTES:
        raise FormatError(f"{len(pack)} bytes are too few for a pack")
    (length,) = _TRAILER.unpack(pack[-_TRAILER.size :])
    if not OVERHEAD_BYTES < length <= min(MAX_HEADER_BYTES, len(pack) - _TRAILER.size):
        raise FormatError(f"the pack header cannot be {length} bytes long")
    return pack[-_TRAILER.size - length : -_TRAILER.size]
