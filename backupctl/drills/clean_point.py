"""Which backup is the last one from before an attack, told from the backups alone.

Each snapshot is compared with the one before it. No single signal decides for certain, so each is named; the first snapshot
with a signal, and everything after it, is taken for poisoned: whoever cleans up and is struck again is no safer.

What a random block and a ransom note are, is said once, in `repository/looks.py` and `repository/changes.py`. How much of it is
a signal is another question here than at backup time (`governance/anomalies.py`): there an alarm must not cry wolf, and poison
that seeps in slowly may pass for some days; here it is known that there was an attack, every block is read, and the answer may
be too old but never poisoned.

Entropy is judged by blocks of 4 KiB and against the same file's past. Of a whole file it would miss encryption that skips
blocks (5.4 of 8 bits with one block of eight encrypted, measured), and a compressed file always looks random.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backupctl.repository import looks
from backupctl.repository.changes import is_ransom_note
from backupctl.repository.format.names import display_name
from backupctl.repository.manifest import ManifestEntry, ManifestReader
from backupctl.repository.reader import SnapshotReader
from backupctl.sources.protocol import differ

BLOCK_BYTES = looks.BLOCK_BYTES
SMALLEST_BLOCK = 256
SHORT_BLOCKS = ((512, 6.9), (1024, 7.35), (2048, 7.65), (BLOCK_BYTES, 7.8))
"""Bits per byte above which a shorter block looks random; even random ones have fewer: 7.17 at 256 bytes, 7.59 at 512, 7.81 at
1024. Text has up to 5, measured."""
RISE = 0.05  # of the share of random blocks, from one backup of a file to the next
RANDOM_BEFORE = 0.5  # a file with such a share before is compressed or encrypted by its owner
SUSPICIOUS_FILES = 2
DELETED_SHARE, DELETED_FILES = 0.3, 5
RENAMED_SHARE, RENAMED_FILES = 0.2, 5
ROWS_LOST = 0.2


@dataclass(slots=True)
class Held:
    """What one snapshot held. `files` by path; `tables` by database and table: rows and digest."""

    reader: SnapshotReader
    files: dict[bytes, ManifestEntry]
    tables: dict[str, tuple[int, str]]
    random_share: dict[bytes, float] = field(default_factory=dict)

    @classmethod
    def of(cls, reader: SnapshotReader, manifest: ManifestReader, record: Mapping[str, Any]) -> Held:
        """Only sources of files count as files: a database's own file changes with every row."""
        kinds = {name: facts["kind"] for name, facts in record["sources"].items()}
        files = {
            entry.path: entry
            for name, kind in kinds.items()
            if kind == "files"
            for entry in manifest.source(name)
            if entry.type == "file"
        }
        return cls(reader, files, dict(_tables(record)))

    def share(self, path: bytes) -> float:
        """Of the blocks of a file, how many look random."""
        if path not in self.random_share:
            self.random_share[path] = _random_share(self.reader, path)
        return self.random_share[path]


def signals(before: Held, after: Held, canaries: Mapping[bytes, str], canary_tables: Mapping[str, str]) -> list[str]:
    """What in `after` speaks of an attack. `canaries`: SHA-256 of files that nobody changes, by path; `canary_tables`: digests."""
    found = [
        f"canary {display_name(path)} is {'changed' if path in after.files else 'missing'}"
        for path, digest in sorted(canaries.items())
        if path not in after.files or after.files[path].sha256 != digest
    ]
    found += [
        f"canary table {name} is changed or missing"
        for name, digest in sorted(canary_tables.items())
        if differ(digest, after.tables.get(name, (0, ""))[1])
    ]
    deleted = before.files.keys() - after.files.keys()
    renamed = [path for path in after.files.keys() - before.files.keys() if path.rpartition(b".")[0] in deleted]
    if len(renamed) >= max(RENAMED_FILES, RENAMED_SHARE * len(before.files)):
        found.append(
            f"{len(renamed)} of {len(before.files)} files got a new suffix, such as {display_name(renamed[0])}"
        )
    if len(deleted) >= max(DELETED_FILES, DELETED_SHARE * len(before.files)):
        found.append(f"{len(deleted)} of {len(before.files)} files are gone")
    random_now = [path for path in _changed(before, after) if _turned_random(before, after, path)]
    if len(random_now) >= SUSPICIOUS_FILES:
        found.append(f"{len(random_now)} files turned random in part or whole, such as {display_name(random_now[0])}")
    notes = [path for path in after.files.keys() - before.files.keys() if is_ransom_note(path.rpartition(b"/")[2])]
    found += [f"a note that was not there before: {display_name(path)}" for path in sorted(notes)[:3]]
    for name, (rows, _) in sorted(before.tables.items()):
        if name not in after.tables:
            found.append(f"table {name} is gone")
        elif after.tables[name][0] < rows * (1 - ROWS_LOST):
            found.append(f"table {name} has {after.tables[name][0]} rows instead of {rows}")
    return found


def last_clean(
    every: Sequence[Held], canaries: Mapping[bytes, str], canary_tables: Mapping[str, str]
) -> tuple[int, list[str]]:
    """The number of the newest of `every` (oldest first, of which the first is trusted) before any signal, and the
    signals of the one after it; none when all are clean."""
    for number in range(1, len(every)):
        if found := signals(every[number - 1], every[number], canaries, canary_tables):
            return number - 1, found
    return len(every) - 1, []


def looks_random(block: bytes) -> bool:
    """As a run judges it, and what is shorter than a whole block by Shannon's entropy; False for less than 256 bytes."""
    total = len(block)
    if total >= BLOCK_BYTES or total < SMALLEST_BLOCK:
        return looks.looks_random(block)  # False of what is too short
    bits = -sum(count / total * math.log2(count / total) for count in Counter(block).values())
    return bits > next(limit for size, limit in SHORT_BLOCKS if total < size)


def _changed(before: Held, after: Held) -> Iterator[bytes]:
    for path in sorted(before.files.keys() & after.files.keys()):
        if before.files[path].sha256 != after.files[path].sha256:
            yield path


def _turned_random(before: Held, after: Held, path: bytes) -> bool:
    past = before.share(path)
    return past <= RANDOM_BEFORE and after.share(path) - past >= RISE


def _random_share(reader: SnapshotReader, path: bytes) -> float:
    blocks = random_blocks = 0
    with reader.open(path) as stream:
        rest = b""
        while data := stream.read(1 << 20):
            rest += data
            whole = len(rest) - len(rest) % BLOCK_BYTES
            for position in range(0, whole, BLOCK_BYTES):
                blocks += 1
                random_blocks += looks_random(rest[position : position + BLOCK_BYTES])
            rest = rest[whole:]
        if rest:
            blocks += 1
            random_blocks += looks_random(rest)
    return random_blocks / blocks if blocks else 0.0


def _tables(record: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, str]]]:
    for source, facts in record["sources"].items():
        databases = facts["fingerprint"].get("databases")
        for database, content in databases.items() if isinstance(databases, Mapping) else ():
            tables = content.get("tables", {}) if isinstance(content, Mapping) else {}
            for name, table in tables.items():
                yield f"{source}/{database}.{name}", (int(table["rows"]), str(table["digest"]))
