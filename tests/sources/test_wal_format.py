"""Log that a server left when it crashed: records that were given up are no damage, those that only look like it are."""

from __future__ import annotations

import struct

import pytest

from backupctl.sources.wal_format import PAGE_BYTES, WalReader, describe_segment, record_crc

SEGMENT = 1 << 20
CONTINUES, LONG, OVERWRITES = 1, 2, 8


def record(length: int) -> bytes:
    """Of transaction 7, with content that looks like no other."""
    body = bytes(range(1, 251)) * (length // 250 + 1)
    head = struct.pack("<IIQBBxx", length, 7, 0, 0, 21)
    whole = head + bytes(4) + body[: length - 24]
    return head + struct.pack("<I", record_crc(whole)) + whole[24:]


def page(number: int, flags: int, remaining: int, content: bytes) -> bytes:
    head = struct.pack("<HHIQI", 0xD110, flags | (0 if number else LONG), 1, number * PAGE_BYTES, remaining) + bytes(4)
    head += b"" if number else struct.pack("<QII", 77, SEGMENT, PAGE_BYTES)
    assert len(head + content) <= PAGE_BYTES
    return (head + content).ljust(PAGE_BYTES, b"\0")


def segment(*pages: bytes) -> bytes:
    return b"".join(pages).ljust(SEGMENT, b"\0")


GOOD = record(400)
LONG_ONE = record(20000)
FIRST, NEXT = PAGE_BYTES - 40, PAGE_BYTES - 24  # room in a segment's first page, and in another


def read(content: bytes) -> tuple[list[int], WalReader]:
    places: list[int] = []
    reader = WalReader(0, SEGMENT, lambda *one: places.append(one[3]))
    reader.feed(content)
    return places, reader


def test_a_record_that_was_given_up_is_none() -> None:
    """The server crashed when it had written the first page of it; it goes on behind that, and says so there."""
    content = segment(page(0, 0, 0, LONG_ONE[:FIRST]), page(1, OVERWRITES, 0, GOOD))
    places, reader = read(content)
    assert places == [PAGE_BYTES + 24] and reader.broken is None
    assert "broken" not in describe_segment(content)


def test_of_one_that_began_in_a_segment_before_too() -> None:
    left = len(LONG_ONE) - 1000
    content = segment(page(0, CONTINUES, left, LONG_ONE[1000 : 1000 + FIRST]), page(1, OVERWRITES, 0, GOOD))
    places, reader = read(content)
    assert places == [PAGE_BYTES + 24] and reader.broken is None


@pytest.mark.parametrize(
    ("flags", "remaining"), [(0, 0), (CONTINUES, len(LONG_ONE) - FIRST + 8)], ids=["no continuation", "another length"]
)
def test_a_page_that_does_not_go_on_with_a_record_breaks_it(flags: int, remaining: int) -> None:
    content = segment(page(0, 0, 0, LONG_ONE[:FIRST]), page(1, flags, remaining, LONG_ONE[FIRST : FIRST + NEXT]))
    places, reader = read(content)
    assert (places, reader.broken, reader.ended) == ([], 40, True)
    assert describe_segment(content)["broken"] == "0/28"


def test_a_record_over_several_pages_is_verified_without_their_headers() -> None:
    rest = LONG_ONE[FIRST:]
    pages = [page(0, 0, 0, LONG_ONE[:FIRST])]
    pages += [page(n + 1, CONTINUES, len(rest) - n * NEXT, rest[n * NEXT : (n + 1) * NEXT]) for n in range(2)]
    places, reader = read(segment(*pages))
    assert places == [40] and reader.broken is None
    damaged = bytearray(segment(*pages))
    damaged[PAGE_BYTES + 4000] ^= 16
    assert read(bytes(damaged))[1].broken == 40


def test_zeros_are_the_end_and_no_damage() -> None:
    content = segment(page(0, 0, 0, GOOD))
    places, reader = read(content)
    assert places == [40] and reader.ended and reader.broken is None
    assert "broken" not in describe_segment(content)
