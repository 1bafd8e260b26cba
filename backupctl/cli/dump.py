"""`dump`: content to a pipe or a file, without a restore."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count, path_fields, size
from backupctl.errors import UsageError


@click.command(cls=Common)
@click.argument("snapshot", shell_complete=completing.jobs)
@click.argument("path", default="")
@click.option("--archive", type=click.Choice(["tar", "zip"]), help="As an archive (a directory: tar by default).")
@click.option(
    "--output",
    "-o",
    "target",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Into a new file, which has this name only when it is whole (default: standard output).",
)
def dump(snapshot: str, path: str, archive: Any, target: Path | None) -> int:
    """Write PATH of SNAPSHOT to standard output: a file as it is, a directory (default: everything) as an archive.

    SNAPSHOT is an id, or a job's name for its newest complete snapshot. Names in the archive are relative to PATH.

    \b
    backupctl dump website site-db/site/database.dump | pg_restore -l
    backupctl dump 9a240feb site-files/srv/www | tar -x --xattrs --acls -C /srv/back
    backupctl dump 9a240feb site-files --archive zip --output www.zip

    A tar archive holds all that a backup does but sockets; a zip archive has no owners by name, attributes, hard links, devices.
    An archive that could not be finished ends so that no program takes it for whole, and the exit code is not 0.

    Exit code: 0 whole, 3 whole but for entries that such an archive cannot hold (each is named), 4 the repository is damaged there.
    """
    from backupctl.operations import dump as operation

    output = output_of()
    if target is not None and str(target) == "-":
        target = None
    terminal = target is None and sys.stdout.isatty()
    if output.json_lines and target is None:
        raise UsageError("with --json standard output is taken", next_step="--output FILE")
    context = open_context()
    with operation.open_dump(context, snapshot, os.fsencode(path), archive) as found:
        if terminal and found.archive:
            raise UsageError(
                f"a {found.archive} archive does not go to a terminal",
                next_step="send it somewhere: … > FILE, … | tar -t, or --output FILE",
            )
        opened = operation.new_file(target) if target else operation.standard_output(terminal=terminal)
        with opened as write:
            stats = operation.write_dump(context, found, write)
    for name, reason in stats.skipped:
        output.event("problem", f"{name}: {reason}", path=name)
    fields = {
        "snapshot": found.reader.snapshot.id,
        "archive": found.archive,
        "entries": stats.entries,
        "bytes": stats.bytes,
    }
    what = f"{count(stats.entries, 'entry')}, {size(stats.bytes)}" if found.archive else size(stats.bytes)
    if target:
        fields |= {"output": str(target), "skipped": len(stats.skipped), **path_fields("path", b"/" + found.path)}
        output.result("dumped", f"{target}: {what}", **fields)
    return 3 if stats.skipped else 0
