"""Key files: the master keys, sealed with keys that scrypt makes from a password."""

from __future__ import annotations

import base64
import binascii
import json
import os
from dataclasses import dataclass
from datetime import datetime

from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import Keys, derive_user_keys, seal, unseal
from backupctl.repository.format.gojson import load_object, string, unsigned
from backupctl.repository.format.times import datetime_ns, format_time, ns_datetime, parse_time

MAX_SCRYPT_BYTES = 1 << 30
"""Memory, 128·N·r. Stock restic fits N and p to half a second and 60 MiB of the machine that made the key, so its
N·r is at most 2^18; N = 2^20 with r = 8, what people choose by hand for long-lived secrets, still fits."""
MAX_SCRYPT_WORK_BYTES = 4 << 30
"""Memory times p: some ten seconds. A key file is read before anything is authenticated."""


def encode_keyfile(
    master: Keys, password: str, *, created: datetime, username: str, hostname: str, n: int, r: int = 8, p: int = 1
) -> bytes:
    """A key file that opens with `password`."""
    salt = os.urandom(64)
    secrets = {
        "mac": {"k": _text(master.mac_k), "r": _text(master.mac_r)},
        "encrypt": _text(master.encrypt),
    }
    data = seal(derive_user_keys(password, salt, n=n, r=r, p=p), json.dumps(secrets, separators=(",", ":")).encode())
    fields = {
        "created": format_time(datetime_ns(created)),
        "username": username,
        "hostname": hostname,
        "kdf": "scrypt",
        "N": n,
        "r": r,
        "p": p,
        "salt": _text(salt),
        "data": _text(data),
    }
    return json.dumps(fields, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class SealedKeys:
    """What a key file says without the password."""

    n: int
    r: int
    p: int
    salt: bytes
    data: bytes


def parse_keyfile(data: bytes) -> SealedKeys:
    """Raises FormatError."""
    fields = load_object(data)
    if fields.get("kdf") != "scrypt":
        raise FormatError(f"unknown key derivation {str(fields.get('kdf'))[:20]!r}")
    n, r, p = (unsigned(fields.get(name), bits=32) for name in ("N", "r", "p"))
    if 128 * n * r > MAX_SCRYPT_BYTES:
        raise FormatError(f"scrypt would need {128 * n * r >> 20} MiB")
    if 128 * n * r * p > MAX_SCRYPT_WORK_BYTES:
        raise FormatError(f"scrypt would go through {128 * n * r * p >> 30} GiB")
    return SealedKeys(n, r, p, _bytes(fields.get("salt")), _bytes(fields.get("data")))


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What a key file says of its making; nothing vouches for it. `created` is None when it says no time."""

    created: datetime | None
    username: str
    hostname: str


def describe_keyfile(data: bytes) -> KeyFacts:
    """Raises FormatError, also for one that could not be opened with any password."""
    parse_keyfile(data)
    fields = load_object(data)
    try:
        created = ns_datetime(parse_time(fields.get("created")))
    except FormatError:
        created = None
    return KeyFacts(created, string(fields.get("username")), string(fields.get("hostname")))


def open_keyfile(data: bytes, password: str) -> Keys:
    """The master keys. Raises SealError when the password is another one, FormatError when the file is damaged."""
    sealed = parse_keyfile(data)
    user = derive_user_keys(password, sealed.salt, n=sealed.n, r=sealed.r, p=sealed.p)
    secrets = load_object(unseal(user, sealed.data))
    mac = secrets.get("mac")
    if not isinstance(mac, dict):
        raise FormatError("the sealed keys lack a MAC key")
    return Keys(_bytes(secrets.get("encrypt")), _bytes(mac.get("k")), _bytes(mac.get("r")))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(value: object) -> bytes:
    if not isinstance(value, str):
        raise FormatError("a key file field is missing")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise FormatError("a key file field is not base64") from None
