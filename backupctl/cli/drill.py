"""`drill`: rehearse restores, and see what was rehearsed."""

from __future__ import annotations

import click

from backupctl.cli.main import Group, output_of
from backupctl.cli.output import duration
from backupctl.cli.session import open_context
from backupctl.errors import NoSuchError, UsageError


@click.group(cls=Group)
def drill() -> None:
    """Rehearse a restore on a staging host, compare it with what the source held, time it, judge it."""


@drill.command("run")
@click.argument("drills", nargs=-1, metavar="[JOB/DRILL]...")
@click.option("--snapshot", metavar="ID", help="Rehearse this snapshot instead of the newest complete one.")
def run(drills: tuple[str, ...], snapshot: str | None) -> int:
    """Run drills now (default: every drill of every job).

    Exit code is the verdict: 0 pass, 4 fail (the backup is bad), 5 inconclusive (the drill could not run), 6 stale.
    """
    from backupctl.cli.dispatching import run_in_foreground
    from backupctl.operations.drill import drill_of

    context = open_context()
    names = drills or tuple(f"{job.job}/{one}" for job in context.settings.jobs.values() for one in job.drills)
    if not names:
        raise UsageError("the configuration has no drill", next_step="add `drills:` to a job")
    chosen = [drill_of(context, name) for name in names]
    options: dict[str, object] = {"snapshot": snapshot} if snapshot else {}
    return run_in_foreground(context, [("drill", f"{job.job}/{one}", options) for job, one in chosen])


@drill.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
def list_(limit: int) -> None:
    """Drills that ran, newest first, and drills that never did."""
    context = open_context()
    rows = []
    seen = set()
    for one in context.catalog.drills(limit=limit):
        seen.add(one.drill)
        rows.append(
            {
                "drill": one.drill,
                "declared": one.declared,
                "verdict": one.verdict,
                "level": f"L{one.level}",
                "rto": duration(one.rto_seconds) if one.rto_seconds is not None else None,
                "rpo": duration(one.rpo_seconds) if one.rpo_seconds is not None else None,
                "snapshot": one.snapshot[:8],
                "id": one.id,
                "rto_seconds": one.rto_seconds,
                "rpo_seconds": one.rpo_seconds,
            }
        )
    for job in context.settings.jobs.values():
        for name in job.drills:
            full = f"{job.job}/{name}"
            if full not in seen and not context.catalog.drills(drill=full, limit=1):
                rows.append({"drill": full, "verdict": "never run"})
    columns = ("drill", "declared", "verdict", "level", "rto", "rpo", "snapshot", "id")
    output_of().table("drill", rows, columns, empty="no drill is configured")


@drill.command("show")
@click.argument("drill_id", metavar="ID")
def show(drill_id: str) -> int:
    """Everything one drill found; ID may be shortened, or JOB/DRILL for its last run."""
    context = open_context()
    output = output_of()
    found = [one for one in context.catalog.drills() if one.id.startswith(drill_id) or one.drill == drill_id]
    if not found:
        raise NoSuchError(f"no drill with id or name {drill_id!r}", next_step="backupctl drill list")
    one = found[0]
    checks = context.catalog.drill_checks(one.id)
    if output.json_lines:
        facts = {column.name: getattr(one, column.name) for column in one.__table__.columns}
        facts["checks"] = [{c.name: getattr(check, c.name) for c in check.__table__.columns} for check in checks]
        output.result("drill", "", **facts)
        return 0
    lines = [
        f"{one.drill}: {one.verdict} at level L{one.level}, declared {one.declared:%Y-%m-%d %H:%M:%S} UTC on {one.host}"
    ]
    lines.append(f"snapshot {one.snapshot[:8] or '-'} of {one.snapshot_time or '-'} in {one.repository}")
    lines += [f"  reason: {reason}" for reason in one.reasons]
    lines += [f"  {phase['name']}: {duration(phase['seconds'])}" for phase in one.phases]
    for name, seconds, objective in (
        ("RTO", one.rto_seconds, one.rto_objective),
        ("RPO", one.rpo_seconds, one.rpo_objective),
    ):
        achieved = duration(seconds) if seconds is not None else "not proven"
        lines.append(f"  {name} achieved: {achieved}; objective: {duration(objective) if objective else 'none'}")
    lines.append(
        f"  clean-up {'proved' if one.cleanup.get('proved') else 'NOT proved'}: {'; '.join(one.cleanup.get('facts', []))}"
    )
    output.result("drill", "\n".join(lines))
    rows = [
        {
            "check": check.name,
            "ok": check.ok,
            "level": f"L{check.level}",
            "expected": check.expected,
            "actual": check.actual,
            "detail": check.detail,
        }
        for check in sorted(checks, key=lambda check: (check.ok, check.number))
    ]
    output.table("check", rows, ("check", "ok", "level", "expected", "actual", "detail"), empty="no check was made")
    return 0


@drill.command("plan")
@click.argument("name", metavar="JOB/DRILL")
def plan(name: str) -> int:
    """What a drill would restore, where, and how much; changes nothing."""
    from backupctl.operations.plan import plan_drill

    context = open_context()
    planned = plan_drill(context, name)
    output_of().result("plan", planned.text(), **planned.fields())
    return 0


@drill.command("cleanup")
@click.argument("host", metavar="STAGING-HOST")
def cleanup(host: str) -> int:
    """Remove what a killed drill left on a staging host: its processes and directories, nothing else."""
    from backupctl.operations.plan import clean_staging

    context = open_context()
    removed = clean_staging(context, host)
    output_of().result("cleanup", "\n".join(removed) or "nothing was left behind", removed=removed)
    return 0
