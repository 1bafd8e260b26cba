"""Ten thousand small files and one big one: memory stays under 250 MB, whatever is done with them, and under 160 where they are
backed up, which does not hold a pack.

The big file has 384 MiB, more than may be held; with BACKUPCTL_SOAK=1 it has 4 GiB."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.site import PROGRAM, Site

pytestmark = pytest.mark.soak

LIMIT_BYTES = 250_000_000
BACKUP_LIMIT_BYTES = 160_000_000
BIG_FILE_MIB = 4096 if os.environ.get("BACKUPCTL_SOAK") else 384


# A small process in between: a child forked from this test run would begin with this test run's size as its peak.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def peak_bytes(site: Site, *arguments: str) -> int:
    """Run to exit code 0; the largest resident size of the process and of every process it waited for."""
    command = [*PROGRAM, "--config", str(site.root / "backupctl.yaml"), *arguments]
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, *command],
        cwd=site.root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    code, peak = map(int, measured.stdout.split())
    assert code == 0, measured.stderr
    return peak


def test_memory_stays_bounded(tmp_path: Path) -> None:
    site = Site.create(tmp_path)
    www = tmp_path / "input" / "www"
    for number in range(10_000):
        directory = www / f"{number % 100:02}"
        directory.mkdir(exist_ok=True)
        (directory / f"small-{number}.txt").write_text(f"file number {number}\n" * 20)
    digest = hashlib.sha256()
    generator = random.Random(1)
    with (www / "big.bin").open("wb") as big:
        for _ in range(BIG_FILE_MIB):
            block = generator.randbytes(1 << 20)
            digest.update(block)
            big.write(block)
    site.prepare()
    peaks = {
        " ".join(arguments): peak_bytes(site, *arguments)
        for arguments in (
            ("run",),
            ("run", "site"),
            ("check", "--read-data"),
            ("drill", "run"),
            ("restore", "--into", "back"),
        )
    }
    print({command: f"{peak / 1e6:.0f} MB" for command, peak in peaks.items()})
    restored = tmp_path / "back" / "www" / www.relative_to("/") / "big.bin"
    with restored.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest.hexdigest()
    limits = {command: BACKUP_LIMIT_BYTES if command.startswith("run") else LIMIT_BYTES for command in peaks}
    assert {command: peak for command, peak in peaks.items() if peak >= limits[command]} == {}
