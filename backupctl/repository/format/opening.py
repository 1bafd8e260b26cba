"""Opening many sealed blobs quickly: what `unseal` and `decompress` do, without making ciphers anew for each blob.

A blob of 2 KB takes 7 µs this way and 24 µs the other (Python 3.11, cryptography 50, zstandard 0.25).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import zstandard
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from cryptography.hazmat.primitives.poly1305 import Poly1305

from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import OVERHEAD_BYTES, Keys
from backupctl.repository.format.pack import MAX_BLOB_BYTES, iterate_header
from backupctl.repository.format.unpacked import MAX_WINDOW_BYTES, decompress

_TRUSTED_BYTES = 64 << 20  # above this, a stated size is not allocated before the content proves it
_NO_IV = bytes(16)
_PIECE_BYTES = 128 << 10


class BlobOpener:
    """For one thread: the ciphers keep state between calls."""

    def __init__(self, keys: Keys) -> None:
        self._masks = Cipher(AES(keys.mac_k), ECB()).encryptor()  # noqa: S305 — single blocks: the format's Poly1305-AES
        self._cipher = Cipher(AES(keys.encrypt), CTR(_NO_IV)).decryptor()
        self._mac_r = keys.mac_r
        self._piece = bytearray(_PIECE_BYTES + 16)  # `update_into` wants a block more than it fills
        self._zstd = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)

    def open_all(self, header: bytes, sealed: bytes | memoryview) -> Iterator[tuple[bool, bytes | None]]:
        """For each entry of a plain pack header, whose blobs stand one after the other in `sealed`: whether it is a tree,
        and its content, None when it is not the one that the header names. Of data only that it is good is told, by b""."""
        view = memoryview(sealed)
        entries = list(iterate_header(header))
        ivs = b"".join([view[entry[1] : entry[1] + 16] for entry in entries])
        if len(ivs) < 16 * len(entries):  # cut short: what is there is opened all the same
            ivs = b"".join([bytes(view[entry[1] : entry[1] + 16]).ljust(16) for entry in entries])
        masks = self._masks.update(ivs)  # of all at once: a call costs more than a block
        at = 0
        for is_tree, offset, length, plain_length, blob_id in entries:
            part = view[offset : offset + length]
            iv, mask = ivs[at : at + 16], masks[at : at + 16]
            at += 16
            if len(part) != length or length < OVERHEAD_BYTES:
                yield is_tree, None
            elif is_tree or plain_length:
                try:
                    content = self._content(part, iv, mask, plain_length, blob_id)
                except FormatError:
                    content = None
                yield is_tree, content if is_tree or content is None else b""
            else:
                good = self._begin(part, iv, mask) and self._hash(part[16:-16]) == blob_id
                yield is_tree, b"" if good else None

    def open(self, sealed: memoryview, length: int, plain_length: int, blob_id: bytes) -> bytes | None:
        """Raises FormatError, or gives None, for what is not the blob that the others say."""
        if len(sealed) != length or length < OVERHEAD_BYTES:
            return None
        iv = bytes(sealed[:16])
        return self._content(sealed, iv, self._masks.update(iv), plain_length, blob_id)

    def _begin(self, sealed: memoryview, iv: bytes, mask: bytes) -> bool:
        """Whether the tag is right; the cipher is then at the beginning."""
        if iv == _NO_IV:
            return False
        try:
            Poly1305.verify_tag(self._mac_r + mask, sealed[16:-16], bytes(sealed[-16:]))
        except InvalidSignature:
            return False
        self._cipher.reset_nonce(iv)
        return True

    def _content(self, sealed: memoryview, iv: bytes, mask: bytes, plain_length: int, blob_id: bytes) -> bytes | None:
        if not self._begin(sealed, iv, mask):
            return None
        content = self._cipher.update(sealed[16:-16])
        if plain_length:
            content = self._expand(content, plain_length)
        return content if hashlib.sha256(content).digest() == blob_id else None

    def _hash(self, ciphertext: memoryview) -> bytes:
        """Of the content, in pieces that stay in a processor's cache."""
        digest = hashlib.sha256()
        for start in range(0, len(ciphertext), _PIECE_BYTES):
            size = self._cipher.update_into(ciphertext[start : start + _PIECE_BYTES], self._piece)
            digest.update(memoryview(self._piece)[:size])
        return digest.digest()

    def _expand(self, data: bytes, plain_length: int) -> bytes:
        """At once when the frame states the size that the header does, else in pieces and with a bound."""
        try:
            if plain_length <= _TRUSTED_BYTES and zstandard.frame_content_size(data) == plain_length:
                expanded: bytes = self._zstd.decompress(data, allow_extra_data=False)
                return expanded
        except zstandard.ZstdError:
            pass  # more than one frame, or damage: said by the careful way
        return decompress(data, max_bytes=min(plain_length, MAX_BLOB_BYTES["tree"]))
