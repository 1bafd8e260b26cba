"""Benchmarks side by side: `python -m tests.benchmarks`, or `make bench`.

Builds the inputs, lets every program take its turn in each of several rounds, prints medians and ratios, and writes them as
JSON, Markdown and SVG. Nothing here is a test: the machine is shared and noisy, so ratios within a round are what counts.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks import programs, summary
from tests.benchmarks.inputs import SIZES
from tests.benchmarks.scenarios import OPERATIONS, SCENARIOS, Sample, clean


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--inputs", default="trees,dump,media,database", help=f"of {','.join(SCENARIOS)}")
    parser.add_argument("--operations", default=",".join(OPERATIONS), help="the first backup is always made")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--directory", type=Path, default=Path("/var/tmp/backupctl-bench"), help="inputs and repositories"
    )
    parser.add_argument("--output", type=Path, help="directory for benchmarks.json, .md and .svg")
    parser.add_argument("--programs", default="backupctl,restic,borg")
    parser.add_argument("--no-memory", action="store_true", help="leave out the extra round that samples memory")
    options = parser.parse_args(arguments)

    operations = options.operations.split(",")
    if unknown := [name for name in operations if name not in OPERATIONS]:
        parser.error(f"no such operation: {', '.join(unknown)}; there are {', '.join(OPERATIONS)}")
    work = options.directory / "work"
    work.mkdir(parents=True, exist_ok=True)
    chosen = [one for one in programs.available(work) if one.name in options.programs.split(",")]
    missing = set(options.programs.split(",")) - {one.name for one in chosen}
    if missing:
        print(f"not on this machine, left out: {', '.join(sorted(missing))}", file=sys.stderr)
    samples: list[Sample] = []
    for number in range(options.rounds + (not options.no_memory)):
        memory = number == options.rounds
        for program in chosen:
            program.memory = memory
        turn = chosen[number % len(chosen) :] + chosen[: number % len(chosen)]
        for name in options.inputs.split(","):
            where, size = options.directory / options.size, SIZES[options.size]
            for sample in SCENARIOS[name](where, size, turn, number, operations):
                measured = sample.measurement
                print(
                    f"{'memory' if memory else f'round {number + 1}'}: {sample.input}, {sample.operation}, "
                    f"{sample.program}: {measured.wall_seconds:.2f} s, {measured.cpu_seconds:.2f} CPU s",
                    file=sys.stderr,
                    flush=True,
                )
                samples.append(sample)
    clean(options.directory / options.size)
    found = sorted(summary.rows(samples), key=lambda row: [one.name for one in chosen].index(row.program))
    found.sort(key=lambda row: _order(row, samples))
    versions = {one.name: one.version() for one in chosen}
    if options.output:
        write(options.output, found, versions, machine() | {"size": options.size})
    print(summary.table(found, versions))
    return 0


def _order(row: summary.Row, samples: list[Sample]) -> int:
    return next(
        number
        for number, sample in enumerate(samples)
        if (sample.input, sample.operation) == (row.input, row.operation)
    )


def write(directory: Path, found: list[summary.Row], versions: dict[str, str], machine: dict[str, Any]) -> None:
    """The three files; rows of inputs that were not run this time stay as they were, unless they were of another size."""
    directory.mkdir(parents=True, exist_ok=True)
    kept = directory / "benchmarks.json"
    if kept.exists():
        before, old_versions, old_machine = summary.from_json(kept)
        run = {row.input for row in found}
        if old_machine.get("size") == machine["size"]:
            found = [row for row in before if row.input not in run] + found
            versions = {**old_versions, **versions}
    kept.write_text(summary.as_json(found, versions, machine) + "\n")
    about = f"Inputs of size `{machine['size']}`; {machine['processors']} processors ({machine['model']}), "
    about += f"Python {machine['python']}, {machine['date']}.\n\n"
    (directory / "benchmarks.md").write_text("# Side by side\n\n" + about + summary.table(found, versions))
    (directory / "benchmarks.svg").write_text(summary.drawing(found) + "\n")


def machine() -> dict[str, Any]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    return {
        "processors": len(os.sched_getaffinity(0)),
        "model": model,
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
