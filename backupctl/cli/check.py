"""`check`: read repositories and judge them."""

from __future__ import annotations

import click

from backupctl.cli.dispatching import run_in_foreground
from backupctl.cli.main import Common
from backupctl.cli.session import open_context
from backupctl.errors import UsageError


@click.command(cls=Common)
@click.argument("repositories", nargs=-1, metavar="[REPOSITORY]...")
@click.option("--read-data", is_flag=True, help="Read, decrypt and hash every byte, not only the structure.")
def check(repositories: tuple[str, ...], read_data: bool) -> int:
    """Check REPOSITORYs (default: all of them) and name every damaged object with the snapshots it hits.

    Exit code: 0 whole, 4 damaged, 5 nothing to check or it could not be read.
    """
    context = open_context()
    names = repositories or tuple(context.settings.repositories)
    if not names:
        raise UsageError("the configuration has no repository", next_step="backupctl config schema")
    return run_in_foreground(context, [("check", name, {"read_data": read_data}) for name in names])
