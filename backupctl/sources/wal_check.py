"""Reading an archived write-ahead log as the server that replays it will: header of every page, record after record, each with its
CRC, those too that run on from one segment into the next."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence

from backupctl.sources.wal_format import (
    WalFormatError,
    WalReader,
    format_lsn,
    read_header,
    segment_name,
)
from backupctl.sources.wal_index import Ancestor


def of_another(server: str) -> str:
    return f"it was written by another server, {server}"


def broken_record(lsn: int, segment: int = 0) -> str:
    """`segment`: where that begins in which the record ends."""
    where = "" if lsn >= segment else ", which begins before this segment,"
    return f"the record at {format_lsn(lsn)}{where} is not what its length and CRC say, as it was archived"


class LogWalk:
    """Is shown whole segments, sorted by name; those that follow one another are read on from record to record. `names`: of all
    that are held, to tell the end of the log from damage; `server`: whose log it is."""

    def __init__(self, server: str, names: Collection[str], histories: Mapping[int, Sequence[Ancestor]]) -> None:
        self._server, self._names, self._histories = server, names, histories
        self._reader: WalReader | None = None
        self._next = ""

    def see(self, name: str, content: bytes) -> str:
        """What is wrong with it; "" when nothing is."""
        try:
            header = read_header(content)
        except WalFormatError as error:
            self._reader = None
            return str(error)
        if header.system != self._server:
            return of_another(header.system)
        timeline = int(name[:8], 16)  # its first pages may be an older one's: a promotion copies what came before it
        if header.timeline > timeline or segment_name(timeline, header.lsn, header.size) != name:
            return f"it holds segment {segment_name(header.timeline, header.lsn, header.size)}"
        if len(content) != header.size:
            return f"it has {len(content)} bytes, a segment of this server has {header.size}"
        reader = self._reader if self._next == name else None
        reader = reader or WalReader(header.lsn, header.size)
        self._reader, self._next = reader, segment_name(timeline, header.lsn + header.size, header.size)
        try:
            reader.feed(content)
        except (struct.error, IndexError, OverflowError) as error:
            self._reader = None
            return f"the log cannot be read at {format_lsn(reader.end)}: {error}"
        if not reader.ended:
            return ""
        self._reader = None
        ends = self._left(timeline, header.lsn, header.size)
        if reader.broken is not None:  # known damage, unless nothing was to be there any more
            return "" if any(end <= reader.broken for end in ends) else broken_record(reader.broken, header.lsn)
        if self._next not in self._names or ends:
            return ""
        return f"the log cannot be read on from {format_lsn(reader.end)}, as it was archived"

    def _left(self, timeline: int, lsn: int, size: int) -> list[int]:
        """Where the timeline was left in this segment: nothing was written behind such a place."""
        return [
            one.end
            for ancestors in self._histories.values()
            for one in ancestors
            if one.timeline == timeline and lsn <= one.end <= lsn + size
        ]
