"""`check`: read repositories and judge them."""

from __future__ import annotations

from functools import partial

import click

from backupctl.cli import completing
from backupctl.cli.dispatching import run_in_foreground
from backupctl.cli.main import Common, output_of
from backupctl.cli.session import open_context
from backupctl.cli.watching import is_watched, watched


def _budget(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    from backupctl.config.models import check_budget

    try:
        return check_budget(value)
    except ValueError as error:
        what = str(error).partition(";")[0]  # without its own example
        raise click.BadParameter(f"{what}; write for example 5GiB or 10%", context, parameter) from None


@click.command(cls=Common)
@click.argument("repositories", nargs=-1, metavar="[REPOSITORY]...", shell_complete=completing.repositories)
@click.option("--read-data", is_flag=True, help="Read, decrypt and hash every byte, not only the structure.")
@click.option(
    "--budget",
    metavar="SIZE",
    callback=_budget,
    help="Read so much (5GiB, 10%) of what was not read for the longest time.",
)
@click.option("--all-paths", is_flag=True, help="Name every path that damage hits, not only the first ten of each.")
def check(repositories: tuple[str, ...], read_data: bool, budget: str | None, all_paths: bool) -> int:
    """Check each REPOSITORY (default: all of them) and name every damaged object with the snapshots and paths it hits.

    The structure, with all directories, is read every time. What is read is noted in the repository: `backupctl status`
    says since when every stored byte has been read.

    Exit code: 0 whole, 4 damaged, 5 nothing to check or it could not be read.
    """
    if read_data and budget:
        raise click.UsageError("--read-data reads everything: give it or --budget, not both")
    if (code := watched()) is not None:
        return code
    from backupctl.operations.ahead import before_all

    context = open_context(ahead=partial(before_all, kind="check", names=repositories) if is_watched() else None)
    from backupctl.operations.browse import repository_names

    options = {"read_data": read_data, "budget": budget, "all_paths": all_paths or output_of().json_lines}
    return run_in_foreground(
        context, [("check", name, dict(options)) for name in repository_names(context, repositories)]
    )
