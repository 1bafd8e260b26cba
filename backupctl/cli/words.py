"""Numbers, times and names as people read them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo


def local(instant: datetime, zone: str | None = None) -> str:
    """Wall clock of `zone` (default: this machine's) with its offset, so that it means one instant wherever it is
    read and can be given to `--at` as it stands: 2026-11-20 03:00:00 +08:00, or … UTC."""
    try:
        instant = instant.astimezone(ZoneInfo(zone) if zone else None)
    except OverflowError:  # the ends of the calendar
        instant = instant.astimezone(UTC)
    text = instant.isoformat(sep=" ", timespec="seconds")
    offset = text[19:]
    return f"{text[:19]} {'UTC' if offset == '+00:00' else offset}"


def moment(ns: int) -> datetime:
    """A time of the repository in whole seconds; what no calendar here can say becomes its nearest end."""
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=ns // 1_000_000_000)
    except OverflowError:
        return datetime.max.replace(microsecond=0, tzinfo=UTC) if ns > 0 else datetime.min.replace(tzinfo=UTC)


def size(number: float) -> str:
    """Bytes for people, binary units: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(number) < 1024 or unit == "TiB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Seconds for people: 0.4 s, 42 s, 3 min 5 s, 2 h 10 min, 3 d 4 h. A second part of zero is left out."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def count(number: int, noun: str) -> str:
    """1 job, 2 jobs, 3 repositories."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def cell(value: object, zone: str | None = None) -> str:
    """One table cell."""
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, datetime):
        return local(value, zone)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(cell(one, zone) for one in value)
    return printable(str(value))


def short_hashes(text: str) -> str:
    """Every run of 20 or more hexadecimal digits cut to 12: enough to tell two apart by eye."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{8,}\b", r"\1…", text)


def text_of(name: bytes) -> str:
    """A file name for people: UTF-8 where it is, \\xNN where it is not, control characters escaped."""
    return printable(name.decode("utf-8", "backslashreplace"))


def path_fields(key: str, path: bytes) -> dict[str, str]:
    """A path for programs. Not UTF-8: readable under `key` with \\xNN, and exact under `key`_base64."""
    try:
        return {key: path.decode("utf-8")}
    except UnicodeDecodeError:
        return {
            key: path.decode("utf-8", "backslashreplace"),
            f"{key}_base64": base64.b64encode(path).decode("ascii"),
        }


def printable(text: str) -> str:
    """No control character reaches a terminal: a file name cannot move the cursor or ring the bell. A byte that was
    not UTF-8 (a surrogate by now) becomes \\xNN."""
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def printable_lines(text: str) -> str:
    """The same for text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def _escaped(one: str) -> str:
    if "\udc80" <= one <= "\udcff":
        return f"\\x{ord(one) - 0xDC00:02x}"
    return one.encode("unicode_escape").decode()


def columns_of(text: str) -> int:
    """Columns on a terminal: East Asian wide characters take two, combining marks none."""
    return sum(width for _, width in _widths(text))


def clip(text: str, columns: int) -> str:
    """As much of the beginning as fits."""
    used, kept = 0, []
    for one, width in _widths(text):
        used += width
        if used > columns:
            break
        kept.append(one)
    return "".join(kept)


def _widths(text: str) -> Iterator[tuple[str, int]]:
    import unicodedata

    for one in text:
        wide = unicodedata.east_asian_width(one) in "WF"
        yield one, 2 if wide else 0 if unicodedata.category(one) in ("Mn", "Me") else 1
