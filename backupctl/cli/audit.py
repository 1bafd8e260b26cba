"""`audit`: the trail of privileged acts."""

from __future__ import annotations

from typing import Any

import click

from backupctl.cli.main import Group, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count


@click.group(cls=Group)
def audit() -> None:
    """The audit trail: each row is sealed to the one before by its hash."""


@audit.command("list")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
def list_(limit: int) -> None:
    """The newest events."""
    context = open_context()
    events = context.catalog.events()[-limit:]
    rows = [
        {
            "number": one.number,
            "at": one.time,
            "actor": one.actor,
            "action": one.action,
            "subject": one.subject,
            "detail": one.detail if output_of().json_lines else _words(one.detail),
            "hash": one.hash if output_of().json_lines else one.hash[:12],
        }
        for one in events
    ]
    output_of().table("event", rows, ("number", "at", "actor", "action", "subject", "detail", "hash"), empty="no event")


def _words(detail: dict[str, Any]) -> str:
    """Only what is said, ids shortened: --json has all of it."""
    ids = {"run", "repository_id"}
    return " ".join(f"{key}={str(value)[:8] if key in ids else value}" for key, value in detail.items() if value != "")


@audit.command()
def verify() -> int:
    """Recompute every hash. Exit code 4 when a row was altered or is missing. A cut-off end shows only against a head
    hash kept elsewhere, as every report prints one."""
    from backupctl.catalog.events import verify_events

    context = open_context()
    events = context.catalog.events()
    problems = verify_events(events)
    head = events[-1].hash if events else "none"
    for problem in problems:
        output_of().event("problem", problem)
    text = f"{count(len(events), 'event')}, {len(problems)} broken; head {head}"
    output_of().result("audit", text, events=len(events), problems=problems, head=head)
    return 4 if problems else 0
