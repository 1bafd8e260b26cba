"""What `wal find` and `binlog find` share: their options, and how what was found is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Protocol

import click

from backupctl.cli.output import Output
from backupctl.cli.words import count


class Search(Protocol):
    """Of one source's log; `since`: of what was looked at."""

    @property
    def source(self) -> str: ...
    @property
    def since(self) -> datetime: ...
    @property
    def notes(self) -> Sequence[str]: ...


def search_options(backup: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Which commits, and how many rows count; `backup`: since whose newest by default."""

    def decorated(command: Callable[..., int]) -> Callable[..., int]:
        for option in (
            click.option(
                "--rows",
                type=click.IntRange(min=1),
                default=1000,
                show_default=True,
                help="Deleted or updated ones of a table.",
            ),
            click.option("--until", metavar="TIME", help="Of commits."),
            click.option("--since", metavar="TIME", help=f"Of commits; without it, all since the newest {backup}."),
        ):
            command = option(command)
        return command

    return decorated


def tell_losses(
    output: Output,
    found: Search,
    table: Sequence[dict[str, Any]],
    columns: Sequence[str],
    *,
    empty: str,
    unit: str,
    read: int,
    restore: str,
    point: str,
) -> int:
    """The exit code. `unit` and `read`: of what, and how many; `restore`: the command that goes back, `point`: what its --at
    takes."""
    output.table("loss", table, columns, empty=f"{found.source}: {empty}")
    for note in found.notes:
        output.event("warning", f"{found.source}: {note}")
    text = f"{found.source}: {count(read, unit)} read, since {output.local(found.since)}"
    facts = {f"{unit}s": read}
    output.result("searched", text, source=found.source, **facts, since=found.since, losses=len(table))
    if table:
        at = table[0]["at"] if len(table) == 1 else f"{point}, of the one that it was"
        output.event("note", f"  next: {restore} --start-database --into DIRECTORY --at {at}")
    return 3 if found.notes else 0
