"""`init`: create what the configuration names."""

from __future__ import annotations

import click

from backupctl.cli.main import Common, output_of
from backupctl.cli.session import open_context
from backupctl.errors import UsageError


@click.command(cls=Common)
@click.argument("repositories", nargs=-1, metavar="[REPOSITORY]...")
def init(repositories: tuple[str, ...]) -> int:
    """Create REPOSITORYs (default: all in the configuration) and generate the key files that do not exist yet.

    A repository that exists and opens is left as it is. Print and lock away every new key: without it nobody, not even
    its maker, can read the backups.
    """
    from backupctl.operations.setup import create_repository

    context = open_context()
    output = output_of()
    names = repositories or tuple(context.settings.repositories)
    if not names:
        raise UsageError("the configuration names no repository", next_step="backupctl config schema")
    for name in names:
        made = create_repository(context, name)
        words = "is there and opens" if made.existed else "created"
        text = f"repository {name} {words}: {made.location} (id {made.repository_id[:8]})"
        if made.key_file:
            text += (
                f"\nnew key: {made.key_file}: keep a copy somewhere else, now. Without it the backups cannot be read."
            )
        output.result(
            "repository",
            text,
            repository=name,
            location=made.location,
            id=made.repository_id,
            existed=made.existed,
            key_file=made.key_file,
        )
    return 0
