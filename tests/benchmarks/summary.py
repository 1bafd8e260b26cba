"""Medians and ratios of the samples, as a table for people, as JSON, and as a drawing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from backupctl.evidence.charts import Bar, bars
from tests.benchmarks.scenarios import Sample

MIB = 1 << 20

# (input, operation) → (measure → at most this share of restic's)
_FIRST = {"wall": 0.5, "cpu": 0.6, "stored": 1.0, "peak": 1.2}
TARGETS: dict[tuple[str, str], dict[str, float]] = {
    **{(name, "first"): _FIRST for name in ("python-trees", "dump", "media", "million")},
    **{(name, "unchanged"): {"wall": 0.5, "peak": 1.2} for name in ("python-trees", "dump", "media", "million")},
    ("python-trees", "1 % changed"): {"wall": 0.5, "peak": 1.2},
    **{(name, "check"): {"wall": 0.8, "peak": 1.2} for name in ("python-trees", "dump", "media", "million")},
    **{(name, "restore"): {"wall": 0.6, "peak": 1.2} for name in ("python-trees", "dump", "media", "million")},
    ("database", "day after"): {"stored": 0.15},
}


@dataclass(frozen=True)
class Row:
    """Medians over the rounds; `peak_bytes` from the round that sampled memory, 0 when none did."""

    input: str
    operation: str
    program: str
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    stored_bytes: int
    runs: int

    def value(self, measure: str) -> float:
        return {
            "wall": self.wall_seconds,
            "cpu": self.cpu_seconds,
            "peak": float(self.peak_bytes),
            "stored": float(self.stored_bytes),
        }[measure]


def rows(samples: Sequence[Sample]) -> list[Row]:
    groups: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.input, sample.operation, sample.program), []).append(sample)
    found = []
    for (name, operation, program), group in groups.items():
        timed = [one.measurement for one in group if not one.memory] or [one.measurement for one in group]
        found.append(
            Row(
                name,
                operation,
                program,
                median(one.wall_seconds for one in timed),
                median(one.cpu_seconds for one in timed),
                max(one.measurement.peak_bytes for one in group),
                int(median(one.stored_bytes for one in group)),
                len(timed),
            )
        )
    return found


def ratio(mine: Row, peer: Row, measure: str) -> float | None:
    """Mine over the peer's; None where one of them has no number."""
    if peer.value(measure) <= 0 or mine.value(measure) < 0 or (measure == "peak" and not mine.peak_bytes):
        return None
    return mine.value(measure) / peer.value(measure)


def table(found: Sequence[Row], versions: dict[str, str]) -> str:
    """A Markdown table: each program's medians, and in brackets ours as a share of the peer's."""
    lines = [
        "| input | operation | program | wall s | CPU s | peak MiB | stored MiB | wall | CPU | peak | stored |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    ours = {(row.input, row.operation): row for row in found if row.program == "backupctl"}
    for row in found:
        mine = ours.get((row.input, row.operation))
        shares = []
        for measure in ("wall", "cpu", "peak", "stored"):
            share = ratio(mine, row, measure) if mine is not None and mine is not row else None
            limit = TARGETS.get((row.input, row.operation), {}).get(measure) if row.program == "restic" else None
            mark = "" if limit is None or share is None else (" ✓" if share <= limit else f" ✗ > {limit:g}")
            shares.append("" if share is None else f"{share:.2f}{mark}")
        lines.append(
            f"| {row.input} | {row.operation} | {versions.get(row.program, row.program)} | {row.wall_seconds:.2f} | "
            f"{row.cpu_seconds:.2f} | {_mib(row.peak_bytes)} | {_mib(row.stored_bytes)} | {' | '.join(shares)} |"
        )
    return "\n".join(lines) + "\n"


def _mib(size: int) -> str:
    return f"{size / MIB:.1f}" if size > 0 else "0" if size == 0 else ""


def as_json(found: Sequence[Row], versions: dict[str, str], machine: dict[str, Any]) -> str:
    return json.dumps(
        {"schema": 1, "machine": machine, "versions": versions, "rows": [row_fields(row) for row in found]}, indent=1
    )


def row_fields(row: Row) -> dict[str, Any]:
    return {
        "input": row.input,
        "operation": row.operation,
        "program": row.program,
        "wall_seconds": round(row.wall_seconds, 3),
        "cpu_seconds": round(row.cpu_seconds, 3),
        "peak_bytes": row.peak_bytes,
        "stored_bytes": row.stored_bytes,
        "runs": row.runs,
    }


def from_json(path: Path) -> tuple[list[Row], dict[str, str], dict[str, Any]]:
    fields = json.loads(path.read_text())
    return [Row(**row) for row in fields["rows"]], fields["versions"], fields["machine"]


def drawing(found: Sequence[Row], peer: str = "restic") -> str:
    """Our wall time and stored bytes as a share of the peer's, each against its target."""
    by_key = {(row.input, row.operation, row.program): row for row in found}
    chart = []
    for (name, operation), targets in TARGETS.items():
        mine, theirs = by_key.get((name, operation, "backupctl")), by_key.get((name, operation, peer))
        measure = "wall" if "wall" in targets else "stored"
        share = ratio(mine, theirs, measure) if mine is not None and theirs is not None else None
        if share is not None:
            limit = targets[measure]
            what = f"{name} {operation}"  # the longest just fits
            said = f"{share:.2f} × {'bytes' if measure == 'stored' else 'time'}"
            chart.append(Bar(what, share, said, limit, f"target {limit:g}"))
    return bars(f"backupctl as a share of {peer}", chart)
