"""`catalog`: the memory that can always be made again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backupctl.cli.main import Group, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count

if TYPE_CHECKING:
    from backupctl.operations.rebuild import Rebuilt


@click.group(cls=Group)
def catalog() -> None:
    """The catalog of runs, drills and checks."""


@catalog.command()
def rebuild() -> int:
    """Make the catalog again from the repositories alone: snapshots with their runs, drills, checks, holds.

    Runs that left no snapshot, notices and the audit trail were never in a repository and cannot come back.
    Exit code 3 when a record could not be read; the rest is rebuilt.
    """
    from backupctl.operations.rebuild import rebuild as make

    return tell_rebuilt(make(open_context()))


def tell_rebuilt(found: Rebuilt) -> int:
    """What came back, and the exit code."""
    output = output_of()
    for problem in found.problems:
        output.event("problem", problem)
    foreign = f", {count(found.foreign_snapshots, 'foreign snapshot')} passed over" if found.foreign_snapshots else ""
    output.result(
        "rebuilt",
        f"rebuilt: {count(len(found.snapshots), 'snapshot')}, {count(len(found.drills), 'drill')}, "
        f"{count(len(found.checks), 'check')}, {count(len(found.holds), 'hold')}{foreign}",
        snapshots=len(found.snapshots),
        drills=len(found.drills),
        checks=len(found.checks),
        holds=len(found.holds),
        foreign_snapshots=found.foreign_snapshots,
        problems=found.problems,
    )
    return 3 if found.problems else 0
