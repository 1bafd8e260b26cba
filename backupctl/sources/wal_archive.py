"""A server's archived log: what there is of it, and the way from a base backup to a point in it.

Targets of every kind become one exact record: a recovery without an explicit target starts happily after a segment that is
missing, and one with a time is content with a state after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from backupctl.clock import iso, parse_iso
from backupctl.errors import DamageError, NoSuchError
from backupctl.repository.log_archive import LogArchive
from backupctl.sources.protocol import Fingerprint
from backupctl.sources.wal_format import WalEvent, WalReader, format_lsn, is_segment_name, parse_lsn
from backupctl.sources.wal_index import (
    Ancestor,
    Span,
    history_name,
    history_timeline,
    holes,
    newest_descendant,
    parse_history,
    segments_along,
    spans,
    way_to,
)

_OPEN = re.compile(r"([0-9A-F]{24})\.open\.([0-9A-F]{8})")
DAMAGED = ".damaged"  # behind the name of a segment that was archived although a record of it was broken


def opened_objects(archive: LogArchive, segment: str) -> list[str]:
    """What was stored of a segment before it was whole."""
    return [one for one in archive.names(segment) if (found := _OPEN.fullmatch(one)) and found[1] == segment]


def segment_of(name: str) -> str:
    """Of which segment an object holds what had been received by then; "" for any other object."""
    found = _OPEN.fullmatch(name)
    return found[1] if found else ""


def open_name(segment: str, used: int) -> str:
    """Of a segment of which `used` bytes were received by now."""
    return f"{segment}.open.{used:08X}"


@dataclass(slots=True)
class LogIndex:
    """What an archive holds of one server's log."""

    archive: LogArchive
    names: set[str]
    segment_bytes: int
    histories: dict[int, list[Ancestor]] = field(default_factory=dict)
    opened: dict[str, str] = field(default_factory=dict)  # segment that is not whole yet → its newest object
    bad: list[str] = field(default_factory=list)  # what of it cannot be read
    damaged: set[str] = field(default_factory=set)  # segments that are marked as such

    @classmethod
    def read(cls, archive: LogArchive, segment_bytes: int) -> LogIndex:
        """Lists, and reads the timelines' histories."""
        names = archive.names()
        index = cls(archive, set(names), segment_bytes)
        for name in names:
            timeline = history_timeline(name)
            if timeline is not None:
                try:
                    index.histories[timeline] = parse_history(archive.get(name).decode("utf-8", "replace"))
                except (DamageError, ValueError, IndexError) as error:
                    index.bad.append(f"{name}: {error}")
            elif (found := _OPEN.fullmatch(name)) and found[1] not in index.names:
                index.opened[found[1]] = max(name, index.opened.get(found[1], ""))
            elif name.endswith(DAMAGED):
                index.damaged.add(name.removesuffix(DAMAGED))
        return index

    def spans(self) -> list[Span]:
        return spans([*self.names, *self.opened], self.segment_bytes)

    def holes(self) -> list[Span]:
        return holes(self.spans())

    def facts(self, segment: str) -> dict[str, Any]:
        return self.archive.look(self.opened.get(segment, segment)).facts

    def content(self, segment: str) -> bytes | None:
        """None when the archive does not hold it."""
        if segment in self.names:
            return self.archive.get(segment)
        return self.archive.get(self.opened[segment]) if segment in self.opened else None

    def find(self, target: Target) -> int:
        """The LSN of the segment that holds a transaction's commit or a restore point, looked for from the newest on. Raises
        NoSuchError."""
        for name in sorted([*(one for one in self.names if is_segment_name(one)), *self.opened], reverse=True):
            if target.timeline is not None and int(name[:8], 16) != target.timeline:
                continue
            facts = self.facts(name)
            for point, lsn in facts.get("points", ()):
                if target.kind == "point" and point == target.name:
                    return parse_lsn(lsn)
            low, high = facts.get("xids") or (1, 0)
            if target.kind == "xid" and low <= target.xid <= high:
                reader = WalReader(parse_lsn(facts["start"]), self.segment_bytes)
                for event in reader.feed(self.content(name) or b""):
                    if event.kind == "commit" and event.xid == target.xid:
                        return event.lsn
        raise NoSuchError(f"the archived log holds no {target}", next_step="backupctl wal show JOB/SOURCE")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a recovery shall stop: exactly one of the values, by `kind`. `timeline` None: the newest that leads there."""

    kind: Literal["latest", "time", "lsn", "xid", "point"]
    time: datetime | None = None
    lsn: int = 0
    xid: int = 0
    name: str = ""
    timeline: int | None = None
    inclusive: bool = True  # of an LSN: with the record there

    def __str__(self) -> str:
        if self.kind == "time" and self.time is not None:
            return iso(self.time)
        value = {"lsn": format_lsn(self.lsn), "xid": str(self.xid), "point": repr(self.name)}.get(self.kind, "")
        before = "" if self.inclusive else "before "
        return f"{before}{self.kind} {value}".strip()


@dataclass(frozen=True, slots=True)
class Goal:
    """The record after which recovery stops. `last_commit`: of the newest transaction that is in it; None: none came after the
    base backup's own. `inclusive` False: it stops before that place."""

    lsn: int
    timeline: int
    last_commit: datetime | None
    segments: int = 0
    inclusive: bool = True


