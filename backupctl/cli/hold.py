"""`hold`: protect a snapshot from retention."""

from __future__ import annotations

import click

from backupctl.cli.main import Group, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count


@click.group(cls=Group)
def hold() -> None:
    """Protect a snapshot from retention, or release it."""


@hold.command()
@click.argument("snapshot", metavar="ID")
@click.option("--reason", required=True, help="Why; it is shown wherever the hold is.")
@click.option("--owner", default="", help="Who may release it (default: you).")
@click.option("--until", metavar="TIME", help="When the hold ends by itself (default: never).")
def place(snapshot: str, reason: str, owner: str, until: str | None) -> int:
    """Nobody may expire snapshot ID until it is released."""
    from backupctl.governance.holds import place as make
    from backupctl.operations.browse import locate
    from backupctl.operations.context import actor
    from backupctl.operations.select import parse_time

    context = open_context()
    repository, found = locate(context, snapshot)
    expires = parse_time(until, context.settings.defaults.timezone) if until else None
    name = next(name for name in context.settings.repositories if context.resources.repository(name) is repository)
    row = make(
        repository,
        context.catalog,
        repository_name=name,
        snapshot=found.id,
        reason=reason,
        owner=owner or actor(),
        expires=expires,
        clock=context.clock,
    )
    context.audit("hold.placed", found.id, reason=reason)
    output_of().result(
        "hold", f"snapshot {found.id[:8]} is held: {reason}", snapshot=found.id, hold=row.id, reason=reason
    )
    return 0


@hold.command("list")
def list_() -> None:
    """Holds in force and expired."""
    context = open_context()
    rows = [
        {
            "hold": one.id if output_of().json_lines else one.id[:8],
            "snapshot": one.snapshot if output_of().json_lines else one.snapshot[:8],
            "reason": one.reason,
            "owner": one.owner,
            "created": one.created,
            "expires": one.expires,
            "repository": one.repository,
        }
        for one in context.catalog.holds()
    ]
    columns = ("hold", "snapshot", "reason", "owner", "created", "expires", "repository")
    output_of().table("hold", rows, columns, empty="no hold")


@hold.command()
@click.argument("snapshot", metavar="ID")
def release(snapshot: str) -> int:
    """End every hold on snapshot ID."""
    from backupctl.governance.holds import release as end
    from backupctl.operations.browse import locate

    context = open_context()
    repository, found = locate(context, snapshot)
    ended = end(repository, context.catalog, found.id)
    context.audit("hold.released", found.id, holds=ended)
    output_of().result(
        "released", f"{count(ended, 'hold')} on {found.id[:8]} released", snapshot=found.id, released=ended
    )
    return 0
