"""`status`: what should exist against what does."""

from __future__ import annotations

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, output_of
from backupctl.cli.session import open_context
from backupctl.cli.words import duration, short_hashes


@click.command(cls=Common)
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=completing.jobs)
def status(jobs: tuple[str, ...]) -> int:
    """Is the newest complete snapshot of each JOB younger than its RPO, in its repository and in each of its copies,
    judged from what is really there? When was that last checked, and the restore last rehearsed? Did everything start
    that the schedules promised, and what is paused?

    Exit code: 0 all fresh, 4 the last check or drill of something said `fail`, 6 something is stale, a copy too, was not
    read back in time, or was never started when it was due, 14 a repository could not be reached.
    """
    from backupctl.operations.status import repositories_of
    from backupctl.operations.status import status as look
    from backupctl.scheduling.planning import shown as clock_of
    from backupctl.scheduling.sweep import sweep

    context = open_context()
    output = output_of()
    chosen = [context.job(name) for name in jobs] if jobs else list(context.settings.jobs.values())
    found = look(context, chosen)
    rows = [
        one.fields()
        | {
            "newest_complete": one.newest,
            "age": _duration(one.age_seconds),
            "rpo": _duration(one.rpo_seconds),
            "drilled": f"{one.last_drill} (L{one.level})" if one.last_drill else "never",
        }
        for one in found
    ]
    columns = ("job", "state", "newest_complete", "age", "rpo", "snapshots", "last_run", "drilled")
    output.table("status", rows, columns, empty="no job is configured", right=("snapshots",))
    copies = [copy for one in found for copy in one.copies]
    if copies and not output.json_lines:  # with --json they are in their job's line
        output.result("gap", "")
        lines = [
            one.fields() | {"copy": one.repository, "newest_complete": one.newest, "age": _duration(one.age_seconds)}
            for one in copies
        ]
        shown = ("job", "copy", "state", "newest_complete", "age", "behind", "snapshots")
        output.table("copy", lines, shown, empty="", right=("behind", "snapshots"))
    checks = repositories_of(context, chosen)
    if rows and not output.json_lines:
        output.result("gap", "")
    if rows:
        lines = [
            one.fields()
            | {
                "checked": one.verdict or "never",
                "age": _duration(one.age_seconds),
                "within": _duration(one.within_seconds),
            }
            for one in checks
        ]
        heads = ("repository", "checked", "mode", "age", "read_or_written_since", "within")
        output.table("repository", lines, heads, empty="")
    now = context.clock.now()
    snapshots = {one.job: one.newest for one in found}
    names = {job.job for job in chosen}
    lapses = [
        one
        for one in sweep(context.settings, context.catalog, now, snapshots)
        if not jobs or one.job in names or (one.kind == "check" and any(one.name == each.repository for each in checks))
    ]
    paused = [one for one in context.catalog.pauses(at=now) if one.job in ("", *names)]
    refused = [one for one in context.catalog.schedulers() if one.refused]
    for pause in paused:
        zone = context.settings.defaults.timezone
        text = (
            f"{pause.job or 'everything'}: paused until {clock_of(pause.until, zone)} by {pause.owner}: {pause.reason}"
        )
        output.event("warning", text, job=pause.job, until=pause.until, reason=pause.reason, owner=pause.owner)
    for lapse in lapses:
        output.event(
            "warning",
            f"{lapse.kind} {lapse.name}: {lapse.what}: {lapse.message}",
            job=lapse.job,
            kind=lapse.kind,
            name=lapse.name,
            lapse=lapse.what,
            scheduled=lapse.scheduled,
        )
    for service in refused:
        host = service.worker.partition(" ")[0]
        text = f"`serve` on {host} runs an old configuration, it refused the new one: {service.refused}"
        output.event("warning", text, host=host, refused=service.refused)
    if not output.json_lines:
        notes = [(one.job, note) for one in found for note in one.notes]
        notes += [(copy.repository, note) for copy in copies for note in copy.notes]
        for subject, note in notes + [(one.repository, note) for one in checks for note in one.notes]:
            output.event("warning", f"{subject}: {short_hashes(note)}")
    states = {one.state for one in found} | {copy.state for copy in copies}
    if any(one.verdict == "fail" for one in checks) or any(one.last_drill == "fail" for one in found):
        return 4
    missed = any(one.unread for one in checks) or any(one.grave for one in lapses)
    return 6 if "stale" in states or missed else 14 if "unreachable" in states else 0


def _duration(seconds: float | None) -> str | None:
    return None if seconds is None else duration(seconds)
