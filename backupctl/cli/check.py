"""`check`: read repositories and judge them."""

from __future__ import annotations

import click

from backupctl.cli import completing
from backupctl.cli.dispatching import run_in_foreground
from backupctl.cli.main import Common
from backupctl.cli.session import open_context


@click.command(cls=Common)
@click.argument("repositories", nargs=-1, metavar="[REPOSITORY]...", shell_complete=completing.repositories)
@click.option("--read-data", is_flag=True, help="Read, decrypt and hash every byte, not only the structure.")
def check(repositories: tuple[str, ...], read_data: bool) -> int:
    """Check each REPOSITORY (default: all of them) and name every damaged object with the snapshots it hits.

    Exit code: 0 whole, 4 damaged, 5 nothing to check or it could not be read.
    """
    from backupctl.operations.browse import repository_names

    context = open_context()
    names = repository_names(context, repositories)
    return run_in_foreground(context, [("check", name, {"read_data": read_data}) for name in names])
