"""Spans, holes and timelines of an archived log."""

from __future__ import annotations

from itertools import islice

import pytest

from backupctl.errors import UsageError
from backupctl.operations.wal_recovery import parse_target, refuse_point
from backupctl.sources.wal_format import format_lsn, parse_lsn, segment_name, segment_place
from backupctl.sources.wal_index import (
    Ancestor,
    Span,
    holes,
    newest_descendant,
    parse_history,
    segments_along,
    spans,
    way_to,
)

MB = 1 << 20
SEGMENT = 16 * MB


def test_names_and_places() -> None:
    for size in (MB, SEGMENT, 1 << 30):
        for lsn in (0, size, 0xFFFFFFFF // size * size, 1 << 32, (5 << 32) + 3 * size):
            assert segment_place(segment_name(3, lsn, size), size) == (3, lsn)
    assert segment_name(1, parse_lsn("1/2000028"), SEGMENT) == "000000010000000100000002"
    assert format_lsn(parse_lsn("A/16B3748")) == "A/16B3748"
    for bad in ("", "16B3748", "1/", "x/1", "1/123456789"):
        with pytest.raises(ValueError):
            parse_lsn(bad)


def test_a_hole_is_shown_as_a_hole() -> None:
    names = [segment_name(1, n * SEGMENT, SEGMENT) for n in (2, 3, 4, 7, 255, 256)] + [
        segment_name(2, 4 * SEGMENT, SEGMENT)
    ]
    found = spans([*names, "00000002.history", "000000010000000000000002.00000028.backup"], SEGMENT)
    assert found == [
        Span(1, 2 * SEGMENT, 5 * SEGMENT),
        Span(1, 7 * SEGMENT, 8 * SEGMENT),
        Span(1, 255 * SEGMENT, 257 * SEGMENT),
        Span(2, 4 * SEGMENT, 5 * SEGMENT),
    ]
    assert holes(found) == [Span(1, 5 * SEGMENT, 7 * SEGMENT), Span(1, 8 * SEGMENT, 255 * SEGMENT)]
    assert str(holes(found)[0]) == "0/5000000 to 0/7000000 on timeline 1"


def test_the_way_through_timelines() -> None:
    text = "1\t0/4800000\tno recovery target specified\n\n2\t0/7000000\tafter LSN 0/7000000\n"
    histories = {
        2: parse_history(text.splitlines()[0]),
        3: parse_history(text),
        4: [Ancestor(1, parse_lsn("0/2800000"))],
    }
    assert newest_descendant(1, parse_lsn("0/4000000"), histories) == 3
    assert newest_descendant(1, parse_lsn("0/2000000"), histories) == 4
    assert newest_descendant(1, parse_lsn("0/5000000"), histories) == 1, "left before: no timeline leads through it"
    way = way_to(3, histories)
    names = [name for name, _ in islice(segments_along(way, 1, parse_lsn("0/3000100"), SEGMENT), 6)]
    assert [(int(name[:8], 16), int(name[16:], 16)) for name in names] == [
        (1, 3),
        (2, 4),
        (2, 5),
        (2, 6),
        (3, 7),
        (3, 8),
    ]
    with pytest.raises((ValueError, IndexError)):
        parse_history("1 nonsense")


def test_points_as_they_are_typed() -> None:
    zone = "Asia/Taipei"
    assert (
        str(parse_target("lsn:0/16B3748@3", zone)) == "lsn 0/16B3748" and parse_target("lsn:0/1@3", zone).timeline == 3
    )
    assert (
        parse_target("xid:75", zone).xid == 75
        and parse_target("point:before the change", zone).name == "before the change"
    )
    just_before = parse_target("before:0/16B3748@3", zone)
    assert (just_before.kind, just_before.lsn, just_before.inclusive) == ("lsn", parse_lsn("0/16B3748"), False)
    assert (str(just_before), just_before.timeline) == ("before lsn 0/16B3748", 3)
    assert parse_target("latest", zone).kind == "latest"
    assert str(parse_target("2026-11-20 03:00:12.5", zone)) == "2026-11-19T19:00:12.500000Z"
    assert parse_target("b4b6f70e", zone) is None
    for bad in ("lsn:12", "before:x", "xid:x", "soon"):
        with pytest.raises(UsageError):
            parse_target(bad, zone)
    refuse_point("latest")
    with pytest.raises(UsageError, match="needs a server"):
        refuse_point("xid:7")
