"""`notify`: try the channels, see what was told, acknowledge it."""

from __future__ import annotations

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, Group, output_of
from backupctl.cli.session import open_context
from backupctl.errors import NoSuchError, UsageError


@click.group(cls=Group)
def notify() -> None:
    """List notices, acknowledge alarms, test a channel."""


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
    options = chosen[channel]
    if not (options.email or options.webhook or options.apprise):
        raise UsageError(
            f"channel {channel} has a heartbeat alone, which stands for a true success: a test does not ping it",
            next_step="backupctl run JOB, of a job that names it",
        )
    sent = send(chosen, event, catalog=context.catalog, secrets=context.resources.secret, clock=context.clock)
    for one in sent:
        output.result(
            "notice",
            f"{one.channel} ({one.kind}): {one.error or 'delivered'}",
            channel=one.channel,
            kind=one.kind,
            error=one.error,
        )
    return 1 if any(one.error for one in sent) else 0


@notify.command("list", cls=Common)
@click.option("--all", "every", is_flag=True, help="Also what arrived and what was acknowledged.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="So many, the newest first.")
def list_(every: bool, limit: int) -> int:
    """List what waits (to be tried again, or for room under a limit) and alarms that nobody acknowledged.

    Exit code: 0, also when there are some.
    """
    from backupctl.operations.notices import open_notices

    rows = [
        {
            "notice": one.id,
            "created": one.created,
            "channel": one.channel,
            "way": one.kind,
            "state": "acknowledged" if one.acknowledged else one.state,
            "subject": one.subject.removeprefix("[backupctl] "),
            "run": one.run,
            "attempts": one.attempts,
            "repeats": one.repeats,
            "next_try": one.next_try,
            "error": one.error,
            "by": one.acknowledged_by,
        }
        for one in open_notices(open_context(), every=every, limit=limit)
    ]
    columns = ("notice", "created", "channel", "way", "state", "subject", "attempts", "next_try", "error")
    output_of().table(
        "notice", rows, columns, empty="nothing waits, and no alarm is open", right=("notice", "attempts")
    )
    return 0


@notify.command(cls=Common)
@click.argument("notices", nargs=-1, required=True, metavar="NOTICE|RUN...")
@click.option("--reason", default="", help="What is being done; it goes into the audit trail.")
def ack(notices: tuple[str, ...], reason: str) -> int:
    """Acknowledge alarms, by their number or their run's id: they are not repeated any more, over no channel."""
    from backupctl.operations.notices import acknowledge

    for one in acknowledge(open_context(), notices, reason=reason):
        output_of().result(
            "acknowledged",
            f"{one.id} {one.channel} ({one.kind}): {one.subject.removeprefix('[backupctl] ')}: acknowledged",
            notice=one.id,
            run=one.run,
            channel=one.channel,
        )
    return 0
