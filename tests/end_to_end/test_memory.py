"""Ten thousand small files and one big one: memory stays under 300 MB, whatever is done with them.

The big file has 512 MiB; with BACKUPCTL_SOAK=1 it has 4 GiB."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.site import PROGRAM, Site

pytestmark = pytest.mark.soak

LIMIT_BYTES = 300_000_000
BIG_FILE_MIB = 4096 if os.environ.get("BACKUPCTL_SOAK") else 512


def peak_bytes(site: Site, *arguments: str) -> int:
    """Run to exit code 0; the largest resident size of the process and of every process it waited for."""
    command = [*PROGRAM, "--config", str(site.root / "backupctl.yaml"), *arguments]
    with (site.root / "said.txt").open("wb") as output:
        process = subprocess.Popen(command, cwd=site.root, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (site.root / "said.txt").read_text()
    return usage.ru_maxrss * 1024


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
    assert {command: peak for command, peak in peaks.items() if peak >= LIMIT_BYTES} == {}
