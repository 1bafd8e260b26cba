"""The report as a reader sees it: sections of simple blocks, already in words. HTML and PDF draw the same document.

Text in blocks is data: a renderer escapes it, and never reads it as markup.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import Any, Literal

from backupctl.clock import parse_iso, to_zone

Tone = Literal["", "good", "bad", "warn", "mute"]
MARKS: dict[Tone, str] = {"": "", "good": "✔", "bad": "✘", "warn": "▲", "mute": "–"}


@dataclass(frozen=True)
class Cell:
    text: str
    tone: Tone = ""
    mono: bool = False


@dataclass(frozen=True)
class Column:
    text: str
    right: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Table:
    columns: list[Column]
    rows: list[list[Cell]]
    kind: str = "table"


@dataclass(frozen=True)
class Facts:
    rows: list[tuple[str, Cell]]
    kind: str = "facts"


@dataclass(frozen=True)
class Paragraph:
    text: str
    tone: Tone = ""
    kind: str = "paragraph"


@dataclass(frozen=True)
class Items:
    items: list[str]
    kind: str = "items"


@dataclass(frozen=True)
class Tile:
    label: str
    value: str
    notes: list[str]
    tone: Tone = ""


@dataclass(frozen=True)
class Tiles:
    tiles: list[Tile]
    kind: str = "tiles"


@dataclass(frozen=True)
class Figure:
    title: str
    svg: str
    width: float  # px at which the drawing has its natural size
    kind: str = "figure"


@dataclass(frozen=True)
class Card:
    title: str
    label: str
    tone: Tone
    blocks: list[Block]
    kind: str = "card"


@dataclass(frozen=True)
class Signatures:
    columns: list[str]
    roles: list[str]
    note: str
    kind: str = "signatures"


Block = Table | Facts | Paragraph | Items | Tiles | Figure | Card | Signatures


@dataclass(frozen=True)
class Section:
    title: str
    blocks: list[Block]


@dataclass(frozen=True)
class Document:
    language: str
    title: str
    cover: list[tuple[str, Cell]]
    conclusion: Cell
    conclusion_label: str
    hash: str
    hash_label: str
    page: str
    generated: str  # RFC 3339, for the PDF's own dates
    sections: list[Section] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]")


def shown(text: str) -> str:
    """Text of unknown origin, safe to show on one line: control characters and text-direction tricks become visible."""
    return _CONTROL.sub(_visible, text)


def _visible(match: re.Match[str]) -> str:
    return " " if match[0] in "\n\t" else f"<U+{ord(match[0]):04X}>"


def cell(value: object, tone: Tone = "", *, mono: bool = False) -> Cell:
    return Cell(shown(str(value)), tone, mono)


def duration(seconds: float | None) -> str:
    """`1 h 02 min`, `3 min 05 s`, `4.2 s`, `2 d 03 h`; an em dash for what was not measured."""
    if seconds is None:
        return "—"
    if seconds < 0:
        return "−" + duration(-seconds)
    if seconds < 60 and seconds != int(seconds):
        return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    while parts and not parts[0][0] and len(parts) > 1:
        parts.pop(0)
    parts = parts[:2]
    head = f"{parts[0][0]} {parts[0][1]}"
    return head if len(parts) == 1 or not parts[1][0] else f"{head} {parts[1][0]:02d} {parts[1][1]}"


def percent(share: float | None) -> str:
    """Cut to a tenth, so that 99.97 % never reads 100 %."""
    if share is None:
        return "—"
    cut = math.floor(share * 1000 + 1e-6) / 10
    return f"{cut:.0f} %" if cut == int(cut) else f"{cut:.1f} %"


def size(count: int | None) -> str:
    if count is None:
        return "—"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def times_of(value: float | None) -> str:
    """A ratio, rounded up so that a missed objective never reads 1.00."""
    return "—" if value is None else f"{math.ceil(value * 100 - 1e-6) / 100:.2f} ×"


def instant(text: str | None, zone: str) -> str:
    """An RFC 3339 instant of the report on the organisation's clock, to the minute."""
    return "—" if text is None else f"{to_zone(parse_iso(text), zone):%Y-%m-%d %H:%M}"


def day(text: str | None, zone: str) -> str:
    return "—" if text is None else f"{to_zone(parse_iso(text), zone):%Y-%m-%d}"


def local_days(first_day: str, count: int) -> list[date]:
    start = datetime.fromisoformat(first_day).date().toordinal()
    return [date.fromordinal(start + number) for number in range(count)]
