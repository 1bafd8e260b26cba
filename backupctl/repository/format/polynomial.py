"""Polynomials over GF(2) as integers: the chunker parameter in every config (restic checks it on each open)."""

from __future__ import annotations

import secrets
from collections.abc import Callable

DEGREE = 53


def _remainder(value: int, modulus: int) -> int:
    degree = modulus.bit_length()
    while (excess := value.bit_length() - degree) >= 0:
        value ^= modulus << excess
    return value


def _square(value: int, modulus: int) -> int:
    spread = int(bin(value)[2:], 4)  # squaring over GF(2) puts a zero between all bits
    return _remainder(spread, modulus)


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, _remainder(a, b)
    return a


def is_irreducible(polynomial: int) -> bool:
    """Ben-Or's test: gcd(x^(2^i) - x, P) = 1 for every i up to half the degree."""
    degree = polynomial.bit_length() - 1
    if degree < 1:
        return False
    power = 2  # x
    for _ in range(degree // 2):
        power = _square(power, polynomial)
        if _gcd(polynomial, power ^ 2) != 1:
            return False
    return True


def random_polynomial(random_bits: Callable[[int], int] = secrets.randbits) -> int:
    """An irreducible polynomial of degree 53; about one candidate in 27 is one."""
    while True:
        candidate = random_bits(DEGREE + 1) | 1 << DEGREE | 1
        if is_irreducible(candidate):
            return candidate
