"""A password in n shares of which any k bring it back, and of which fewer say nothing about it.

Shamir's scheme (Communications of the ACM 22, 1979) for each byte over GF(256), the field of AES (x^8+x^4+x^3+x+1): a random
polynomial of degree k-1 whose value at 0 is the byte; a share is its values at one x of 1..n. What is shared is the password
behind the first bytes of its SHA-256, so that a wrong set of shares is noticed.

A share on paper: base32 of version, k, x, set (4 bytes), the values, and a checksum (4 bytes of SHA-256) against typing errors.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from backupctl.errors import UsageError

VERSION = 1
PROOF_BYTES = 8
CHECKSUM_BYTES = 4
SET_BYTES = 4
MOST_SHARES = 16
GROUP = 5  # characters between dashes
READ_AS = str.maketrans("018", "OIB")  # no such digits are in base32: what was meant is clear


@dataclass(frozen=True, slots=True)
class Share:
    """One holder's part. `needed` of those with the same `set_id` bring the secret back."""

    needed: int
    x: int
    set_id: str  # 8 hexadecimal digits
    values: bytes = field(repr=False)

    def encode(self) -> str:
        data = bytes([VERSION, self.needed, self.x]) + bytes.fromhex(self.set_id) + self.values
        text = base64.b32encode(data + _checksum(data)).decode().rstrip("=")
        return "-".join(text[start : start + GROUP] for start in range(0, len(text), GROUP))

    @classmethod
    def decode(cls, text: str) -> Share:
        """Raises UsageError for a text that was cut or mistyped; small letters, spaces and dashes do not matter."""
        plain = re.sub(r"[\s-]", "", text).upper().translate(READ_AS)
        try:
            data = base64.b32decode(plain + "=" * (-len(plain) % 8))
        except ValueError:
            data = b""
        data, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
        head = 3 + SET_BYTES
        if len(data) <= head + PROOF_BYTES or checksum != _checksum(data):
            raise UsageError("a share is cut or mistyped", next_step="compare it with the paper, sign by sign")
        if data[0] != VERSION or data[1] < 2 or not data[2]:
            raise UsageError("a share is of a kind that this version does not know", next_step="upgrade backupctl")
        return cls(data[1], data[2], data[3:head].hex(), data[head:])


def split(
    secret: bytes, *, needed: int, number: int, random_bytes: Callable[[int], bytes] = secrets.token_bytes
) -> list[Share]:
    """`number` shares, any `needed` of which bring `secret` back. Raises UsageError for numbers that make no sense."""
    if not 2 <= needed <= number <= MOST_SHARES:
        raise UsageError(
            f"{needed} of {number} shares is not possible: at least 2, at most {MOST_SHARES}, and no more needed than made",
            next_step="for example --shares 5 --needed 3",
        )
    payload = _proof(secret) + secret
    set_id = random_bytes(SET_BYTES).hex()
    columns = [bytes([byte]) + random_bytes(needed - 1) for byte in payload]
    return [
        Share(needed, x, set_id, bytes(_value(coefficients, x) for coefficients in columns))
        for x in range(1, number + 1)
    ]


def combine(shares: Sequence[Share]) -> bytes:
    """The secret. Raises UsageError for too few, for shares of another set, and when one is wrong: with more than are
    needed it is named."""
    usable = _usable(shares)
    needed = usable[0].needed
    secret = _secret(usable[:needed])
    if secret is not None and not _wrong(usable, usable[:needed]):
        return secret
    for chosen in combinations(usable, needed):
        if _secret(chosen) is not None:
            names = ", ".join(f"share {share.x}" for share in _wrong(usable, chosen))
            raise UsageError(f"{names} is wrong: it was altered after it was made", next_step="leave it out")
    raise UsageError(
        "a share is wrong, and there are too few to tell which",
        next_step=f"give one more: of {needed + 1} the wrong one can be named",
    )


def _usable(shares: Sequence[Share]) -> list[Share]:
    """Each once, all of one set and enough of them."""
    if not shares:
        raise UsageError("no share was given", next_step="give as many as are needed")
    first = shares[0]
    for share in shares:
        if (share.set_id, share.needed, len(share.values)) != (first.set_id, first.needed, len(first.values)):
            raise UsageError(
                f"share {share.x} of set {share.set_id} does not belong to set {first.set_id}",
                next_step="give shares that were made together; newer ones replace all older ones",
            )
    by_x: dict[int, Share] = {}
    for share in shares:
        if by_x.setdefault(share.x, share) != share:
            raise UsageError(f"share {share.x} was given twice, and not the same", next_step="leave the wrong one out")
    if len(by_x) < first.needed:
        raise UsageError(
            f"{len(by_x)} shares are too few: {first.needed} are needed", next_step="ask further holders for theirs"
        )
    return list(by_x.values())


def _secret(shares: Sequence[Share]) -> bytes | None:
    """None when they do not fit together."""
    payload = _at(shares, 0)
    proof, secret = payload[:PROOF_BYTES], payload[PROOF_BYTES:]
    return secret if secrets.compare_digest(proof, _proof(secret)) else None


def _wrong(shares: Sequence[Share], right: Sequence[Share]) -> list[Share]:
    """Those that do not lie on the polynomials of `right`."""
    return [share for share in shares if _at(right, share.x) != share.values]


def _at(shares: Sequence[Share], x: int) -> bytes:
    """The polynomials through these shares, at `x` (Lagrange's interpolation)."""
    weights = []
    for share in shares:
        weight = 1
        for other in shares:
            if other.x != share.x:
                weight = multiply(weight, multiply(x ^ other.x, invert(share.x ^ other.x)))
        weights.append(weight)
    result = bytearray(len(shares[0].values))
    for share, weight in zip(shares, weights, strict=True):
        for position, value in enumerate(share.values):
            result[position] ^= multiply(value, weight)
    return bytes(result)


def _value(coefficients: bytes, x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = multiply(value, x) ^ coefficient
    return value


def multiply(left: int, right: int) -> int:
    """In GF(256). By shifts, without tables that depend on what is multiplied."""
    product = 0
    for bit in range(8):
        product ^= -(right >> bit & 1) & left
        left = (left << 1) ^ (-(left >> 7) & 0x11B)
    return product


def invert(value: int) -> int:
    """In GF(256): the power 254. There is none of 0."""
    if not value:
        raise ZeroDivisionError("0 has no inverse")
    result = value
    for _ in range(6):
        result = multiply(multiply(result, result), value)
    return multiply(result, result)


def _proof(secret: bytes) -> bytes:
    return hashlib.sha256(b"backupctl share proof" + secret).digest()[:PROOF_BYTES]


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:CHECKSUM_BYTES]
