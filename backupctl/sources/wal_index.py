"""What an archive of write-ahead log holds, in spans without a hole, per timeline; and the way through timelines. Pure.

A history file names, for its timeline, every ancestor and the LSN at which it was left:
src/backend/access/transam/timeline.c.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from backupctl.sources.wal_format import format_lsn, is_segment_name, parse_lsn, segment_name, segment_place

_HISTORY = re.compile(r"([0-9A-F]{8})\.history")


@dataclass(frozen=True, slots=True)
class Span:
    """Log without a hole from `start` up to `end`."""

    timeline: int
    start: int
    end: int

    def __str__(self) -> str:
        return f"{format_lsn(self.start)} to {format_lsn(self.end)} on timeline {self.timeline}"


@dataclass(frozen=True, slots=True)
class Ancestor:
    timeline: int
    end: int  # where the next one began


def spans(names: Iterable[str], segment_bytes: int) -> list[Span]:
    """By timeline, then LSN. Two spans of a timeline have a hole between them."""
    found: list[Span] = []
    for timeline, lsn in sorted(segment_place(name, segment_bytes) for name in names if is_segment_name(name)):
        last = found[-1] if found else None
        if last is not None and (last.timeline, last.end) == (timeline, lsn):
            found[-1] = Span(timeline, last.start, lsn + segment_bytes)
        else:
            found.append(Span(timeline, lsn, lsn + segment_bytes))
    return found


def holes(found: Sequence[Span]) -> list[Span]:
    """What is missing between the spans of each timeline."""
    return [Span(a.timeline, a.end, b.start) for a, b in pairwise(found) if a.timeline == b.timeline]


def missing(names: Collection[str], histories: Mapping[int, Sequence[Ancestor]], segment_bytes: int) -> list[Span]:
    """What lacks between the segments of each timeline, and of those that it came from: no recovery leads across one."""
    held = spans(names, segment_bytes)
    lacking: set[str] = set()
    for timeline in {one.timeline for one in held}:
        way = way_to(timeline, histories)
        begin = next(
            span for one in way for span in held if span.timeline == one.timeline and span.start < (one.end or span.end)
        )
        last = max(span.end for span in held if span.timeline == timeline)
        for name, lsn in segments_along(way, begin.timeline, begin.start, segment_bytes):
            if lsn >= last:
                break
            if name not in names:
                lacking.add(name)
    return spans(lacking, segment_bytes)


def history_timeline(name: str) -> int | None:
    """The timeline that a history file belongs to; None for any other name."""
    match = _HISTORY.fullmatch(name)
    return int(match[1], 16) if match else None


def history_name(timeline: int) -> str:
    return f"{timeline:08X}.history"


def parse_history(text: str) -> list[Ancestor]:
    """Oldest first. Raises ValueError."""
    ancestors = []
    for line in text.splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            ancestors.append(Ancestor(int(words[0]), parse_lsn(words[1])))
    return ancestors


def way_to(timeline: int, histories: Mapping[int, Sequence[Ancestor]]) -> list[Ancestor]:
    """The timelines that lead to `timeline`, itself last and without an end (0)."""
    return [*histories.get(timeline, ()), Ancestor(timeline, 0)]


def newest_descendant(timeline: int, lsn: int, histories: Mapping[int, Sequence[Ancestor]]) -> int:
    """The highest timeline that goes through `timeline` at `lsn`: what a promotion after it made."""
    through = [
        one for one, ancestors in histories.items() if any(a.timeline == timeline and a.end >= lsn for a in ancestors)
    ]
    return max([timeline, *through])


def segments_along(way: Sequence[Ancestor], timeline: int, lsn: int, segment_bytes: int) -> Iterator[tuple[str, int]]:
    """(name, first LSN) of every segment from the one with `lsn` on timeline `timeline` on, without end. In the segment in
    which a timeline was left, the next one's file counts: it begins with a copy of the old one's records."""
    at = lsn - lsn % segment_bytes
    number = next(index for index, one in enumerate(way) if one.timeline == timeline)
    while True:
        while way[number].end and way[number].end < at + segment_bytes:
            number += 1
        yield segment_name(way[number].timeline, at, segment_bytes), at
        at += segment_bytes
