"""Sealing: AES-256-CTR with a Poly1305-AES tag over the ciphertext (format description in restic's `doc/design.rst`).

sealed = IV(16) || AES-256-CTR(encrypt, IV, plaintext) || Poly1305(r || AES-128(k, IV), ciphertext)
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.poly1305 import Poly1305

from backupctl.repository.format import FormatError

OVERHEAD_BYTES = 32
_SCRYPT_BYTES = 1 << 29  # more than anybody's key file asks for in good faith: ours and restic's take 32 MiB


class SealError(FormatError):
    """The tag does not match: another key, or damaged bytes."""


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """The three secrets of a seal. Never printed."""

    encrypt: bytes  # 32, AES-256
    mac_k: bytes  # 16, AES-128
    mac_r: bytes  # 16, Poly1305 r, clamped on use

    def __post_init__(self) -> None:
        if (len(self.encrypt), len(self.mac_k), len(self.mac_r)) != (32, 16, 16):
            raise FormatError("a key has the wrong length")
        if not (any(self.encrypt) and any(self.mac_k) and any(self.mac_r)):
            raise FormatError("a key is all zero")

    @classmethod
    def random(cls) -> Keys:
        return cls(os.urandom(32), os.urandom(16), os.urandom(16))


def _tag(keys: Keys, iv: bytes, ciphertext: bytes | memoryview) -> Poly1305:
    mask = Cipher(AES(keys.mac_k), ECB()).encryptor().update(iv)  # noqa: S305 — one block: the format's Poly1305-AES
    authenticator = Poly1305(keys.mac_r + mask)
    authenticator.update(ciphertext)
    return authenticator


def seal(keys: Keys, plaintext: bytes, *, iv: bytes | None = None) -> bytes:
    """`plaintext` encrypted and authenticated, 32 bytes longer. `iv` is for test vectors only."""
    while iv is None or not any(iv):
        iv = os.urandom(16)
    ciphertext = Cipher(AES(keys.encrypt), CTR(iv)).encryptor().update(plaintext)
    return b"".join((iv, ciphertext, _tag(keys, iv, ciphertext).finalize()))


def unseal(keys: Keys, sealed: bytes) -> bytes:
    """The plaintext; the tag is verified first. Raises SealError."""
    if len(sealed) < OVERHEAD_BYTES:
        raise SealError(f"{len(sealed)} bytes are too few to be sealed")
    view = memoryview(sealed)
    iv, ciphertext, tag = bytes(view[:16]), view[16:-16], bytes(view[-16:])
    if not any(iv):
        raise SealError("the IV is all zero")
    try:
        _tag(keys, iv, ciphertext).verify(tag)
    except InvalidSignature:
        raise SealError("the seal is broken: wrong key or damaged bytes") from None
    return Cipher(AES(keys.encrypt), CTR(iv)).decryptor().update(ciphertext)


def derive_user_keys(password: str, salt: bytes, *, n: int, r: int, p: int) -> Keys:
    """The keys that seal the master keys in a key file. Raises FormatError for parameters the format refuses, MemoryError
    when there is no room for parameters as somebody would choose them in good faith."""
    if n < 2 or n & (n - 1) or r < 1 or p < 1 or r * p >= 2**30 or len(salt) != 64:
        raise FormatError("scrypt parameters or salt are out of range")
    memory_bytes = 128 * r * (n + p + 2) + 2**20
    try:
        # 78 ms, where `hashlib.scrypt` takes 90: its OpenSSL is the newer one
        raw = Scrypt(salt=salt, length=64, n=n, r=r, p=p).derive(password.encode())
    except (ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, MemoryError) and memory_bytes <= _SCRYPT_BYTES:
            raise MemoryError from None
        raise FormatError(f"scrypt refuses N={n} r={r} p={p}: {error}") from None
    return Keys(raw[:32], raw[32:48], raw[48:])


def derive(keys: Keys, label: bytes, length: int) -> bytes:
    """`length` secret bytes for another purpose: HKDF-SHA256 over the encryption key, `label` as info."""
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=label).derive(keys.encrypt)
