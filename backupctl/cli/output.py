"""Where words go: results on stdout, talk and progress on stderr; with --json, JSON lines on stdout and nothing else.

Each JSON line carries `type` and `time` (UTC); the last one is `{"type": "exit", "code": n}`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from backupctl.clock import Clock, SystemClock, iso

_PROGRESS_EVERY_SECONDS = {"terminal": 0.2, "plain": 30.0, "json": 1.0}
_MARKS = {"error": "error: ", "warning": "warning: "}


class Output:
    """The `Reporter` of the command line. `mode`: text or json. `quiet` leaves results, errors and warnings."""

    def __init__(self, *, json_lines: bool = False, quiet: bool = False, clock: Clock | None = None) -> None:
        self.json_lines = json_lines
        self.quiet = quiet
        self.clock = clock or SystemClock()
        self.exit_code: int | None = None
        self._terminal = sys.stderr.isatty() and not json_lines and not quiet
        self._stage = ""
        self._stage_started = 0.0
        self._drawn = 0.0
        self._line_open = False

    # talk and facts

    def event(self, kind: str, message: str, /, **fields: Any) -> None:
        if self.json_lines:
            self._json(kind, {"message": message, **fields})
        elif not self.quiet or kind in _MARKS:
            self._clear()
            print(_MARKS.get(kind, "") + message, file=sys.stderr, flush=True)

    def result(self, kind: str, text: str, /, **fields: Any) -> None:
        """What the command was asked for: `text` on stdout, or one JSON object."""
        if self.json_lines:
            self._json(kind, fields)
        else:
            self._clear()
            print(text, flush=True)

    def table(self, kind: str, rows: Iterable[dict[str, Any]], columns: Sequence[str], *, empty: str) -> None:
        """Rows as aligned columns, or one JSON object each. `columns` names the fields shown to people."""
        rows = list(rows)
        if self.json_lines:
            for row in rows:
                self._json(kind, row)
            return
        self._clear()
        if not rows:
            print(empty, flush=True)
            return
        cells = [[column.replace("_", " ") for column in columns]]
        cells += [[for_people(row.get(column)) for column in columns] for row in rows]
        widths = [max(_width(line[number]) for line in cells) for number in range(len(columns))]
        for line in cells:
            padded = [cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)]
            print("  ".join(padded).rstrip(), flush=True)

    # progress

    def progress(self, stage: str, done: int, total: int | None, *, unit: str = "bytes", item: str = "") -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._clear()
            self._stage, self._stage_started, self._drawn = stage, now, now if not self._terminal else 0.0
        mode = "json" if self.json_lines else "terminal" if self._terminal else "plain"
        if self.quiet or now - self._drawn < _PROGRESS_EVERY_SECONDS[mode]:
            return
        self._drawn = now
        elapsed = now - self._stage_started
        rate = done / elapsed if elapsed > 0 else 0.0
        left = (total - done) / rate if total and rate > 0 and total >= done else None
        if self.json_lines:
            fields = {
                "stage": stage,
                "done": done,
                "total": total,
                "unit": unit,
                "per_second": round(rate),
                "eta_seconds": left,
            }
            self._json("progress", fields)
            return
        amount = size(done) if unit == "bytes" else f"{done:,} {unit}"
        parts = [stage, amount if not total else f"{amount} of {size(total) if unit == 'bytes' else f'{total:,}'}"]
        if total:
            parts.append(f"{min(100, done * 100 // total)} %")
        parts.append(f"{size(rate)}/s" if unit == "bytes" else f"{rate:,.0f} {unit}/s")
        if left is not None:
            parts.append(f"{duration(left)} left")
        text = "  ".join(parts)
        if self._terminal:
            room = _terminal_columns() - 1
            text = f"{text}  {item}" if item else text
            print("\r\x1b[K" + printable(text)[:room], end="", file=sys.stderr, flush=True)
            self._line_open = True
        else:
            print(text, file=sys.stderr, flush=True)

    # the end

    def exit(self, code: int) -> None:
        self._clear()
        if self.json_lines:
            self._json("exit", {"code": code})

    def _clear(self) -> None:
        if self._line_open:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._line_open = False

    def _json(self, kind: str, fields: dict[str, Any]) -> None:
        # a name that is not UTF-8 arrives with surrogates, which JSON text cannot hold: they become \xNN words
        line = json.dumps({**fields, "type": kind, "time": iso(self.clock.now())}, default=_plain, ensure_ascii=False)
        print(line.encode("utf-8", "backslashreplace").decode(), flush=True)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return text_of(value)
    return str(value)


def for_people(value: object) -> str:
    """One table cell."""
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(for_people(one) for one in value)
    return printable(str(value))


def text_of(name: bytes) -> str:
    """A file name for people: UTF-8 where it is, \\xNN where it is not, control characters escaped."""
    return printable(name.decode("utf-8", "backslashreplace"))


def printable(text: str) -> str:
    """No control character reaches a terminal: a file name cannot move the cursor or ring the bell."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def size(number: float) -> str:
    """Bytes for people, binary units: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(number) < 1024 or unit == "TiB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Seconds for people: 0.4 s, 42 s, 3 min 05 s, 2 h 10 min, 3 d 4 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters take two."""
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def _terminal_columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns
