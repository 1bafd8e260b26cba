"""`drill`: rehearse restores, and see what was rehearsed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from backupctl.cli import completing
from backupctl.cli.main import Group, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import count, duration, short_hashes, size
from backupctl.errors import NoSuchError, UsageError

if TYPE_CHECKING:
    from backupctl.catalog.models import Drill, DrillCheck
    from backupctl.cli.output import Output
    from backupctl.operations.plan import DrillPlan


@click.group(cls=Group)
def drill() -> None:
    """Rehearse a restore on a staging host, compare it with what the source held, time it, judge it."""


@drill.command("run")
@click.argument("drills", nargs=-1, metavar="[JOB/DRILL]...", shell_complete=completing.drills)
@click.option("--snapshot", metavar="ID", help="Rehearse this snapshot instead of the newest complete one.")
def run(drills: tuple[str, ...], snapshot: str | None) -> int:
    """Run drills now (default: every drill of every job).

    Exit code is the verdict: 0 pass, 4 fail (the backup is bad), 5 inconclusive (the drill could not run), 6 stale.
    """
    from backupctl.cli.watching import watched

    if (code := watched()) is not None:
        return code
    from backupctl.cli.dispatching import run_in_foreground
    from backupctl.operations.drill import drill_of

    context = open_context()
    names = drills or tuple(f"{job.job}/{one}" for job in context.settings.jobs.values() for one in job.drills)
    if not names:
        raise UsageError("the configuration has no drill", next_step="add `drills:` to a job")
    chosen = [drill_of(context, name) for name in names]
    options: dict[str, object] = {"snapshot": snapshot} if snapshot else {}
    return run_in_foreground(context, [("drill", f"{job.job}/{one}", options) for job, one in chosen])


@drill.command()
@click.argument("name", required=False)
def scenarios(name: str | None) -> None:
    """What a drill can rehearse; with NAME: its steps, what must be true at the end, and what it needs."""
    from backupctl.drills.scenarios.registry import NAMES, scenario_of

    output = output_of()
    if name is None:
        rows = [{"scenario": one, "proves": scenario_of(one).proves} for one in NAMES]
        output.table("scenario", rows, ("scenario", "proves"), empty="no scenario")
        return
    one = scenario_of(name)
    lines = [f"{one.name}: {one.proves}", "steps:"]
    lines += [f"  {number}. {step}" for number, step in enumerate(one.steps, 1)]
    lines += ["passes when:", *(f"  - {criterion}" for criterion in one.criteria)]
    lines += ["needs:", *(f"  - {need}" for need in one.needs)] if one.needs else []
    output.result(
        "scenario",
        "\n".join(lines),
        scenario=one.name,
        proves=one.proves,
        steps=list(one.steps),
        criteria=list(one.criteria),
        needs=list(one.needs),
    )


@drill.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
def list_(limit: int) -> None:
    """Drills that ran, newest first, and drills that never did."""
    context = open_context()
    output = output_of()
    rows: list[dict[str, object]] = []
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
                "snapshot": one.snapshot if output.json_lines else one.snapshot[:8],
                "id": one.id if output.json_lines else one.id[:8],
                "rto_seconds": one.rto_seconds,
                "rpo_seconds": one.rpo_seconds,
            }
        )
    for job in context.settings.jobs.values():
        for name in job.drills:
            full = f"{job.job}/{name}"
            if full not in seen and not context.catalog.drills(drill=full, limit=1):
                rows.append({"drill": full, "verdict": "never"})
    columns = ("drill", "declared", "verdict", "level", "rto", "rpo", "snapshot", "id")
    output.table("drill", rows, columns, empty="no drill is configured")


@drill.command("show")
@click.argument("drill_id", metavar="ID", shell_complete=completing.drills)
def show(drill_id: str) -> int:
    """Everything one drill found; ID may be shortened, or JOB/DRILL for its last run."""
    context = open_context()
    output = output_of()
    found = [one for one in context.catalog.drills() if one.id.startswith(drill_id) or one.drill == drill_id]
    if not found:
        raise NoSuchError(f"no drill that ran has the id or name {drill_id!r}", next_step="backupctl drill list")
    one = found[0]
    checks = context.catalog.drill_checks(one.id)
    if output.json_lines:
        facts = {column.name: getattr(one, column.name) for column in one.__table__.columns}
        facts["checks"] = [{c.name: getattr(check, c.name) for c in check.__table__.columns} for check in checks]
        output.result("drill", "", **facts)
        return 0
    failing = [check for check in checks if not check.ok]
    output.result("drill", _told(one, failing, output))
    for check in sorted(checks, key=lambda check: (check.ok, check.number)):
        output.result("check", short_hashes(_check_told(check)))
    return 0


def _check_told(check: DrillCheck) -> str:
    from backupctl.sources.protocol import was_performed

    if check.ok:
        mark = "ok  " if was_performed(check.actual) else "--  "
        said = check.actual + (f" ({check.detail})" if check.detail else "")
        return f"  {mark}  L{check.level}  {check.name}: {said}"
    lines = [f"  FAIL  L{check.level}  {check.name}"]
    lines += [f"            expected  {check.expected}", f"            found     {check.actual}"]
    return "\n".join([*lines, f"            {check.detail}"] if check.detail else lines)


def _told(one: Drill, failing: list[DrillCheck], output: Output) -> str:
    """One drill in a few lines: verdict, reasons that are not a failing check (those follow), times, clean-up."""
    reasons = [str(reason) for reason in one.reasons]
    reasons = [reason for reason in reasons if not any(reason.startswith(check.name) for check in failing)]
    taken = f"of {output.local(one.snapshot_time)} " if one.snapshot_time else ""
    lines = [
        f"{one.drill}: {one.verdict} at level L{one.level}",
        *(f"  reason    {short_hashes(reason)}" for reason in reasons),
        f"  declared  {output.local(one.declared)} on {one.host}, id {one.id[:8]}",
        f"  snapshot  {one.snapshot[:8] or 'none'} {taken}in {one.repository}",
        "  phases    " + ", ".join(f"{phase['name']} {duration(phase['seconds'])}" for phase in one.phases),
    ]
    for name, seconds, objective in (
        ("RTO", one.rto_seconds, one.rto_objective),
        ("RPO", one.rpo_seconds, one.rpo_objective),
    ):
        achieved = f"{duration(seconds)} achieved" if seconds is not None else "not proven"
        ratio = f" ({100 * seconds / objective:.1f} % of it)" if seconds is not None and objective else ""
        lines.append(f"  {name}       {achieved}, objective {duration(objective) if objective else 'none'}{ratio}")
    lines += _facts_told(one.facts or {})
    proved = "proved" if one.cleanup.get("proved") else "NOT proved"
    facts = [f"    {fact}" for fact in one.cleanup.get("facts", [])] if proved != "proved" else []
    return "\n".join([*lines, f"  clean-up  {proved}", *facts])


def _facts_told(facts: dict[str, Any]) -> list[str]:
    """How the snapshot was drawn, when what was reached, what was looked at before anything was written."""
    lines = []
    measures, drawn, control = facts.get("measures") or {}, facts.get("draw"), facts.get("control")
    reached = [(name, at) for name, at in (measures.get("instants") or {}).items() if at is not None]
    if reached:
        keys = f" (keys {duration(measures['key_seconds'])})"
        lines.append(
            "  reached   " + ", ".join(f"{name}{keys * (name == 't1')} {duration(at)}" for name, at in reached)
        )
    if measures.get("heartbeat"):
        lines.append(f"  newest    change proven present: {measures['heartbeat']}")
    if estimate := measures.get("estimate"):
        lines.append(
            f"  estimate  {duration(estimate['seconds'])} for {size(estimate['bytes'])} in production; not measured"
        )
    if drawn:
        lines.append(
            f"  drawn     {drawn['age']} from {drawn['place']}, sources: {drawn['source']} (event {drawn['event']} of the "
            f"audit trail, committed in {drawn['committed']})"
        )
    if control:
        lines.append(f"  control   {control['object']} {control['damage']}: the drill said {control['said']}")
    return lines + [f"  looked at {line}" for line in facts.get("interlocks") or []]


@drill.command("plan")
@click.argument("drills", nargs=-1, metavar="[JOB/DRILL]...", shell_complete=completing.drills)
def plan(drills: tuple[str, ...]) -> int:
    """What a drill would touch, read and take, and what reading costs; changes nothing and draws nothing."""
    from backupctl.operations.plan import plan_drill

    context = open_context()
    names = drills or tuple(f"{job.job}/{one}" for job in context.settings.jobs.values() for one in job.drills)
    if not names:
        raise UsageError("the configuration has no drill", next_step="add `drills:` to a job")
    output = output_of()
    for name in names:
        planned = plan_drill(context, name)
        output.result("plan", _planned(planned, output), **planned.fields())
    return 0


def _planned(planned: DrillPlan, output: Output) -> str:
    what = f"{planned.drill}: scenario {planned.scenario} on {planned.host}"
    lines = [what + (", a negative control: on a copy damaged in memory" if planned.control else "")]
    if planned.drawn:
        one = ", one source of it," if planned.one_source else ""
        lines.append(f"  drawn     when it runs{one} from what had no turn yet of:")
    for reading in planned.readings:
        cost = "no price configured" if reading.cost is None else f"{reading.cost:.2f} {reading.currency}"
        lines.append(
            f"  {reading.age:9} {reading.snapshot[:8]} of {output.local(reading.time)} in {reading.place}: "
            f"{', '.join(reading.sources)}; {count(reading.files, 'file')}, {size(reading.bytes)}"
        )
        lines.append(
            f"  reads     {size(reading.stored_bytes)} from {count(reading.packs, 'pack')} of {reading.place}; cost: {cost}"
        )
    lines += [f"  missing   {place}: {why}" for place, why in planned.missing.items()]
    room = max(reading.room for reading in planned.readings)
    free = planned.trouble if planned.free is None else f"{size(planned.free)} free"
    most = "no limit" if planned.max_disk is None else f"{size(planned.max_disk)} allowed"
    lines.append(f"  writes    below {planned.scratch}, about {size(room)} ({most}, {free}), and removes it again")
    servers = sorted({name for reading in planned.readings for name in reading.servers})
    lines += [f"  starts    a private server for {', '.join(servers)}"] if servers else []
    lines.append(f"  asks      {count(planned.probes, 'probe')}")
    takes = "not measured yet"
    if planned.seconds is not None:
        takes = f"about {duration(planned.seconds)}, an estimate from the last {count(planned.seconds_from, 'drill')}"
    ends = f"; ended after {duration(planned.timeout_seconds)}" if planned.timeout_seconds else ""
    lines.append(f"  takes     {takes}{ends}")
    places = sorted({reading.place for reading in planned.readings})
    lines.append(f"  keeps     a sealed record in {' or '.join(places)}, and what happened in the audit trail")
    return "\n".join([*lines, "Nothing outside that directory is touched."])


@drill.command("abort")
@click.argument("name", metavar="[DRILL]", required=False, shell_complete=completing.drills)
def abort(name: str | None) -> int:
    """Stop a drill that runs, by JOB/DRILL or id: it cleans up, proves it and ends within half a minute."""
    from backupctl.operations.plan import abort_drills

    context = open_context()
    output = output_of()
    for run in abort_drills(context, name):
        said = "is taken out of the queue" if run.state == "queued" else "cleans up and ends within half a minute"
        output.result("abort", f"{run.name} ({run.id[:8]}) {said}", drill=run.name, run=run.id, state=run.state)
    return 0


@drill.command("cleanup")
@click.argument("name", metavar="[DRILL|STAGING-HOST]", required=False, shell_complete=completing.staging_hosts)
def cleanup(name: str | None) -> int:
    """Remove what killed drills left on staging hosts: their processes and directories, nothing else."""
    from backupctl.operations.plan import clean_staging, staging_hosts

    context = open_context()
    for host in staging_hosts(context, name):
        removed = clean_staging(context, host)
        text = "\n".join(removed) or f"nothing was left behind on {host}"
        output_of().result("cleanup", text, host=host, removed=removed)
    return 0
