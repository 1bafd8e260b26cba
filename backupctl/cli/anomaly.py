"""`anomaly`: snapshots that look as if an attack had been backed up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, Group, output_of
from backupctl.cli.session import open_context

if TYPE_CHECKING:
    from backupctl.operations.anomalies import Suspicion


@click.group(cls=Group)
def anomaly() -> None:
    """Snapshots that look as if an attack had been backed up: list them, look at one, acknowledge or clear it.

    While one is not cleared, `prune` keeps it and everything older.
    """


@anomaly.command("list", cls=Common)
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=completing.jobs)
@click.option("--all", "every", is_flag=True, help="Also those that were cleared.")
def list_(jobs: tuple[str, ...], every: bool) -> int:
    """List suspicious snapshots of each JOB (default: all), as the repositories hold them.

    Exit code: 0 there is none that nobody looked at, 3 there is.
    """
    from backupctl.operations.anomalies import list_suspicions

    context = open_context()
    chosen = [context.job(name) for name in jobs] if jobs else list(context.settings.jobs.values())
    found = list_suspicions(context, chosen, every=every)
    short = not output_of().json_lines
    rows = [_row(one, short=short) for one in found]
    output_of().table(
        "anomaly", rows, ("snapshot", "snapshot_time", "job", "state", "signals", "by"), empty="nothing suspicious"
    )
    return 3 if any(one.decision is None for one in found) else 0


@anomaly.command(cls=Common)
@click.argument("snapshot", shell_complete=completing.jobs)
def show(snapshot: str) -> int:
    """Show why SNAPSHOT is suspicious: an id, or a job's name for its newest one."""
    from backupctl.operations.anomalies import find_suspicion

    output = output_of()
    found = find_suspicion(open_context(), snapshot)
    head = f"{found.snapshot.short_id} of {found.job}, {output.local(found.snapshot.time)}: {found.state}"
    output.result("anomaly", head, **_row(found, short=False))
    if not output.json_lines:
        for one in found.signals:
            output.result("signal", f"  {one['points']:>4}  {one['name']}: {one['text']}")
        if found.decision is not None:
            output.result("decision", f"  {found.state} by {found.decision.by}: {found.decision.reason}")
        if found.open:
            for line in (
                f"what changed: backupctl diff {found.snapshot.parent[:8]} {found.snapshot.short_id}",
                f"no attack:    backupctl anomaly clear {found.snapshot.short_id} --reason TEXT",
            ):
                output.event("note", line)
    return 0


@anomaly.command(cls=Common)
@click.argument("snapshot", shell_complete=completing.jobs)
@click.option("--reason", required=True, help="What is being done about it.")
def acknowledge(snapshot: str, reason: str) -> int:
    """Say that somebody deals with SNAPSHOT. It stays suspicious, and what is older stays protected."""
    return _decide(snapshot, "acknowledged", reason)


@anomaly.command(cls=Common)
@click.argument("snapshot", shell_complete=completing.jobs)
@click.option("--reason", required=True, help="Why it was no attack.")
def clear(snapshot: str, reason: str) -> int:
    """Say that SNAPSHOT shows no attack: it protects nothing any longer, and what it changed counts as usual from the next
    run on."""
    return _decide(snapshot, "cleared", reason)


def _decide(snapshot: str, decision: str, reason: str) -> int:
    from backupctl.operations.anomalies import decide

    found = decide(open_context(), snapshot, decision=decision, reason=reason)
    output_of().result(
        "anomaly", f"{found.snapshot.short_id} of {found.job}: {decision}: {reason}", **_row(found, short=False)
    )
    return 0


def _row(one: Suspicion, *, short: bool) -> dict[str, object]:
    decision = one.decision
    return {
        "snapshot": one.snapshot.short_id if short else one.snapshot.id,
        "snapshot_time": one.snapshot.time,
        "job": one.job,
        "run": one.run,
        "repository": one.repository,
        "state": one.state,
        "signals": ", ".join(str(signal["name"]) for signal in one.signals) if short else list(one.signals),
        "reason": decision.reason if decision is not None else "",
        "by": decision.by if decision is not None else "",
    }