def base_for(candidates: list[Fingerprint], index: LogIndex, target: Target) -> Fingerprint:
    """The newest base backup, out of those given oldest first, from which the target can be reached. Raises NoSuchError."""
    place = target.lsn
    if target.kind in ("xid", "point"):
        place = index.find(target)
    for facts in reversed(candidates):
        if target.kind == "latest":
            return facts
        if target.kind == "time":
            if target.time is not None and parse_iso(facts["time"]) <= target.time:
                return facts
        elif parse_lsn(facts["end_lsn"]) <= place:
            return facts
    oldest = (
        f"the oldest is of {candidates[0]['time']} (LSN {candidates[0]['end_lsn']})" if candidates else "there is none"
    )
    raise NoSuchError(f"no base backup from before {target}: {oldest}", next_step="backupctl snapshots")


def roll_forward(
    index: LogIndex,
    facts: Fingerprint,
    target: Target,
    place: Callable[[str, bytes], None],
    own: Callable[[str], bytes],
) -> Goal:
    """Hand every segment that leads from a base backup (`facts`: its fingerprint) to the target over to `place`, and say where
    exactly the target is. `own`: a segment that came with the base backup. Raises NoSuchError when the archive does not reach
    so far, DamageError for a segment that is not what it must be."""
    end = parse_lsn(facts["log_end"])
    timeline = target.timeline or newest_descendant(facts["timeline"], end, index.histories)
    way = way_to(timeline, index.histories)
    if all(one.timeline != facts["timeline"] for one in way):
        raise NoSuchError(
            f"timeline {timeline} does not lead through timeline {facts['timeline']} of the base backup",
            next_step="backupctl wal show JOB/SOURCE",
        )
    for one in way:
        if one.timeline in index.histories:
            place(history_name(one.timeline), index.archive.get(history_name(one.timeline)))
    seeker = _Seeker(target, parse_lsn(facts["end_lsn"]))
    reader: WalReader | None = None
    count, only_own = 0, False
    for name, lsn in segments_along(way, facts["timeline"], end, index.segment_bytes):
        data = index.content(name)
        if data is None:
            if reader is not None:
                break
            if int(name[:8], 16) != facts["timeline"]:
                raise NoSuchError(
                    f"the archive lacks {name}, with which timeline {int(name[:8], 16)} begins",
                    next_step=f"stay on timeline {facts['timeline']}: --at lsn:…@{facts['timeline']}",
                )
            data, only_own = own(name), True
        elif only_own and reader is not None and reader.ended:
            break  # the archive begins behind what came with the base backup: a hole
        else:
            place(name, data)
        reader = reader or WalReader(lsn, index.segment_bytes)
        if reader.ended:
            raise DamageError(
                f"the log cannot be read at {format_lsn(reader.end)}, before segment {name}",
                name=name,
                next_step=before_damage(reader, facts),
            )
        count += 1
        seeker.timeline = int(name[:8], 16)
        if seeker.see(reader.feed(data), reader):
            break
        if reader.broken is not None and name in index.names:  # else nobody had written further
            what = f"the record at {format_lsn(reader.broken)}, in segment {name}, is not what its length and CRC say"
            raise DamageError(what, name=name, next_step=before_damage(reader, facts))
    assert reader is not None
    return seeker.goal(reader, count)


def before_damage(reader: WalReader, facts: Fingerprint) -> str:
    if reader.last is None or reader.last < parse_lsn(facts["end_lsn"]):
        return "restore the base backup alone: --at and its id"
    return f"restore to the last record before it: --at lsn:{format_lsn(reader.last)}"


class _Seeker:
    """Looks for a target while the log passes."""

    def __init__(self, target: Target, end: int) -> None:
        self._target, self._end = target, end
        self._found: WalEvent | None = None  # what the target names
        self._last: WalEvent | None = None  # the newest commit up to the target
        self._passed = False
        self.timeline = 0

    def see(self, events: list[WalEvent], reader: WalReader) -> bool:
        """Whether nothing further is needed."""
        target = self._target
        for event in events:
            if event.lsn < self._end or self._passed:
                continue
            if self._is_behind(event):
                self._passed = True
            else:
                if event.kind == "commit":
                    self._last = event
                if (target.kind, event.kind) == ("xid", "commit") and event.xid == target.xid:
                    self._found, self._passed = event, True
                if (target.kind, event.kind) == ("point", "restore_point") and event.name == target.name:
                    self._found, self._passed = event, True
        if target.kind == "lsn" and reader.last is not None and reader.last >= target.lsn:
            self._passed = True
        return self._passed

    def _is_behind(self, event: WalEvent) -> bool:
        target = self._target
        if target.kind == "lsn":
            return event.lsn > target.lsn or (event.lsn == target.lsn and not target.inclusive)
        if target.kind != "time" or event.kind != "commit" or event.time is None or target.time is None:
            return False
        return event.time > target.time

    def goal(self, reader: WalReader, segments: int) -> Goal:
        target = self._target
        time = self._last.time if self._last is not None else None
        if target.kind == "latest" and reader.last is not None and reader.last >= self._end:
            return Goal(reader.last, self.timeline, time, segments)
        if target.kind == "lsn" and self._passed:
            return Goal(target.lsn, self.timeline, time, segments, target.inclusive)
        if self._found is not None:
            return Goal(self._found.lsn, self.timeline, time, segments)
        if target.kind == "time" and (self._passed or (time and target.time and time >= target.time)):
            if self._last is not None:
                return Goal(self._last.lsn, self.timeline, time, segments)
            return Goal(self._end, self.timeline, None, segments, inclusive=False)
        if target.kind == "latest":
            return Goal(self._end, self.timeline, None, segments, inclusive=False)
        known = f"with a commit of {iso(time)}" if time else "with the base backup"
        raise NoSuchError(
            f"the archived log does not reach {target}: it ends at {format_lsn(reader.end)}, {known}",
            next_step="--at latest goes as far as the log does",
        )
