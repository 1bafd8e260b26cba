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
    """Try what the store of REPOSITORY promises, on scratch objects that are removed again. Exit code 4 on a broken one.

    With `lock` in the configuration a version is locked for some seconds, and every way to get rid of it is tried with
    our own credentials. Only when all of them fail does the store refuse deletion.
    """
    context = open_context()
    output = output_of()
    found = context.resources.store(repository).probe()
    rows = [{"what": what, "outcome": outcome, "good": good} for what, outcome, good in found.facts]
    output.table("probe", rows, ("what", "outcome", "good"), empty="nothing was tried")
    bad = not rows or not all(row["good"] for row in rows)
    if verdict := found.immutability:
        word = "yes" if verdict.refuses_deletion else "no"
        output.result(
            "immutability",
            f"refuses deletion: {word} (measured): {verdict.reason}",
            repository=repository,
            refuses_deletion=verdict.refuses_deletion,
            claimed=verdict.claimed,
            reason=verdict.reason,
            possible=list(verdict.possible),
        )
        if not output.json_lines:
            for possible in verdict.possible:
                output.result("possible", f"still possible with these credentials: {possible}")
        if verdict.claimed and not verdict.refuses_deletion:
            bad = True
            output.event("warning", f"{repository}: the configuration claims a lock that the store does not keep")
    return 4 if bad else 0


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
