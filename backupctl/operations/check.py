"""Read a repository and say whether it is whole. The verdict is the exit code: pass 0, fail 4; could not read it at all: 5."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from backupctl.catalog.models import Check, Run
from backupctl.config.durations import format_duration
from backupctl.config.models import CheckSettings
from backupctl.errors import CouldNotRunError, NoSuchError, UserError
from backupctl.hosts.sizes import parse_size
from backupctl.hosts.workers import WorkerDiedError
from backupctl.operations.context import Context
from backupctl.operations.execute import Outcome
from backupctl.operations.log_check import LogReport, check_logs
from backupctl.operations.log_gaps import Backups
from backupctl.operations.packs import PACK_NAME
from backupctl.operations.records import readable, save_json
from backupctl.repository.check import CheckReport, check
from backupctl.repository.check_trees import COUNTED_PATHS, SHOWN_PATHS, CheckProblem
from backupctl.repository.ledger import Coverage, Ledger, is_missed
from backupctl.repository.log_archive import PREFIX, list_objects
from backupctl.repository.repository import Repository


def run_check(context: Context, run: Run) -> Outcome:
    """`run.options`: {"read_data": bool, "budget": "5GiB" | "10%", "all_paths": bool}; without either of the first two, as
    a schedule asks, what the configuration says. Records the check in the catalog and, sealed, in the repository."""
    name = run.name
    if name not in context.settings.repositories:
        known = ", ".join(sorted(context.settings.repositories)) or "none"
        raise NoSuchError(f"no repository named {name!r}; known: {known}", next_step="backupctl config show")
    read_data, budget = _extent(run.options, context.settings.repositories[name].check)
    all_paths = bool(run.options.get("all_paths"))
    started = context.clock.now()
    repository = context.resources.repository(name)

    def progress(done: int, total: int) -> None:
        context.reporter.progress("checking", done, total)

    with repository.lock(settled=False):  # `check` settles it
        report, logs = _check(repository, read_data, budget, all_paths, progress)
    verdict = "fail" if report.problems else "pass"
    if not report.problems and report.snapshots == 0:
        # an empty repository proves nothing
        raise CouldNotRunError(
            f"repository {name} holds no snapshot: there is nothing to check", next_step="backupctl run"
        )
    for problem in report.problems:
        context.reporter.event(
            "problem", told(problem), verdict=verdict, **(facts_of(problem) | {"paths": problem.paths})
        )
    for hint in report.hints:
        context.reporter.event("hint", hint)
    for step in repairs(name, report):
        context.reporter.event("next", f"next: {step}", repository=name)
    finished = context.clock.now()
    row = Check(
        id=run.id,
        repository=name,
        mode="read-data" if read_data else "budget" if budget else "structure",
        started=started,
        finished=finished,
        verdict=verdict,
        snapshots=report.snapshots,
        packs=report.packs,
        pack_bytes=report.pack_bytes + logs.bytes,
        bytes_read=report.bytes_read,
        problems=[{"message": one.message, **facts_of(one)} for one in report.problems],
        coverage=report.coverage.fields(),
    )
    facts = {column.name: getattr(row, column.name) for column in Check.__table__.columns if column.name != "record"}
    facts |= {"started": started.isoformat(), "finished": finished.isoformat()}
    try:
        row.record = save_json(repository, "check", facts)
    except UserError as error:
        # a store that can be read and not written changes nothing in what was found
        context.reporter.event("warning", f"the check's record could not be stored beside the data: {error}")
    context.catalog.add_check(row)
    return Outcome(
        state="complete",
        exit_code=4 if report.problems else 0,
        verdict=verdict,
        message=f"{len(report.problems)} problem(s)" if report.problems else "",
        repository=name,
        summary={
            "mode": row.mode,
            "snapshots": report.snapshots,
            "packs": report.packs,
            "packs_read": report.packs_read,
            "log_segments": len(logs.objects),
            "log_segments_read": logs.objects_read,
            "bytes_read": report.bytes_read,
            "problems": len(report.problems),
            "read_or_written_since": row.coverage["oldest"],
            "never_read_bytes": report.coverage.never_read_bytes,
        },
    )


def _extent(options: dict[str, Any], configured: CheckSettings | None) -> tuple[bool, str]:
    """(every byte?, budget or "")."""
    if "read_data" in options or "budget" in options:
        return bool(options.get("read_data")), str(options.get("budget") or "")
    if configured is None:
        return False, ""
    return configured.read_data, configured.budget or ""


def _check(
    repository: Repository, read_data: bool, budget: str, all_paths: bool, progress: Any
) -> tuple[CheckReport, LogReport]:
    """Archived logs first: what of them is bad stands in the report, too. A budget is divided by what there is of each."""
    objects = list_objects(repository)
    log_bytes = sum(one.size for one in objects)
    limit = _budget_bytes(repository, budget, log_bytes) if budget else None
    part = limit * log_bytes // max(1, log_bytes + _data_bytes(repository)) if limit is not None and objects else 0
    ledger = Ledger(repository)
    logs = LogReport()
    if objects:
        backups = Backups.read(repository, readable(repository, []))
        logs = check_logs(
            repository, objects, backups, ledger, read_data=read_data, budget=part if limit is not None else None
        )
    try:
        report = check(
            repository,
            read_data=read_data,
            budget=limit - part if limit is not None else None,
            all_paths=all_paths,
            progress=progress,
            ledger=ledger,
            beside=logs.objects,
        )
    except WorkerDiedError as error:
        raise CouldNotRunError(
            f"the check broke off: {error}",
            next_step="most likely memory ran out; read in this process alone: BACKUPCTL_WORKERS=0 backupctl check",
        ) from None
    report.problems += logs.problems
    report.hints += logs.hints
    report.bytes_read += logs.bytes_read
    return report, logs


def _data_bytes(repository: Repository) -> int:
    return sum(one.size for one in repository.store.list("data/"))


def _budget_bytes(repository: Repository, budget: str, log_bytes: int) -> int:
    if not budget.endswith("%"):
        return parse_size(budget)
    return int((_data_bytes(repository) + log_bytes) * float(budget[:-1]) / 100)


def facts_of(problem: CheckProblem) -> dict[str, Any]:
    """With the first paths only: a catalog is no place for a million of them."""
    return {
        "object": problem.object_name,
        "problem": problem.message,
        "snapshots": list(problem.snapshots),
        "paths": problem.paths[:SHOWN_PATHS],
        "path_count": problem.path_count,
    }


def told(problem: CheckProblem) -> str:
    """The problem, the snapshots and the paths it hits, in a sentence."""
    text = problem.message if problem.object_name in problem.message else f"{problem.object_name}: {problem.message}"
    if problem.snapshots:
        text += f" (hits snapshots {', '.join(one[:8] for one in problem.snapshots)}"
        if problem.paths:
            text += f": {', '.join(problem.paths)}"
            more = problem.path_count - len(problem.paths)
            at_least = "at least " if problem.path_count >= COUNTED_PATHS > len(problem.paths) else ""
            text += f" and {at_least}{more} more" if more > 0 else ""
        text += ")"
    return text


def repairs(name: str, report: CheckReport) -> list[str]:
    """What to type against these problems, each with its reason; the first first. None helps against a damaged key or
    record, and none brings back what an archived log has lost."""
    objects = {problem.object_name for problem in report.problems}
    unlisted = any(hint.endswith("is in no index") for hint in report.hints)
    blobs = any(one.startswith(("tree/", "data/")) and not PACK_NAME.fullmatch(one) for one in objects)
    steps = []
    if any(one.startswith("index/") for one in objects) or (blobs and unlisted):
        steps.append(f"backupctl repair index {name}")
    elif blobs or any(map(PACK_NAME.fullmatch, objects)):
        steps.append(f"backupctl repair packs {name}")
    steps += [
        f"find out what it was, then let it go: backupctl repair snapshots {name} {one.removeprefix('snapshots/')[:8]} --forget"
        for one in sorted(objects)
        if one.startswith("snapshots/")
    ]
    if any(one.startswith(PREFIX) for one in objects):
        steps.append("back up these databases again, a new backup begins a new chain of logs: backupctl run")
    return steps


def coverage_now(context: Context, name: str) -> Coverage:
    """When every byte of the repository was last read, by its own records and listing."""
    repository = context.resources.repository(name)
    index = repository.index
    sizes: dict[bytes, int] = {}
    written = {}
    for info in repository.store.list("data/"):
        if PACK_NAME.fullmatch(info.name) and (pack := bytes.fromhex(info.name.rpartition("/")[2])) in index.packs:
            sizes[pack], written[pack] = info.size, info.modified
    for one in list_objects(repository):
        sizes[one.id], written[one.id] = one.size, one.modified
    return Ledger(repository).coverage(sizes, written)


def missed_reading(context: Context, name: str, oldest: datetime | None, within: timedelta) -> str:
    """Why the objective `within` is missed, and what to type; "" when it is not. `oldest`: since when every stored byte was
    read or written, None when none is stored."""
    if oldest is None or not is_missed(oldest, within, context.clock.now()):
        return ""
    settings = context.settings.repositories[name].check
    how = f"--budget {settings.budget}" if settings is not None and settings.budget else "--read-data"
    return (
        f"some stored bytes have not been read for {format_duration(context.clock.now() - oldest)}, the objective is"
        f" {format_duration(within)}; backupctl check {how} {name}"
    )
