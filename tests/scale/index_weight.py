"""What an index of so many blobs costs, in a process of its own: `python -m tests.scale.index_weight BLOBS [CACHE]`.

The index files are synthetic: 50,000 blobs each, as restic and we write them, in packs of 16. One JSON line on stdout;
memory in MiB, times in seconds of this process's CPU.
"""

from __future__ import annotations

import json
import random
import sys
import time
from array import array
from pathlib import Path

from backupctl.repository.cache import Cache, CachePlace
from backupctl.repository.index_loading import load_segments
from backupctl.repository.memory_index import MemoryIndex
from backupctl.repository.segment import RECORD

FILE_BLOBS = 50_000
PACK_BLOBS = 16
ASKED = 20_000


def rows(file_id: str) -> tuple[list[bytes], bytes]:
    made = random.Random(file_id)
    packs = [made.randbytes(32) for _ in range(-(-FILE_BLOBS // PACK_BLOBS))]
    data = bytearray(made.randbytes(RECORD.size * FILE_BLOBS))
    words = memoryview(data).cast("I")
    words[8 :: RECORD.size // 4] = memoryview(array("I", [number // PACK_BLOBS << 1 for number in range(FILE_BLOBS)]))
    return packs, bytes(data)


def memory() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    return {name: int(facts[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon", "VmHWM")}


def main() -> None:
    count = int(sys.argv[1]) // FILE_BLOBS * FILE_BLOBS
    cache = Cache(CachePlace(Path(sys.argv[2])), "0" * 64, bytes(32)) if len(sys.argv) > 2 else None
    listed = [f"{number:064x}" for number in range(count // FILE_BLOBS)]
    read: list[str] = []

    def load(file_id: str) -> tuple[list[bytes], bytes]:
        read.append(file_id)
        return rows(file_id)

    load(listed[0])  # what making the rows costs is no part of it
    read.clear()
    before, start, wall = memory(), time.process_time(), time.monotonic()
    segments, _ = load_segments(listed, load, cache)
    index = MemoryIndex(segments)
    if cache is not None:
        cache.tidy(listed, segments, index.packs.__contains__)
    loaded_seconds, wall_seconds, after = time.process_time() - start, time.monotonic() - wall, memory()
    chosen = random.Random(1)
    known = [index.at(chosen.randrange(count)).blob.id for _ in range(ASKED)]
    unknown = [chosen.randbytes(32) for _ in range(ASKED)]
    start = time.process_time()
    assert all(("data", blob) in index for blob in known)
    hit_seconds = time.process_time() - start
    start = time.process_time()
    assert not any(("data", blob) in index for blob in unknown)
    miss_seconds = time.process_time() - start
    result = {
        "blobs": len(index),
        "packs": len(index.packs),
        "files_read": len(read),
        "segments": [segment.count for segment in segments],
        "load_cpu_seconds": loaded_seconds,
        "load_wall_seconds": wall_seconds,
        "anonymous_mib": after["RssAnon"] - before["RssAnon"],
        "resident_mib": after["VmRSS"] - before["VmRSS"],
        "peak_mib": after["VmHWM"] - before["VmRSS"],
        "hit_microseconds": hit_seconds / ASKED * 1e6,
        "miss_microseconds": miss_seconds / ASKED * 1e6,
    }
    print(json.dumps({name: round(value, 3) if isinstance(value, float) else value for name, value in result.items()}))


if __name__ == "__main__":
    main()
