"""Where words go: results on stdout, talk and progress on stderr; with --json, JSON lines on stdout and nothing else.

Each JSON line carries `type` and `time` (UTC); the last one is `{"type": "exit", "code": n}`.

Progress is one line drawn over itself. `rich` would cost 70 ms of start-up and a refresh thread, and add nothing to what
a person waits for: what, how much, how fast, how long.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from backupctl.cli.words import cell, clip, columns_of, duration, local, printable, printable_lines, size, text_of
from backupctl.clock import Clock, SystemClock, iso

_PROGRESS_EVERY_SECONDS = {"terminal": 0.2, "plain": 30.0, "json": 1.0}
_LINE_ENDS = "\x7f\x85\u2028\u2029"
_MARKS = {"error": "error: ", "warning": "warning: "}
_PROBLEMS = {*_MARKS, "problem", "check"}  # what --quiet leaves of the talk
_RED, _GREEN, _YELLOW = "\x1b[31m", "\x1b[32m", "\x1b[33m"
_COLOURS = dict.fromkeys(("ok", "pass", "complete"), _GREEN)
_COLOURS |= dict.fromkeys(("fail", "failed", "stale", "unreachable", "error", "no"), _RED)
_COLOURS |= dict.fromkeys(("incomplete", "inconclusive", "cancelled", "warning", "never", "warnings"), _YELLOW)
_JUDGING = {"state", "verdict", "status", "last_run", "drilled", "checked", "severity", "ok", "good"}


class Output:
    """The `Reporter` of the command line. `quiet` leaves results, problems and errors. `zone` is the time zone in which
    people read times (None: this machine's)."""

    def __init__(
        self, *, json_lines: bool = False, quiet: bool = False, verbose: bool = False, clock: Clock | None = None
    ) -> None:
        self.json_lines = json_lines
        self.quiet = quiet
        self.verbose = verbose
        self.clock = clock or SystemClock()
        self.zone: str | None = None
        self.talks = True  # False: what is said beside results goes into the log alone
        self.record: Callable[[str, str, dict[str, Any]], None] | None = None  # the log, where one is configured
        self.inner = False  # a child of another command, which says how all of it ended
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not json_lines and not quiet
        colour = os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
        self._colour_out = colour and sys.stdout.isatty()
        self._colour_err = colour and sys.stderr.isatty()
        self._stage = ""
        self._stage_started = 0.0
        self._drawn = 0.0
        self._line_open = False

    # talk and facts

    def event(self, kind: str, message: str, /, **fields: Any) -> None:
        if self.record is not None:
            self.record(kind, message, fields)
        if self.json_lines:
            self._json(kind, {"message": message, **fields})
        elif self.talks and (not self.quiet or kind in _PROBLEMS):
            self._clear()
            mark = _MARKS.get(kind, "")
            if mark and self._colour_err:
                mark = f"{_RED if kind == 'error' else _YELLOW}{mark}\x1b[0m"
            print(mark + printable_lines(message), file=sys.stderr, flush=True)

    def result(self, kind: str, text: str, /, **fields: Any) -> None:
        """What the command was asked for: `text` on stdout, or one JSON object."""
        if self.record is not None and kind == "finished":
            self.record(kind, text, fields)
        if self.json_lines:
            self._json(kind, fields)
        else:
            self._clear()
            print(printable_lines(text), flush=True)

    def table(
        self,
        kind: str,
        rows: Iterable[dict[str, Any]],
        columns: Sequence[str],
        *,
        empty: str,
        right: Collection[str] = (),
    ) -> None:
        """Rows as aligned columns, or one JSON object each. `columns` names the fields shown to people, `right` those of
        them that line up at their end, as numbers do."""
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
        cells += [[cell(row.get(column), self.zone) for column in columns] for row in rows]
        widths = [max(columns_of(line[number]) for line in cells) for number in range(len(columns))]
        for line in cells:
            padded = []
            for column, text, width in zip(columns, line, widths, strict=True):
                gap = " " * (width - columns_of(text))
                text = self._painted(column, text)
                padded.append(gap + text if column in right else text + gap)
            print("  ".join(padded).rstrip(), flush=True)

    def local(self, instant: datetime) -> str:
        return local(instant, self.zone)

    def _painted(self, column: str, text: str) -> str:
        colour = _COLOURS.get(text.split(" ", 1)[0]) if self._colour_out and column in _JUDGING else None
        return f"{colour}{text}\x1b[0m" if colour else text

    # progress

    def progress(self, stage: str, done: int, total: int | None, *, unit: str = "bytes", item: str = "") -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._clear()
            self._stage, self._stage_started, self._drawn = stage, now, now if not self._terminal else 0.0
        mode = "json" if self.json_lines else "terminal" if self._terminal else "plain"
        if self.quiet or not self.talks or now - self._drawn < _PROGRESS_EVERY_SECONDS[mode]:
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
            print("\r\x1b[K" + clip(printable(text), room), end="", file=sys.stderr, flush=True)
            self._line_open = True
        else:
            print(text, file=sys.stderr, flush=True)

    # the end

    def exit(self, code: int) -> None:
        self._clear()
        if self.json_lines and not self.inner:
            self._json("exit", {"code": code})

    def _clear(self) -> None:
        if self._line_open:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._line_open = False

    def _json(self, kind: str, fields: dict[str, Any]) -> None:
        # a name that is not UTF-8 arrives with surrogates, which JSON text cannot hold: they become \xNN words
        line = json.dumps({**fields, "type": kind, "time": iso(self.clock.now())}, default=_plain, ensure_ascii=False)
        for sign in _LINE_ENDS:  # many a reader ends a line there; as JSON escapes they mean the same
            line = line.replace(sign, f"\\u{ord(sign):04x}")
        print(line.encode("utf-8", "backslashreplace").decode(), flush=True)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return text_of(value)
    return str(value)


def _terminal_columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns
