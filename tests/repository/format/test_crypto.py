"""Sealing and keys, against vectors that stock restic's own code agreed with."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import Keys, SealError, derive, derive_user_keys, seal, unseal
from backupctl.repository.format.keyfile import encode_keyfile, open_keyfile, parse_keyfile

KEYS = Keys(bytes(range(32)), bytes(range(0x20, 0x30)), bytes(range(0x30, 0x40)))
VECTORS = [
    (
        bytes(range(0xF0, 0x100)),
        b"hello restic",
        "fa65a1e14cb6f2ae291d8f3774c95e131ed2f5e4c2c5776ae9a9c1a1",
    ),
    (bytes(range(0xF0, 0x100)), b"", "7e1da219390824afb3f896d94949b6ce"),
    (
        b"\xff" * 16,
        bytes(range(0x28)),
        (
            "e998e61e48a276dd5b8e1b70518259e1e28112a53e5c89c7b1ea8071c133699fd07c548d6e9cb9c2"
            "693a8aef83793df01a31e9da5a56837b"
        ),
    ),
]


@pytest.mark.parametrize(("iv", "plaintext", "rest"), VECTORS)
def test_seal_vectors(iv: bytes, plaintext: bytes, rest: str) -> None:
    sealed = seal(KEYS, plaintext, iv=iv)
    assert sealed == iv + bytes.fromhex(rest)
    assert unseal(KEYS, sealed) == plaintext


@given(st.binary(max_size=200), st.data())
def test_every_flipped_bit_is_noticed(plaintext: bytes, data: st.DataObject) -> None:
    sealed = bytearray(seal(KEYS, plaintext))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SealError):
        unseal(KEYS, bytes(sealed))


def test_short_and_zero_are_refused() -> None:
    with pytest.raises(SealError):
        unseal(KEYS, b"x" * 31)
    with pytest.raises(SealError):
        unseal(KEYS, b"\0" * 40)
    with pytest.raises(FormatError):
        Keys(b"\0" * 32, KEYS.mac_k, KEYS.mac_r)
    for secret in (KEYS.mac_k, KEYS.mac_r):
        assert secret.hex()[:8] not in repr(KEYS), "keys do not show in a repr"
        assert repr(secret)[2:10] not in repr(KEYS)


def test_scrypt_vector() -> None:
    keys = derive_user_keys("geheim", bytes(range(64)), n=16384, r=8, p=1)
    assert keys.encrypt.hex() == "cc66e69192f15b74db1517365219cd3bbc9596c9d89742c0994c07731e4a8722"
    assert keys.mac_k.hex() == "5660816cdb814e9d9fb6d37480a6a772"
    assert keys.mac_r.hex() == "c7de7f285da1d924c3ea502395cf652a"


@pytest.mark.parametrize(("n", "r", "p", "salt"), [(3, 8, 1, 64), (0, 8, 1, 64), (16, 0, 1, 64), (16, 8, 1, 32)])
def test_bad_scrypt_parameters(n: int, r: int, p: int, salt: int) -> None:
    with pytest.raises(FormatError):
        derive_user_keys("x", bytes(salt), n=n, r=r, p=p)


def test_keyfile_opens_with_its_password_only() -> None:
    data = encode_keyfile(KEYS, "pä", created=datetime(2026, 1, 2, tzinfo=UTC), username="u", hostname="h", n=16)
    assert open_keyfile(data, "pä") == KEYS
    assert len(parse_keyfile(data).salt) == 64
    with pytest.raises(SealError):
        open_keyfile(data, "pa")


@given(st.binary(max_size=60))
def test_a_damaged_keyfile_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        open_keyfile(data, "x")


def test_a_keyfile_that_wants_all_memory_is_refused() -> None:
    data = encode_keyfile(KEYS, "p", created=datetime(2026, 1, 2, tzinfo=UTC), username="u", hostname="h", n=16)
    with pytest.raises(FormatError, match="MiB"):
        open_keyfile(data.replace(b'"N":16', b'"N":1073741824'), "p")


def test_derived_secrets_depend_on_label_and_length() -> None:
    assert len(derive(KEYS, b"chunker", 16)) == 16
    assert derive(KEYS, b"chunker", 16) == derive(KEYS, b"chunker", 16) != derive(KEYS, b"other", 16)
