"""Compressing, sealing and opening again many blobs quickly: ciphers and contexts are made once and used for all.

A blob of 2 KB costs 25 µs this way and 90 µs with `seal`, `unseal` and `decompress` (Python 3.11, cryptography 50).
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence

import zstandard
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from cryptography.hazmat.primitives.poly1305 import Poly1305

from backupctl.repository.format.crypto import OVERHEAD_BYTES, Keys
from backupctl.repository.format.pack import BlobKind, encode_entry
from backupctl.repository.format.unpacked import LEVEL

_NO_IV = bytes(16)
_IVS = 256  # of one call to the kernel
_LARGE_BYTES = 64 << 10
_LONG_BYTES = 256 << 10
_LONG = zstandard.ZstdCompressionParameters(
    window_log=21,
    hash_log=16,
    chain_log=14,
    search_log=1,
    min_match=5,
    target_length=0,
    strategy=zstandard.STRATEGY_DFAST,
    write_checksum=False,
)
"""For contents of at least _LONG_BYTES: level 3 with tables that stay in a processor's nearer caches (there: hash 17, chain
16). Of level 3's time and size, with chunks of 1.4 MB: rows of a dump 0.82 and 0.985, another table as CSV 0.81 and 0.988,
source text 0.90 and 1.008, JSON and HTML 0.92 and 1.005, shared libraries 0.87 and 1.013. Matches of 6 bytes are better for rows
(0.77 and 0.972) and worse for the rest (1.01 to 1.04 in size); with shorter contents nothing was gained (zstd 1.5.7)."""


Run = tuple[bytes, bytes | bytearray]
"""Part of a pack: entries of its plain header, and the sealed blobs that they list."""


class SealingError(RuntimeError):
    """What was sealed a moment ago does not open: bad memory or a broken library. Nothing of it may be stored."""


class BlobSealer:
    """For one thread: the ciphers keep state between calls. `compress` is the same for every destination, `seal` is per
    key: one sealer for each."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._masks = Cipher(AES(keys.mac_k), ECB()).encryptor()  # noqa: S305 — single blocks: the format's Poly1305-AES
        self._cipher = Cipher(AES(keys.encrypt), CTR(_NO_IV)).encryptor()
        self._mac_r = keys.mac_r
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False)
        self._long_compressor = zstandard.ZstdCompressor(compression_params=_LONG)
        self._decompressor = zstandard.ZstdDecompressor()
        self._ivs = b""
        self._next_iv = 0

    def encode(self, kind: BlobKind, blob_id: bytes, data: bytes | memoryview) -> tuple[int, bytes | bytearray]:
        """The plain length (0: not compressed) and the sealed bytes, opened again and found to be what `blob_id` names.
        Raises SealingError."""
        plain_length, stored = self.compress(kind, data)
        sealed = self.seal(stored)
        self.verify(blob_id, plain_length, sealed)
        return plain_length, sealed

    def compress(self, kind: BlobKind, data: bytes | memoryview) -> tuple[int, bytes | memoryview]:
        """What is to be sealed: trees always compressed, content where that helps, the empty blob never."""
        if data:
            compressor = self._compressor if len(data) < _LONG_BYTES else self._long_compressor
            compressed: bytes = compressor.compress(data)
            if kind == "tree" or len(compressed) < len(data):
                return len(data), compressed
        return 0, data

    def seal(self, plaintext: bytes | memoryview) -> bytes | bytearray:
        iv = self._iv()
        self._cipher.reset_nonce(iv)
        if len(plaintext) < _LARGE_BYTES:
            ciphertext = self._cipher.update(plaintext)
            return b"".join((iv, ciphertext, self._tag(iv, ciphertext)))
        sealed = bytearray(
            len(plaintext) + OVERHEAD_BYTES
        )  # written where it stays: copies of it cost more than the cipher
        view = memoryview(sealed)
        view[:16] = iv
        self._cipher.update_into(plaintext, view[16:])
        view[-16:] = self._tag(iv, view[16:-16])
        return sealed

    def _tag(self, iv: bytes, ciphertext: bytes | memoryview) -> bytes:
        return Poly1305.generate_tag(self._mac_r + self._masks.update(iv), ciphertext)

    def _iv(self) -> bytes:
        while True:
            if self._next_iv == len(self._ivs):
                self._ivs, self._next_iv = os.urandom(16 * _IVS), 0
            iv = self._ivs[self._next_iv : self._next_iv + 16]
            self._next_iv += 16
            if iv != _NO_IV:
                return iv

    def verify(self, blob_id: bytes, plain_length: int, sealed: bytes | bytearray) -> None:
        """Open it as a reader would: tag, decryption, decompression, hash."""
        view = memoryview(sealed)
        iv, ciphertext = bytes(sealed[:16]), view[16:-16]
        try:
            Poly1305.verify_tag(self._mac_r + self._masks.update(iv), ciphertext, bytes(sealed[-16:]))
            self._cipher.reset_nonce(iv)  # counter mode: decrypting is encrypting
            data = self._cipher.update(ciphertext)
            if plain_length:
                data = self._decompressor.decompress(data, max_output_size=plain_length, allow_extra_data=False)
        except (InvalidSignature, zstandard.ZstdError) as error:
            raise _broken(blob_id, error) from error
        if hashlib.sha256(data).digest() != blob_id or (plain_length and len(data) != plain_length):
            raise _broken(blob_id, "another content came out")


_local = threading.local()


def seal_all(keys: Keys, kind: BlobKind, data: bytes, sizes: Sequence[int], ids: bytes) -> list[Run]:
    """`BlobSealer.encode` for contents that stand one after the other in `data`, with a sealer of this thread. Each goes into one
    of two runs by chance. Raises SealingError."""
    sealer: BlobSealer | None = getattr(_local, "sealer", None)
    if sealer is None or sealer.keys != keys:
        sealer = _local.sealer = BlobSealer(keys)
    runs: list[tuple[list[bytes], list[bytes | bytearray]]] = [([], []), ([], [])]
    chance = int.from_bytes(os.urandom(len(sizes) // 8 + 1), "little")
    view, start = memoryview(data), 0
    for number, size in enumerate(sizes):
        blob_id = ids[32 * number : 32 * number + 32]
        plain_length, sealed = sealer.encode(kind, blob_id, view[start : start + size])
        entries, blobs = runs[chance >> number & 1]
        entries.append(encode_entry(kind, blob_id, len(sealed), plain_length))
        blobs.append(sealed)
        start += size
    return [(b"".join(entries), b"".join(blobs)) for entries, blobs in runs if entries]


def _broken(blob_id: bytes, why: object) -> SealingError:
    return SealingError(
        f"blob {blob_id.hex()} cannot be opened right after sealing ({why}): bad memory or a broken library"
    )
