"""`make demo`, as the README promises it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def demo() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="bctl-demo-", dir="/tmp"))
    directory.chmod(0o711)  # the drill's servers run as users of their own
    yield directory / "demo"
    shutil.rmtree(directory)


@pytest.mark.servers
def test_the_demo_goes_to_its_end(demo: Path) -> None:
    """It fails itself when a command ends otherwise than it should. Here it has PostgreSQL and MariaDB beside it."""
    done = subprocess.run([sys.executable, "tools/demo.py", str(demo)], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    status = done.stdout.rpartition("$ backupctl status")[2]
    assert "pass (L5)" in status
    for name in ("postgresql", "mariadb"):
        assert name in (demo / "jobs" / "demo.yaml").read_text()
    reports = {path.suffix for path in (demo / "reports").iterdir()}
    assert reports == {".json", ".html", ".pdf"}
