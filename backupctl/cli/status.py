"""`status`: what should exist against what does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from backupctl.cli import completing
from backupctl.cli.main import Common, output_of
from backupctl.cli.output import Output
from backupctl.cli.session import open_context
from backupctl.cli.words import duration, short_hashes
from backupctl.errors import UserError

if TYPE_CHECKING:
    from backupctl.scheduling.standing import Standing


@click.command(cls=Common)
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=completing.jobs)
@click.option(
    "--read-only",
    is_flag=True,
    help="Use the configuration, the read key and the repositories, and nothing else: no catalog, and nothing is written.",
)
@click.option("--coverage", is_flag=True, help="Also ask the hosts what is in no job: databases, servers, directories.")
@click.option("--nagios", is_flag=True, help="One line and the exit codes of a monitoring plugin: 0, 1, 2, 3.")
@click.option(
    "--textfile",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write metrics for Prometheus there, whole or not at all; the name must end in .prom.",
)
def status(jobs: tuple[str, ...], read_only: bool, coverage: bool, nagios: bool, textfile: Path | None) -> int:
    """Is the newest complete snapshot of each JOB younger than its RPO, in its repository and in each of its copies,
    judged from what is really there? When was that last checked, and the restore last rehearsed? Until when can nobody
    delete it, and what is held? Did everything start that the schedules promised, and what is paused?

    Exit code: 0 all well, 4 the last check or drill of something said `fail`, 6 an objective is missed: something is stale,
    a copy too, was not read back in time, took too long to restore, is not locked although it should be, was never started
    when it was due, or is protected by no job; 14 something could not be asked; 3 a snapshot looks attacked, and nobody has
    looked at it.
    """
    if not nagios:
        return _status(jobs, read_only, coverage, False, textfile)
    try:
        return _status(jobs, read_only, coverage, True, textfile)
    except (UserError, OSError) as error:  # a plugin answers on stdout, and says what it does not know
        message = error.message if isinstance(error, UserError) else str(error)
        output_of().result("nagios", f"BACKUPCTL UNKNOWN - {' '.join(message.split())}", code=3)
        return 3


def _status(jobs: tuple[str, ...], read_only: bool, coverage: bool, plugin: bool, textfile: Path | None) -> int:
    from backupctl.scheduling.standing import nagios, standing

    context = open_context(read_only=read_only)
    chosen = [context.job(name) for name in jobs] if jobs else list(context.settings.jobs.values())
    found = standing(context, chosen, everything=not jobs, around=coverage)
    if textfile is not None:
        from backupctl.scheduling.metrics import write_textfile

        write_textfile(textfile, found)
    if plugin:
        code, line = nagios(found)
        output_of().result("nagios", line, code=code, text=line)
        return code
    _show(output_of(), found, context.settings.defaults.timezone)
    return found.code


def _show(output: Output, found: Standing, zone: str) -> None:
    rows = [
        one.fields()
        | {
            "newest_complete": one.newest,
            "age": _duration(one.age_seconds),
            "rpo": _duration(one.rpo_seconds),
            "drilled": f"{one.last_drill} (L{one.level})" if one.last_drill else "never",
        }
        for one in found.jobs
    ]
    columns = ("job", "state", "newest_complete", "age", "rpo", "snapshots", "last_run", "drilled")
    output.table("status", rows, columns, empty="no job is configured", right=("snapshots",))
    if found.copies and not output.json_lines:  # with --json they are in their job's line
        output.result("gap", "")
        lines = [
            one.fields() | {"copy": one.repository, "newest_complete": one.newest, "age": _duration(one.age_seconds)}
            for one in found.copies
        ]
        shown = ("job", "copy", "state", "newest_complete", "age", "behind", "snapshots")
        output.table("copy", lines, shown, empty="", right=("behind", "snapshots"))
    if rows:
        _show_repositories(output, found)
    if found.standbys:
        from backupctl.cli.standby import show_standbys

        if not output.json_lines:
            output.result("gap", "")
        show_standbys(found.standbys)
    _show_coverage(output, found)
    _show_schedule(output, found, zone)
    if not output.json_lines:
        for job in found.jobs:
            for fact in job.facts:
                output.result("fact", f"{job.job}: {short_hashes(fact)}")
        for subject, note in found.notes():
            output.event("warning", f"{subject}: {short_hashes(note)}")
    else:
        for record in found.unreadable:
            output.event("warning", record)
        output.result(
            "standing",
            "",
            code=found.code,
            missed=list(found.missed()),
            bad=list(found.bad()),
            suspicious=list(found.suspicious()),
        )


def _show_repositories(output: Output, found: Standing) -> None:
    if not output.json_lines:
        output.result("gap", "")
    lines = [
        one.fields()
        | {
            "checked": one.verdict or "never",
            "age": _duration(one.age_seconds),
            "within": _duration(one.within_seconds),
        }
        for one in found.repositories
    ]
    heads = ["repository", "checked", "mode", "age", "read_or_written_since", "within", "holds"]
    if any(one.lock_days for one in found.repositories):
        heads.insert(-1, "locked_until")
    output.table("repository", lines, heads, empty="", right=("holds",))


def _show_coverage(output: Output, found: Standing) -> None:
    if found.coverage is None:
        return
    if not output.json_lines:
        output.result("gap", "")
    rows = [
        {"host": one.host, "kind": one.kind, "name": one.name, "message": one.message, "accept": one.key}
        for one in found.coverage.unprotected
    ]
    hosts = ", ".join(found.coverage.hosts)
    empty = f"everything found on {hosts} is in some job" if hosts else "no host to look at"
    if found.coverage.accepted:
        empty += f", or left out on purpose ({found.coverage.accepted})"
    output.table("unprotected", rows, ("host", "kind", "name", "message"), empty=empty)
    for host, why in found.coverage.unknown:
        output.event("warning", f"{host}: what is there is not known: {why}", host=host)


def _show_schedule(output: Output, found: Standing, zone: str) -> None:
    from backupctl.scheduling.planning import shown as clock_of

    for pause in found.pauses:
        what = pause.job or "everything"
        text = f"{what}: paused until {clock_of(pause.until, zone)} by {pause.owner}: {pause.reason}"
        output.event("warning", text, job=pause.job, until=pause.until, reason=pause.reason, owner=pause.owner)
    for lapse in found.lapses:
        output.event(
            "warning",
            f"{lapse.kind} {lapse.name}: {lapse.what}: {lapse.message}",
            job=lapse.job,
            kind=lapse.kind,
            name=lapse.name,
            lapse=lapse.what,
            scheduled=lapse.scheduled,
        )
    for service in found.refused:
        host = service.worker.partition(" ")[0]
        text = f"`serve` on {host} runs an old configuration, it refused the new one: {service.refused}"
        output.event("warning", text, host=host, refused=service.refused)


def _duration(seconds: float | None) -> str | None:
    return None if seconds is None else duration(seconds)
