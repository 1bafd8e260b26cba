"""Shares of a password: any k of n, no fewer, and a wrong one is named."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupctl.errors import UsageError
from backupctl.repository import shares
from backupctl.repository.shares import Share, combine, invert, multiply, split

SECRET = "GYaIzYgjguGzCzGKRswqo7BstOkF89Lr4ds0Bkzrw4y0 祕密".encode()


def test_the_field_is_that_of_aes() -> None:
    assert multiply(0x57, 0x83) == 0xC1  # FIPS 197, 4.2
    assert multiply(0x57, 0x13) == 0xFE  # FIPS 197, 4.2.1
    assert invert(0x53) == 0xCA
    assert all(multiply(value, invert(value)) == 1 for value in range(1, 256))
    with pytest.raises(ZeroDivisionError):
        invert(0)


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=1, max_size=80), st.integers(2, 6), st.integers(0, 4), st.randoms(use_true_random=False))
def test_any_k_of_n_bring_it_back(secret: bytes, needed: int, more: int, chance: random.Random) -> None:
    made = split(secret, needed=needed, number=needed + more)
    chosen = chance.sample(made, needed)
    assert combine([Share.decode(share.encode()) for share in chosen]) == secret
    assert combine(made) == secret


def test_every_three_of_five_and_no_two() -> None:
    made = split(SECRET, needed=3, number=5)
    assert all(combine(chosen) == SECRET for chosen in combinations(made, 3))
    for chosen in combinations(made, 2):
        with pytest.raises(UsageError, match="2 shares are too few: 3 are needed"):
            combine(chosen)


def test_two_of_three_shares_fit_every_password() -> None:
    """What the holders of k-1 shares know: for whatever password there is a third share that makes it."""
    values = iter(range(256))

    def counting(size: int) -> bytes:
        return bytes(next(values) for _ in range(size)) if size == 2 else b"\1\2\3\4"

    (one, two, _) = split(b"\0", needed=3, number=3, random_bytes=counting)
    seen = set()
    for third in range(256):
        forged = [one, two, Share(3, 3, one.set_id, bytes([third]) * len(one.values))]
        with pytest.raises(UsageError):
            combine(forged)
        seen.add(shares._at(forged, 0)[0])
    assert len(seen) == 256


def test_a_wrong_share_is_named_when_there_are_more_than_needed() -> None:
    made = split(SECRET, needed=3, number=5)
    bad = replace(made[1], values=bytes([made[1].values[0] ^ 1]) + made[1].values[1:])
    with pytest.raises(UsageError, match="too few to tell which"):
        combine([made[0], bad, made[2]])
    with pytest.raises(UsageError, match="share 2 is wrong"):
        combine([made[0], bad, made[2], made[3]])
    with pytest.raises(UsageError, match="share 2 is wrong"):
        combine([made[0], made[2], made[3], bad])
    with pytest.raises(UsageError, match="share 2 was given twice"):
        combine([made[0], made[1], bad, made[3]])


def test_shares_of_another_set_do_not_fit() -> None:
    old, new = split(SECRET, needed=2, number=3), split(SECRET, needed=2, number=3)
    with pytest.raises(UsageError, match="does not belong to set"):
        combine([old[0], new[1]])


def test_the_same_share_counts_once() -> None:
    made = split(SECRET, needed=2, number=2)
    with pytest.raises(UsageError, match="1 shares are too few"):
        combine([made[0], made[0]])


def test_what_is_typed_is_forgiven_or_refused() -> None:
    made = split(SECRET, needed=2, number=2)[0]
    text = made.encode()
    assert Share.decode(text.lower().replace("-", " ").replace("o", "0").replace("i", "1").replace("b", "8")) == made
    assert SECRET.hex() not in repr(made)
    for position in range(0, len(text), 7):
        if text[position] != "-":
            other = "A" if text[position] != "A" else "C"
            with pytest.raises(UsageError, match="cut or mistyped"):
                Share.decode(text[:position] + other + text[position + 1 :])
    for broken in ("", "-", text[:-3], "ÄÖÜ", "99999"):
        with pytest.raises(UsageError, match="cut or mistyped"):
            Share.decode(broken)


@pytest.mark.parametrize(("needed", "number"), [(1, 3), (4, 3), (0, 0), (2, 17)])
def test_numbers_that_make_no_sense_are_refused(needed: int, number: int) -> None:
    with pytest.raises(UsageError, match="is not possible"):
        split(SECRET, needed=needed, number=number)
