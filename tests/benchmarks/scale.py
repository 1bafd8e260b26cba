"""Time per file and peak memory from ten thousand files to a million: `python -m tests.benchmarks.scale`."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks.inputs import built, many_files
from tests.benchmarks.measure import Measurement
from tests.benchmarks.programs import Backupctl

COUNTS = (10_000, 30_000, 100_000, 300_000, 1_000_000)


@dataclass(frozen=True)
class Point:
    """One count of files, one operation. `startup_…`: what the same takes with a single file."""

    files: int
    operation: str
    wall_seconds: float
    cpu_seconds: float
    startup_wall_seconds: float
    startup_cpu_seconds: float
    peak_bytes: int

    @property
    def wall_microseconds_per_file(self) -> float:
        return (self.wall_seconds - self.startup_wall_seconds) / self.files * 1e6

    @property
    def cpu_microseconds_per_file(self) -> float:
        """Of all processes together: what a shared machine distorts least."""
        return (self.cpu_seconds - self.startup_cpu_seconds) / self.files * 1e6


def measure(directory: Path, counts: Sequence[int]) -> list[Point]:
    points = []
    startup: dict[str, Measurement] = {}
    shutil.rmtree(directory / "restored", ignore_errors=True)
    # a single file twice: the first of all turns also fetches the program from the disk
    for number, count in enumerate((1, 1, *counts)):
        source = built(directory / f"files-{count}", many_files(count))
        program = Backupctl(directory / "work")
        program.prepare(source)
        program.memory = True  # sampled throughout: a few per cent of time, for every count alike
        target = (
            directory / "restored" / str(number)
        )  # kept to the end: ext4 is slow to use a deleted file's inode again
        operations = {
            "first": program.backup,
            "unchanged": program.backup,
            "check": program.check,
            "restore": partial(program.restore, target),
        }
        for operation, run in operations.items():
            measured = run()
            if count == 1:
                startup[operation] = measured
                continue
            least = startup[operation]
            point = Point(
                count,
                operation,
                measured.wall_seconds,
                measured.cpu_seconds,
                least.wall_seconds,
                least.cpu_seconds,
                measured.peak_bytes,
            )
            points.append(point)
            print(line(point), file=sys.stderr, flush=True)
    shutil.rmtree(directory / "restored")
    return points


def line(point: Point) -> str:
    return (
        f"{point.files:>9,} files, {point.operation}: {point.wall_seconds:.1f} s, "
        f"{point.cpu_microseconds_per_file:.0f} CPU µs a file, {point.peak_bytes >> 20} MiB"
    )


def table(points: Sequence[Point]) -> str:
    lines = [
        "| files | operation | wall s | CPU s | wall µs a file | CPU µs a file | peak MiB |",
        "|--:|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {point.files:,} | {point.operation} | {point.wall_seconds:.1f} | {point.cpu_seconds:.1f} | "
        f"{point.wall_microseconds_per_file:.0f} | {point.cpu_microseconds_per_file:.0f} | {point.peak_bytes >> 20} |"
        for point in points
    ]
    return "\n".join(lines) + "\n"


def drawing(points: Sequence[Point]) -> str:
    """Processor microseconds a file over the number of files (logarithmic): flat is what we want."""
    width, height, left, bottom = 720.0, 260.0, 60.0, 220.0
    top = max(point.cpu_microseconds_per_file for point in points) * 1.15
    low, high = math.log10(min(point.files for point in points)), math.log10(max(point.files for point in points))
    dashes = {"first": "", "unchanged": "6 4", "check": "2 3", "restore": "10 3 2 3"}
    parts = []

    def place(point: Point) -> tuple[float, float]:
        x = left + (math.log10(point.files) - low) / ((high - low) or 1) * (width - left - 130)
        return x, bottom - point.cpu_microseconds_per_file / top * (bottom - 20)

    labels: list[tuple[float, str, float]] = []
    for operation, dash in dashes.items():
        chosen = [place(point) for point in points if point.operation == operation]
        if not chosen:
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in chosen)
        parts.append(f'<polyline points="{path}" fill="none" stroke="#1f2933" stroke-dasharray="{dash}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#1f2933"/>' for x, y in chosen]
        x, y = chosen[-1]
        labels.append((y + 4, operation, x + 8))
    free = height
    for y, operation, x in sorted(labels, reverse=True):  # from below, none over another
        free = min(y, free - 13)
        parts.append(f'<text x="{x:.1f}" y="{free:.1f}" font-size="12">{operation}</text>')
    for count in sorted({point.files for point in points}):
        x = left + (math.log10(count) - low) / ((high - low) or 1) * (width - left - 130)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" font-size="11" text-anchor="middle">{count:,}</text>')
    for share in (0.0, 0.5, 1.0):
        value, y = top * share, bottom - share * (bottom - 20)
        parts.append(f'<path d="M{left} {y:.1f}H{width - 130}" stroke="#c3cbd3"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" font-size="11" text-anchor="end">{value:.0f}</text>')
    said = "; ".join(line(point).strip() for point in points)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'font-family="sans-serif"><title>Processor microseconds a file over the number of files</title><desc>{said}</desc>'
        + "".join(parts)
        + "</svg>\n"
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    parser.add_argument("--counts", default=",".join(map(str, COUNTS)))
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp/backupctl-bench/scale"))
    parser.add_argument("--output", type=Path, help="directory for scale.json, .md and .svg")
    options = parser.parse_args(arguments)
    counts = [int(text) for text in options.counts.split(",")]
    points = measure(options.directory, counts)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        kept = options.output / "scale.json"
        before = [Point(**fields) for fields in json.loads(kept.read_text())] if kept.exists() else []
        before = [point for point in before if point.files not in counts]  # measured now: these replace them
        points = sorted(before + points, key=lambda point: point.files)  # stable: operations keep their order
        kept.write_text(json.dumps([asdict(point) for point in points], indent=1) + "\n")
        (options.output / "scale.md").write_text("# From ten thousand files to a million\n\n" + table(points))
        (options.output / "scale.svg").write_text(drawing(points))
    print(table(points))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
