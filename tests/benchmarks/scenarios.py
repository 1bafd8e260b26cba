"""What is done with each input: the programs take turns, so that a slow minute of the machine meets all of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import inputs
from tests.benchmarks.inputs import Size, built
from tests.benchmarks.measure import Measurement, stored_bytes, warm
from tests.benchmarks.programs import Program


@dataclass(frozen=True)
class Sample:
    """One run of one program. `stored_bytes`: what it added to its repository, -1 where that means nothing."""

    input: str
    operation: str
    program: str
    measurement: Measurement
    stored_bytes: int = -1
    memory: bool = False  # sampled for memory: its times do not count


_DISCARDED = "discarded"
_FEW_FILES = 1000
OPERATIONS = ("first", "unchanged", "changed", "check", "restore")
"""Names to choose by; `changed` is 1 % of the files, or the day after. The first backup is made whatever is chosen."""

Scenario = Callable[[Path, Size, Sequence[Program], int, Collection[str]], Iterator[Sample]]
"""(directory of the inputs, size, programs, number of the round, operations) → samples."""


def trees(
    where: Path, size: Size, programs: Sequence[Program], number: int, operations: Collection[str]
) -> Iterator[Sample]:
    """First backup, the next day with nothing changed, with one file in a hundred changed; check; restore."""
    original = built(where / "python-trees", inputs.python_trees(size.tree_files))
    source = where / "work" / "trees"
    discard(where, source)
    shutil.copytree(original, source, symlinks=True)
    yield from _first(programs, "python-trees", source)
    if "unchanged" in operations:
        yield from _backups(programs, "python-trees", "unchanged")
    if "changed" in operations:
        inputs.change_some(source, 0.01, number)
        yield from _backups(programs, "python-trees", "1 % changed")
    if "check" in operations:
        yield from _checks(programs, "python-trees")
    if "restore" in operations:
        yield from _restores(programs, "python-trees", where, source)
    discard(where, source)


def whole(name: str, build: Callable[[Size], Callable[[Path], None]]) -> Scenario:
    """First backup, check, restore of an input that stays as it is."""

    def scenario(
        where: Path, size: Size, programs: Sequence[Program], number: int, operations: Collection[str]
    ) -> Iterator[Sample]:
        source = built(where / name, build(size))
        yield from _first(programs, name, source)
        if "unchanged" in operations:
            yield from _backups(programs, name, "unchanged")
        if "check" in operations:
            yield from _checks(programs, name)
        if "restore" in operations:
            yield from _restores(programs, name, where, source)

    return scenario


def database(
    where: Path, size: Size, programs: Sequence[Program], number: int, operations: Collection[str]
) -> Iterator[Sample]:
    """A SQLite database, first and on the day after: 0.1 % of its rows updated all over, 2 % added."""
    prepared = built(where / "database", inputs.database(size.database_rows))
    source = where / "work" / "site.db"
    source.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(prepared / "today.db", source)
    yield from _first(programs, "database", source, database=True)
    if "changed" in operations:
        shutil.copyfile(prepared / "tomorrow.db", source)
        yield from _backups(programs, "database", "day after")
    if "check" in operations:
        yield from _checks(programs, "database")
    source.unlink()


SCENARIOS: dict[str, Scenario] = {
    "trees": trees,
    "dump": whole("dump", lambda size: inputs.dump(size.dump_bytes)),
    "media": whole("media", lambda size: inputs.media(size.media_bytes)),
    "database": database,
    "million": whole("million", lambda size: inputs.many_files(size.million)),
}


def _first(programs: Sequence[Program], name: str, source: Path, *, database: bool = False) -> Iterator[Sample]:
    for program in programs:
        program.prepare(source, database=database)
    yield from _backups(programs, name, "first")


def _backups(programs: Sequence[Program], name: str, operation: str) -> Iterator[Sample]:
    for program in programs:
        before = program.stored_bytes()
        measured = program.backup()
        yield Sample(name, operation, program.name, measured, program.stored_bytes() - before, program.memory)


def _checks(programs: Sequence[Program], name: str) -> Iterator[Sample]:
    for program in programs:
        yield Sample(name, "check", program.name, program.check(), memory=program.memory)


def _restores(programs: Sequence[Program], name: str, where: Path, source: Path) -> Iterator[Sample]:
    target = where / "work" / "restored"
    target.parent.mkdir(parents=True, exist_ok=True)
    size = stored_bytes(source)
    for program in programs:
        discard(where, target)
        warm(target.parent, size)
        yield Sample(name, "restore", program.name, program.restore(target), memory=program.memory)
        discard(where, target)


def discard(where: Path, directory: Path) -> None:
    """Away with it: deleted when it is few files, else kept for `clean`. For five minutes after files were deleted ext4 takes
    ten times as long to make new ones."""
    if not directory.exists():
        return
    if sum(len(names) for _, _, names in os.walk(directory)) < _FEW_FILES:
        shutil.rmtree(directory)
        return
    kept = where / _DISCARDED
    kept.mkdir(exist_ok=True)
    directory.rename(kept / str(len(list(kept.iterdir()))))


def clean(where: Path) -> None:
    """Delete what was kept: not between turns."""
    shutil.rmtree(where / _DISCARDED, ignore_errors=True)
