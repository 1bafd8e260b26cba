"""One code path for every run, whoever dispatched it: look at its kind, do it, then tell those who asked to be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

from backupctl.catalog.models import ANOMALY, Finding, Notice, Run
from backupctl.errors import UsageError
from backupctl.notify.notices import SUSPICIOUS, NoticeEvent
from backupctl.operations.context import Context
from backupctl.operations.notices import tell, told_name

FINDING = ANOMALY

DUE_DAYS = {"critical": 1, "major": 7, "minor": 30}
"""When a finding of this severity should be closed: our default, shown in the report beside the owner."""


@dataclass(slots=True)
class Outcome:
    """How a run ended. `verdict` only for checks and drills; `transient`: it did not succeed, and may when tried again
    later; `bug` is an exception nobody expected."""

    state: str
    exit_code: int
    message: str = ""
    verdict: str = ""
    job: str = ""
    repository: str = ""
    snapshot: str = ""
    problems: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    transient: bool = False
    suspicion: str = ""  # why its snapshot is suspicious; the run itself may have gone well
    bug: BaseException | None = None

    @property
    def success(self) -> bool:
        return self.exit_code == 0 and self.state == "complete"


def run(context: Context, run: Run) -> Outcome:
    """Do what the claimed run stands for. UserError and signals pass through; the worker closes the run either way."""
    if run.kind == "backup":
        from backupctl.operations.backup import run_backup

        return run_backup(context, run)
    if run.kind == "check":
        from backupctl.operations.check import run_check

        return run_check(context, run)
    if run.kind == "drill":
        from backupctl.operations.drill import run_drill_of

        return run_drill_of(context, run)
    if run.kind == "stretch":
        from backupctl.operations.dividing import run_stretch

        return run_stretch(context, run)
    if run.kind in ("prune", "copy", "refresh"):
        from backupctl.operations import following

        steps = {"prune": following.run_prune, "copy": following.run_copy, "refresh": following.run_refresh}
        return steps[run.kind](context, run)
    raise UsageError(f"run {run.id} has the unknown kind {run.kind!r}", next_step="upgrade backupctl on this machine")


def after(context: Context, run: Run, outcome: Outcome) -> None:
    """Findings and notices for a closed run. Neither changes what the run was. A helper's are those of the run it helped."""
    if run.kind == "stretch":
        return
    job = run.name.partition("/")[0] if run.kind != "check" else ""
    _keep_findings(context, run, outcome, job)
    context.audit(f"{run.kind}.finished", run.name, run=run.id, state=outcome.state, verdict=outcome.verdict)
    if outcome.state == "cancelled":
        return
    event = NoticeEvent(
        kind=run.kind,
        name=told_name(context, job, run.name),
        outcome=SUSPICIOUS if outcome.suspicion and outcome.state == "complete" else outcome.state,
        verdict=outcome.verdict,
        run=run.id,
        scheduled=run.scheduled,
        at=context.clock.now(),
        success=outcome.success,
    )
    for notice in tell(context, job, event):
        if notice.error:
            context.reporter.event(
                "warning",
                f"notice over {notice.channel} ({notice.kind}) was not delivered: {notice.error}; {_next(notice)}",
                run=run.id,
            )


def _next(notice: Notice) -> str:
    return "it will be tried again" if notice.state == "queued" else "it will not be tried again"


def _keep_findings(context: Context, run: Run, outcome: Outcome, job: str) -> None:
    subject = job or run.name
    if outcome.suspicion:
        _open_finding(context, run, job, FINDING, "critical", f"{run.name}: a suspicious snapshot", outcome.suspicion)
        if outcome.state == "complete" and not any(one["error"] for one in outcome.summary.get("copies", ())):
            context.catalog.close_findings(subject, run.kind, closure=f"run {run.id} is complete")
            return
    if outcome.success:
        context.catalog.close_findings(subject, run.kind, closure=f"run {run.id} succeeded")
        return
    if outcome.state in ("cancelled", "skipped"):
        return
    severity = "critical" if outcome.verdict == "fail" or outcome.state == "failed" else "major"
    if outcome.verdict in ("inconclusive", "stale", "skipped"):
        severity = "major"
    ended = "complete, with warnings" if outcome.state == "complete" else outcome.state
    title = f"{run.kind} of {run.name}: {outcome.verdict or ended}"
    _open_finding(context, run, job, run.kind, severity, title, outcome.message)


def _open_finding(context: Context, run: Run, job: str, source: str, severity: str, title: str, detail: str) -> None:
    configured = context.settings.jobs.get(job)
    now = context.clock.now()
    context.catalog.open_finding(
        Finding(
            id=str(uuid4()),
            source=source,
            run=run.id,
            job=job or run.name,
            severity=severity,
            title=title,
            detail=detail,
            owner=configured.owner if configured is not None else "",
            opened=now,
            due=now + timedelta(days=DUE_DAYS[severity]),
        )
    )
