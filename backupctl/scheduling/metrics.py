"""Where everything stands as Prometheus reads it: the text exposition format 0.0.4, for the endpoint of `serve` and for the
textfile collector of node_exporter. Names and numbers only: no message, path, address or secret gets into a label.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from backupctl import __version__
from backupctl.catalog.models import RUN_STATES, VERDICTS
from backupctl.errors import UsageError
from backupctl.operations.repository_status import RepositoryStatus
from backupctl.operations.status import CopyStatus, DrillStatus, JobStatus
from backupctl.scheduling.standing import Standing

STATES = ("ok", "stale", "unreachable")
STANDBY_STATES = ("ok", "behind", "never", "promoted", "unreachable")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class Family:
    """One metric, a gauge: what it says, and its samples as (labels, value)."""

    name: str
    help: str
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)

    def add(self, value: float | datetime | None, **labels: str) -> None:
        """None adds nothing: a number that is not known is absent, never 0."""
        if value is not None:
            self.samples.append((labels, value.timestamp() if isinstance(value, datetime) else float(value)))

    def one_of(self, value: str, values: tuple[str, ...], label: str, **labels: str) -> None:
        """1 for the value that it has, 0 for the others; nothing when it has none."""
        if value:
            for each in values:
                self.add(each == value, **labels, **{label: each})

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} gauge"
        for labels, value in self.samples:
            inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            yield f"{self.name}{{{inner}}} {value!r}" if inner else f"{self.name} {value!r}"


class Families:
    """In the order of their first use."""

    def __init__(self) -> None:
        self.by_name: dict[str, Family] = {}

    def __call__(self, name: str, text: str) -> Family:
        name = f"backupctl_{name}"
        return self.by_name.setdefault(name, Family(name, text))


def exposition(found: Standing) -> str:
    of = Families()
    of("build_info", "The version, in a label; always 1.").add(1, version=__version__)
    of("judged_time_seconds", "When this was judged, since the epoch.").add(found.judged)
    of(
        "exit_code",
        "What `backupctl status` ends in: 0 well, 3 looks attacked, 4 bad, 6 an objective missed, 14 not to be asked.",
    ).add(found.code)
    of("objectives_missed", "How many objectives are missed.").add(len(list(found.missed())))
    for job in found.jobs:
        _place(of, job, job.repository, "no")
        of("job_rpo_seconds", "How much work may be lost.").add(job.rpo_seconds, job=job.job)
        of("job_rto_seconds", "How long a recovery may take.").add(job.rto_seconds, job=job.job)
        seen = of(
            "job_suspicious", "Snapshots that look attacked and that nobody has looked at; absent when not asked."
        )
        seen.add(job.suspicious if job.state != "unreachable" else None, job=job.job)
        _run(of, job)
    for copy in found.copies:
        _place(of, copy, copy.repository, "yes")
        of("copy_behind_snapshots", "Complete snapshots of the primary that the copy lacks.").add(
            copy.behind, job=copy.job, repository=copy.repository
        )
    for drill in found.drills:
        _drill(of, drill)
    for repository in found.repositories:
        _repository(of, repository)
    for standby in found.standbys:
        where = {"standby": standby.standby, "job": standby.job}
        of(
            "standby_state",
            "1 for the state of a job on a standby, or of a server as JOB/SOURCE: ok, behind, never, promoted, unreachable.",
        ).one_of(standby.state, STANDBY_STATES, "state", **where)
        of(
            "standby_lag_seconds",
            "From what lies on a standby to the newest complete backup; of a server to the last stored commit.",
        ).add(standby.lag_seconds, **where)
        of("standby_refreshed_time_seconds", "When a standby was last changed, since the epoch.").add(
            standby.refreshed, **where
        )
    lapses = of("lapse", "Something that a schedule promised and that did not happen; 1 each.")
    for kind, name, what in sorted({(one.kind, one.name, one.what) for one in found.lapses}):
        lapses.add(1, kind=kind, name=name, what=what)
    paused = of("paused_until_seconds", "Until when a job is paused, since the epoch; job is empty for all of them.")
    for job_name in sorted({one.job for one in found.pauses}):
        paused.add(max(one.until for one in found.pauses if one.job == job_name), job=job_name)
    if found.coverage is not None:
        unprotected = of("unprotected", "Databases, servers and directories of a host that are in no job.")
        for host in found.coverage.hosts:
            unprotected.add(sum(one.host == host for one in found.coverage.unprotected), host=host)
    return "".join(f"{line}\n" for family in of.by_name.values() for line in family.lines())


def _place(of: Families, one: JobStatus | CopyStatus, repository: str, copy: str) -> None:
    where = {"job": one.job, "repository": repository, "copy": copy}
    state = of("job_state", "1 for the state that a job is in, in a repository: ok, stale, unreachable.")
    state.one_of(one.state, STATES, "state", **where)
    newest = of("snapshot_time_seconds", "Time of the newest complete snapshot, since the epoch; absent without one.")
    newest.add(one.newest, **where)
    if one.state != "unreachable":
        of("snapshots", "Snapshots of a job in a repository.").add(one.snapshots, **where)


def _run(of: Families, job: JobStatus) -> None:
    of("last_run_state", "1 for the state of the newest run of a job.").one_of(
        job.last_run, RUN_STATES, "state", job=job.job
    )
    run = job.run
    if run is None or run.finished is None:
        return
    of("last_run_finished_time_seconds", "When the newest run ended, since the epoch.").add(run.finished, job=job.job)
    of("last_run_exit_code", "The exit code of the newest run.").add(run.exit_code, job=job.job)
    if run.started is not None:
        seconds = (run.finished - run.started).total_seconds()
        of("last_run_duration_seconds", "How long the newest run took.").add(seconds, job=job.job)
    for key, name, text in (
        ("bytes", "last_run_source_bytes", "Bytes in the sources at the newest run."),
        ("stored_bytes", "last_run_stored_bytes", "Bytes that the newest run added to the repository."),
        ("files", "last_run_files", "Files in the sources at the newest run."),
    ):
        value = run.summary.get(key)
        of(name, text).add(value if isinstance(value, int | float) else None, job=job.job)


def _drill(of: Families, drill: DrillStatus) -> None:
    where = {"job": drill.job, "drill": drill.drill}
    of("drill_verdict", "1 for the verdict of the last time that a drill ran; absent when it never did.").one_of(
        drill.verdict, VERDICTS, "verdict", **where
    )
    of("drill_time_seconds", "When a drill last ran, since the epoch.").add(drill.declared, **where)
    of("drill_level", "The proof level that it reached, 0 to 6.").add(drill.level, **where)
    of("drill_rto_seconds", "How long its recovery took.").add(drill.rto_seconds, **where)
    of("drill_rpo_seconds", "How much work would have been lost.").add(drill.rpo_seconds, **where)


def _repository(of: Families, one: RepositoryStatus) -> None:
    where = {"repository": one.repository}
    of("check_verdict", "1 for the verdict of the last check of a repository; absent without one.").one_of(
        one.verdict, ("pass", "fail"), "verdict", **where
    )
    of("check_time_seconds", "When a repository was last checked, since the epoch.").add(one.checked_at, **where)
    of("check_problems", "What the last check found.").add(one.problems if one.verdict else None, **where)
    of("read_since_time_seconds", "Every stored byte was read or written since then.").add(
        one.read_or_written_since, **where
    )
    of("never_read_bytes", "Stored bytes that were never read back.").add(one.never_read_bytes, **where)
    of("locked_until_seconds", "When the first object in use can be deleted again, since the epoch.").add(
        one.locked_until, **where
    )
    of("lock_missing", "1 when something that should be locked is not.").add(
        one.unlocked if one.lock_days is not None else None, **where
    )
    of("holds", "Snapshots on hold that nobody may expire.").add(one.holds, **where)


def write_textfile(path: Path, found: Standing) -> None:
    """The metrics as a file, renamed into place when all of it is written: a collector reads the old or the new one. Raises
    UsageError for a name that node_exporter would pass over, OSError when it cannot be written."""
    if path.suffix != ".prom":
        raise UsageError(
            f"{path}: node_exporter reads files that end in .prom only",
            next_step=f"--textfile {path.with_suffix('.prom')}",
        )
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(file, 0o644)  # the collector is another account, and nothing in it is secret
        with os.fdopen(file, "w", encoding="utf-8") as opened:
            opened.write(exposition(found))
            opened.flush()
            os.fsync(opened.fileno())
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
