"""What reaches a person's terminal, a pipe and a program: progress, tables, JSON lines, hostile names."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from backupctl.cli import words
from backupctl.cli.output import Output
from backupctl.clock import FakeClock

NOW = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
DRAW = """
from backupctl.cli.output import Output
import backupctl.cli.output as module
ticks = iter([0.0, 1.0, 2.0, 2.0, 2.0, 2.0])
module.time.monotonic = lambda: next(ticks)
output = Output()
output.progress("restore", 0, 4 * 1024 * 1024, item="a")
output.progress("restore", 1024 * 1024, 4 * 1024 * 1024, item=NAME)
output.event("note", "done")
"""


def drawn(name: str, **environment: str) -> str:
    """What a terminal of 80 columns receives when progress is reported on an item of that name."""
    near, far = pty.openpty()
    program = [sys.executable, "-P", "-c", DRAW.replace("NAME", repr(name))]
    variables = os.environ | {"COLUMNS": "80", "TERM": "xterm"} | environment
    process = subprocess.Popen(program, stdin=far, stdout=far, stderr=far, env=variables)
    os.close(far)
    received = b""
    while select.select([near], [], [], 60)[0]:
        try:
            part = os.read(near, 65536)
        except OSError:  # Linux says EIO when the last writer has gone
            break
        if not part:
            break
        received += part
    os.close(near)
    assert process.wait(timeout=60) == 0, received
    return received.decode()


def test_progress_on_a_terminal_has_amount_rate_and_time_left() -> None:
    shown = drawn("index.html")
    assert "restore  1.0 MiB of 4.0 MiB  25 %  1.0 MiB/s  3.0 s left  index.html" in shown
    assert shown.endswith("\r\x1b[Kdone\r\n"), "the line is taken away before anything else is said"


def test_a_name_cannot_move_the_cursor_and_a_wide_one_cannot_wrap_the_line() -> None:
    assert "\x1b[31m" not in drawn("\x1b[31mred")
    last = drawn("網" * 80).split("\x1b[K")[2]
    assert words.columns_of(last.rstrip("\r")) <= 79


def test_a_dumb_terminal_gets_plain_lines() -> None:
    assert "\x1b" not in drawn("index.html", TERM="dumb")


def test_json_lines_hold_utc_times_and_end_with_exit(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(json_lines=True, clock=FakeClock(NOW))
    output.event("run", "started", at=NOW)
    output.table("row", [{"name": "bad\udcff\x1b"}], ("name",), empty="")
    output.exit(3)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {
        "message": "started",
        "at": "2026-11-20T03:00:00Z",
        "type": "run",
        "time": "2026-11-20T03:00:00Z",
    }
    assert lines[1]["type"] == "row"
    assert (lines[-1]["type"], lines[-1]["code"]) == ("exit", 3)


def test_a_child_leaves_the_last_word_to_the_command_that_started_it(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(json_lines=True)
    output.inner = True
    output.exit(0)
    assert capsys.readouterr().out == ""


def test_tables_align_wide_characters_and_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.zone = "Asia/Taipei"
    rows: list[dict[str, Any]] = [
        {"name": "網站", "size": "1.0 KiB", "at": NOW},
        {"name": "site", "size": "10.0 KiB", "at": None},
    ]
    output.table("row", rows, ("name", "size", "at"), empty="", right=("size",))
    assert capsys.readouterr().out.splitlines() == [
        "name      size  at",
        "網站   1.0 KiB  2026-11-20 11:00:00 +08:00",
        "site  10.0 KiB  -",
    ]


def test_messages_and_results_carry_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.event("error", "cannot read /srv/\x1b[2Jx\udcff\n  next: look")
    output.result("found", "a\tb\rc")
    said = capsys.readouterr()
    assert said.err == "error: cannot read /srv/\\x1b[2Jx\\xff\n  next: look\n"
    assert said.out == "a\\tb\\rc\n"


def test_quiet_leaves_results_and_problems(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    for kind in ("note", "source", "warning", "error", "problem"):
        output.event(kind, kind)
    output.progress("restore", 1, 2)
    output.result("done", "result")
    said = capsys.readouterr()
    assert said.err.splitlines() == ["warning: warning", "error: error", "problem"]
    assert said.out == "result\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (59.7, "1 min"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (86400, "1 d"), (273600, "3 d 4 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_sizes_counts_and_hashes() -> None:
    assert [words.size(number) for number in (0, 1023, 1536, 5 * 1024**4)] == ["0 B", "1023 B", "1.5 KiB", "5.0 TiB"]
    assert [words.count(1, "repository"), words.count(2, "repository"), words.count(1000, "file")] == [
        "1 repository",
        "2 repositories",
        "1,000 files",
    ]
    assert words.short_hashes(f"data/{'ab' * 32}: bad; id 5c8ba92d") == "data/abababababab…: bad; id 5c8ba92d"


def test_a_path_that_is_not_utf8_is_readable_and_exact() -> None:
    assert words.path_fields("path", "/網".encode()) == {"path": "/網"}
    assert words.path_fields("path", b"/a\xff") == {"path": "/a\\xff", "path_base64": "L2H/"}
