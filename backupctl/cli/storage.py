"""`storage`: what a store really does."""

from __future__ import annotations

import click

from backupctl.cli import completing
from backupctl.cli.main import Group, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count


@click.group(cls=Group)
def storage() -> None:
    """Test stores and look after repository locks."""


@storage.command()
@click.argument("repository", shell_complete=completing.repositories)
def check(repository: str) -> int:
    """Try what the store of REPOSITORY promises, on a scratch object that is removed again. Exit code 4 on a broken one."""
    context = open_context()
    store = context.resources.store(repository)
    rows = [{"what": what, "outcome": outcome, "good": good} for what, outcome, good in store.probe().facts]
    output_of().table("probe", rows, ("what", "outcome", "good"), empty="nothing was tried")
    return 0 if rows and all(row["good"] for row in rows) else 4


@storage.command()
@click.argument("repository", shell_complete=completing.repositories)
def locks(repository: str) -> int:
    """Who holds the repository now."""
    context = open_context()
    rows = [
        {
            "lock": one.id if output_of().json_lines else one.id[:8],
            "holder": f"{one.username}@{one.hostname}",
            "pid": one.pid,
            "exclusive": one.exclusive,
            "since": one.time,
        }
        for one in context.resources.repository(repository).list_locks()
    ]
    output_of().table("lock", rows, ("lock", "holder", "pid", "exclusive", "since"), empty="no lock")
    return 0


@storage.command()
@click.argument("repository", shell_complete=completing.repositories)
def unlock(repository: str) -> int:
    """Remove locks whose holder is known to be dead or silent for 30 minutes; never one that is in use."""
    context = open_context()
    removed = context.resources.repository(repository).unlock()
    text = f"{count(len(removed), 'stale lock')} removed" if removed else "no stale lock"
    output_of().result("unlocked", text, repository=repository, removed=removed)
    return 0
