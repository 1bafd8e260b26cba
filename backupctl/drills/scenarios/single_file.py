"""Somebody lost one file: a few, drawn at random, come back each into a directory of its own.

Names that programs stumble over are drawn more often: spaces, other alphabets, control characters, empty files, links.
"""

from __future__ import annotations

import heapq
import random
import re
from collections.abc import Iterable
from dataclasses import replace

from backupctl.clock import parse_iso
from backupctl.drills import stopwatch as phases
from backupctl.drills.model import DrillRequest
from backupctl.drills.scenario import Rehearsal
from backupctl.drills.scenarios.protocol import Record, Scenario
from backupctl.drills.verdict import SourceOutcome
from backupctl.errors import CouldNotRunError
from backupctl.repository.format.names import display_name
from backupctl.repository.manifest import ManifestEntry
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.verify import verify_entries
from backupctl.sources.protocol import CheckResult

FILES = 5  # of each source
ODD_WEIGHT = 8
FILE_KINDS = ("files", "software")
PLAIN = re.compile(rb"[A-Za-z0-9._/-]+")


def run(stage: Rehearsal, reader: SnapshotReader, record: Record) -> None:
    manifest = stage.request.manifest
    names = sources_of_files(record)
    if not names or manifest is None:
        raise CouldNotRunError(
            "this snapshot holds no files", next_step="give the drill of this job the scenario `full`"
        )
    chance = stage.chance()
    with stage.stopwatch.phase("draw"):
        drawn = {name: draw(manifest.source(name), FILES, chance) for name in names}
    stage.stopwatch.strike()  # somebody asks for these files now
    for name in names:
        outcome = SourceOutcome(name, held=bool(drawn[name]), data_time=parse_iso(record["sources"][name]["data_time"]))
        stage.outcomes.append(outcome)
        for number, entry in enumerate(drawn[name]):
            _one(stage, outcome, reader, entry, number)
        if drawn[name] and not outcome.trouble:
            outcome.level = 3


def draw(entries: Iterable[ManifestEntry], number: int, chance: random.Random) -> list[ManifestEntry]:
    """`number` files and links at random, each equally likely but odd ones `ODD_WEIGHT` times; in one pass (Efraimidis
    and Spirakis, 2006)."""
    best: list[tuple[float, int, ManifestEntry]] = []
    for position, entry in enumerate(entries):
        if entry.type not in ("file", "symlink"):
            continue
        weight = ODD_WEIGHT if _is_odd(entry) else 1
        item = (chance.random() ** (1 / weight), position, entry)
        if len(best) < number:
            heapq.heappush(best, item)
        else:
            heapq.heappushpop(best, item)
    return [entry for _, _, entry in sorted(best, key=lambda item: item[1])]


def sources_of_files(record: Record) -> list[str]:
    return sorted(name for name, facts in record["sources"].items() if facts["kind"] in FILE_KINDS)


def room(request: DrillRequest, record: Record) -> int:
    """What the drawn files need is not known before they are drawn: the mean size of a file, and twice that."""
    total = 1 << 20
    if request.manifest is None:
        return total
    for name in sources_of_files(record):
        held = request.manifest.totals(name)
        total += 2 * FILES * held.bytes // max(held.entries, 1)
    return total


def _is_odd(entry: ManifestEntry) -> bool:
    return entry.type == "symlink" or not entry.size or bool(entry.link_group) or not PLAIN.fullmatch(entry.path)


def _one(stage: Rehearsal, outcome: SourceOutcome, reader: SnapshotReader, entry: ManifestEntry, number: int) -> None:
    target = stage.sandbox.files_of(outcome.name) + b"/%d" % number
    stats = stage.restore(outcome, reader, entry.path, target)
    if stats is None or stats.problems:
        return
    with stage.step(phases.COMPARE, outcome, native=True):
        name = entry.path.rpartition(b"/")[2]
        report = verify_entries(stage.request.host, target, [replace(entry, path=name)])
        expected = f"{entry.type}, {entry.size} bytes, as saved"
        found = "; ".join(
            f"{one.path}: {one.aspect} {one.actual} instead of {one.expected}" for one in report.differences
        )
        outcome.checks.append(
            CheckResult(f"{outcome.name}: {display_name(entry.path)}", expected, found or expected, not found, 4)
        )
        outcome.trouble += [f"{path} could not be compared: {why}" for path, why in report.unchecked]


SCENARIO = Scenario(
    name="single-file",
    proves="one file that somebody lost comes back alone, exactly as it was, without restoring everything",
    steps=(
        f"draw up to {FILES} files and links of every file source at random, odd names more often",
        "restore each into an empty directory of its own",
        "compare its content, mode, owner, times, attributes and link target with the manifest",
    ),
    criteria=(
        "every drawn file comes back without an error",
        "each equals what the manifest says of it, and nothing else was written beside it",
    ),
    needs=("a job with a source of files",),
    run=run,
    room=room,
)
