"""The program that makes mariadb-binlog write into a pipe. Its place is taken by `head`, which writes what it is told to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from backupctl.sources import binlog_program
from backupctl.sources.streams import program_text

BYTES = 1_000_000


def start(temporary: Path, script: str) -> subprocess.Popen[bytes]:
    """`script` gets the directory to write to as $0 and the name as $1."""
    argv = [sys.executable, "-c", program_text(binlog_program), "bin.000001", "sh", "-c", script, ""]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, env={"TMPDIR": str(temporary), "PATH": "/usr/bin:/bin"})


def test_all_of_it_comes_and_the_exit_status_with_it(tmp_path: Path) -> None:
    for status in (0, 7):
        process = start(tmp_path, f'head -c {BYTES} /dev/zero > "$0$1"; exit {status}')
        output, _ = process.communicate()
        assert (len(output), process.returncode) == (BYTES, status)
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_never_opens_its_end_is_not_waited_for(tmp_path: Path) -> None:
    process = start(tmp_path, "exit 3")
    assert process.communicate() == (b"", None)
    assert process.returncode == 3
    assert list(tmp_path.iterdir()) == []


def test_nothing_stays_behind_when_it_is_killed_in_the_middle(tmp_path: Path) -> None:
    """As when a log that grows was read as far as it was wanted."""
    process = start(tmp_path, f'head -c {BYTES} /dev/zero > "$0$1"')
    assert process.stdout is not None and process.stdout.read(1000)
    process.kill()
    process.communicate()
    assert list(tmp_path.iterdir()) == []
