"""What a run sees of the bytes that it reads anyway, for whoever asks later whether somebody encrypted them.

Of each file that is read, a sixteenth of its blocks of 4 KiB, one at least, is tried: would zstd store it as it is? Then its
bytes are as good as evenly distributed (above about 7.9 bits per byte, of which random data has 7.954 in such a block and
text 5). A whole file's entropy would miss encryption that skips blocks. Text fails a search for three byte values before
anything is compressed. Where the sample begins is taken from the content's own hash: nobody can know it before the content is
final, and the same content always gives the same answer.

Cost, beside hashing and sealing the same bytes: 0.1 to 2 %, 12 % for 8 KB that do not compress, of which one block is half.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import zstandard

BLOCK_BYTES = 4096
EVERY = 16
_RARE = (0xF3, 0x00, 0x9D)  # hardly any text has all of them; a random block lacks one in e^-16
_KINDS = 400  # extensions told apart

MAGIC: dict[bytes, tuple[bytes, ...]] = {
    b"jpg": (b"\xff\xd8\xff",),
    b"jpeg": (b"\xff\xd8\xff",),
    b"png": (b"\x89PNG\r\n\x1a\n",),
    b"gif": (b"GIF8",),
    b"webp": (b"RIFF",),
    b"pdf": (b"%PDF-",),
    b"zip": (b"PK",),
    b"docx": (b"PK",),
    b"xlsx": (b"PK",),
    b"pptx": (b"PK",),
    b"odt": (b"PK",),
    b"ods": (b"PK",),
    b"jar": (b"PK",),
    b"doc": (b"\xd0\xcf\x11\xe0",),
    b"xls": (b"\xd0\xcf\x11\xe0",),
    b"gz": (b"\x1f\x8b",),
    b"tgz": (b"\x1f\x8b",),
    b"bz2": (b"BZh",),
    b"xz": (b"\xfd7zXZ",),
    b"zst": (b"\x28\xb5\x2f\xfd",),
    b"7z": (b"7z\xbc\xaf",),
    b"mkv": (b"\x1a\x45\xdf\xa3",),
    b"sqlite": (b"SQLite format 3",),
}
"""How files of these names begin: a file that begins otherwise is not what its name says. Formats with one beginning only."""

_local = threading.local()


def looks_random(block: bytes) -> bool:
    """Whether nothing can be saved by compressing it. For blocks of 4 KiB; shorter ones never are."""
    if len(block) < BLOCK_BYTES:
        return False
    for value in _RARE:
        if value not in block:
            return False
    compressor: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if compressor is None:
        compressor = _local.compressor = zstandard.ZstdCompressor(level=1, write_checksum=False)
    return len(compressor.compress(block)) >= BLOCK_BYTES


def extension(name: bytes) -> bytes:
    """Lower case, at most 12 bytes, without the dot; b"" for none and for hidden files."""
    stem, dot, last = name.rpartition(b".")
    return last[:12].lower() if dot and stem else b""


class Look:
    """At one file, chunk by chunk as it is read."""

    __slots__ = ("blocks", "head", "random")

    def __init__(self) -> None:
        self.head: bytes | None = None
        self.blocks = self.random = 0

    def add(self, chunk: bytes | memoryview, seed: int) -> None:
        """`seed`: a byte of the chunk's hash."""
        if self.head is None:
            self.head = bytes(chunk[:16])
        whole = len(chunk) // BLOCK_BYTES
        start = seed % EVERY
        if start >= whole and whole and not self.blocks:  # the first chunk with a block is tried, be it short
            start %= whole
        for number in range(start, whole, EVERY):
            self.blocks += 1
            if looks_random(bytes(chunk[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES])):
                self.random += 1


class Looks:
    """Counts by extension, apart for files that the parent snapshot has under that name and for others. Each is `[files
    with a block tried, blocks tried, blocks that look random, files with such a block, files of a type with a known
    beginning, files that begin otherwise]`."""

    __slots__ = ("new", "rewritten")

    def __init__(self) -> None:
        self.new: dict[bytes, list[int]] = {}
        self.rewritten: dict[bytes, list[int]] = {}

    def count(self, name: bytes, look: Look, *, before: bool) -> None:
        kind = extension(name)
        if not look.blocks and kind not in MAGIC:
            return
        magic = MAGIC.get(kind) if look.head else None
        mistyped = magic is not None and look.head is not None and not look.head.startswith(magic)
        tried, hit = bool(look.blocks), bool(look.random)
        self._add(
            self.rewritten if before else self.new, kind, (tried, look.blocks, look.random, hit, bool(magic), mistyped)
        )

    def merge(self, other: Looks) -> None:
        for mine, theirs in ((self.new, other.new), (self.rewritten, other.rewritten)):
            for kind, counts in theirs.items():
                self._add(mine, kind, counts)

    @staticmethod
    def _add(counts: dict[bytes, list[int]], kind: bytes, more: Iterable[int]) -> None:
        if kind not in counts and len(counts) >= _KINDS:
            kind = b"*"
        counts[kind] = [a + b for a, b in zip(counts.get(kind, (0, 0, 0, 0, 0, 0)), more, strict=True)]
