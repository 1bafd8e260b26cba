"""`notify`: try the channels."""

from __future__ import annotations

import click

from backupctl.cli import completing
from backupctl.cli.main import Group, output_of
from backupctl.cli.session import open_context
from backupctl.errors import NoSuchError


@click.group(cls=Group)
def notify() -> None:
    """Test notice channels."""


@notify.command()
@click.argument("channel", shell_complete=completing.channels)
def test(channel: str) -> int:
    """Send a test notice over CHANNEL. The heartbeat is not pinged: it stands for a true success only."""
    from backupctl.notify.notices import NoticeEvent
    from backupctl.notify.notices import notify as send

    context = open_context()
    output = output_of()
    if channel not in context.settings.notify:
        known = ", ".join(context.settings.notify) or "none"
        raise NoSuchError(f"no channel named {channel!r}; known: {known}", next_step="backupctl config show")
    now = context.clock.now()
    event = NoticeEvent(
        kind="test",
        name=channel,
        outcome="test",
        verdict="",
        run="test",
        scheduled=now,
        at=now,
        success=False,
    )
    chosen = {channel: context.settings.notify[channel]}
    sent = send(chosen, event, catalog=context.catalog, secrets=context.resources.secret, clock=context.clock)
    for one in sent:
        output.result(
            "notice",
            f"{one.channel} ({one.kind}): {one.error or 'delivered'}",
            channel=one.channel,
            kind=one.kind,
            error=one.error,
        )
    return 1 if any(one.error for one in sent) or not sent else 0
