"""`hold` and `release`: protect a snapshot from retention, and no longer."""

from __future__ import annotations

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, Group, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count


class HoldGroup(Group):
    """`hold SNAPSHOT …` is `hold place SNAPSHOT …`."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        import difflib

        name = args[0]
        if (
            name not in self.commands
            and not name.startswith("-")
            and not difflib.get_close_matches(name, self.commands)
        ):
            args = ["place", *args]
        return super().resolve_command(context, args)


@click.group(cls=HoldGroup)
def hold() -> None:
    """Protect a snapshot from retention: `hold SNAPSHOT --reason TEXT [--until 30d]`; end it with `release`."""


@hold.command(cls=Common)
@click.argument("snapshot", shell_complete=completing.jobs)
@click.option("--reason", required=True, help="Why; it is shown wherever the hold is.")
@click.option("--owner", default="", help="Whose hold it is (default: yours).")
@click.option("--until", metavar="TIME|30d", help="When it ends by itself; a day counts whole (default: never).")
def place(snapshot: str, reason: str, owner: str, until: str | None) -> int:
    """Hold SNAPSHOT, an id or a job's name for its newest complete one: retention keeps it until then, or until `release`.

    Placing the same hold twice changes nothing.
    """
    from backupctl.operations.holds import place_hold

    placed = place_hold(open_context(), snapshot, reason=reason, owner=owner, until=until)
    output = output_of()
    record = placed.record
    end = f"until {output.local(record.expires)}" if record.expires else "until it is released"
    output.result(
        "hold",
        f"snapshot {record.snapshot[:8]} is held {end}: {reason}",
        snapshot=record.snapshot,
        hold=record.id,
        reason=reason,
        owner=record.owner,
        expires=record.expires,
        repository=placed.repository,
    )
    return 0


@hold.command("list", cls=Common)
def list_() -> int:
    """List holds, in force and expired, as the repositories hold them."""
    from backupctl.operations.holds import list_holds

    short = not output_of().json_lines
    rows = [
        {
            "hold": one.record.id[:8] if short else one.record.id,
            "snapshot": one.record.snapshot[:8] if short else one.record.snapshot,
            "state": "in force" if one.in_force else "expired",
            "reason": one.record.reason,
            "owner": one.record.owner,
            "by": one.record.by,
            "created": one.record.created,
            "expires": one.record.expires,
            "repository": one.repository,
        }
        for one in list_holds(open_context())
    ]
    columns = ("hold", "snapshot", "state", "reason", "owner", "created", "expires", "repository")
    output_of().table("hold", rows, columns, empty="no hold")
    return 0


@hold.command(cls=Common)
@click.argument("snapshot", shell_complete=completing.jobs)
@click.option("--hold", "hold_id", metavar="ID", help="Only this one, as `hold list` shows it.")
@click.option("--all", "every", is_flag=True, help="All of them, whoever placed them.")
def release(snapshot: str, hold_id: str | None, every: bool) -> int:
    """End the hold on SNAPSHOT. When it is held several times, say which ends."""
    from backupctl.operations.holds import release_holds

    found, ended = release_holds(open_context(), snapshot, hold=hold_id, every=every)
    output_of().result("released", f"{count(ended, 'hold')} on {found[:8]} released", snapshot=found, released=ended)
    return 0
