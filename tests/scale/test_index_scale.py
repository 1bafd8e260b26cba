"""An index of a million blobs (twenty million with BACKUPCTL_SOAK=1): memory per blob, and opening from the cache."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.soak import rounds

BLOBS = rounds(1_000_000, 20_000_000)
SLACK_MIB = 16  # one index file in several shapes, the interpreter's own growth


def weigh(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.scale.index_weight", str(BLOBS), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    print(found)
    assert found["blobs"] == BLOBS and found["packs"] == BLOBS // 50_000 * 3125
    assert found["hit_microseconds"] < 40 and found["miss_microseconds"] < 40, "of CPU time, so not of the others' load"
    return found


@pytest.mark.soak
def test_memory_per_blob_without_a_cache() -> None:
    found = weigh()
    assert found["anonymous_mib"] * 2**20 <= 64 * BLOBS
    assert found["peak_mib"] * 2**20 <= 64 * BLOBS + SLACK_MIB * 2**20


@pytest.mark.soak
def test_opening_from_the_cache_costs_next_to_nothing(tmp_path: Path) -> None:
    made = weigh(str(tmp_path))
    assert made["files_read"] == BLOBS // 50_000
    assert made["anonymous_mib"] <= SLACK_MIB, "it lies in files, which the kernel may take back"
    opened = weigh(str(tmp_path))
    assert opened["files_read"] == 0 and len(opened["segments"]) <= 4
    assert opened["resident_mib"] <= 1 + 3 * BLOBS / 2**20, "verified by reading, not by mapping"
    assert opened["load_cpu_seconds"] < made["load_cpu_seconds"] / 5
    on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert on_disk <= 115 * BLOBS
