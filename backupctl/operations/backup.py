"""One backup run: every source of the job into one snapshot, with the facts that prove it later.

Commit order: packs → index → manifest → fingerprint → snapshot, the snapshot last. A crash before it leaves objects that
no snapshot refers to; the next run goes on from them: packs in no index are taken up, and files that a `partial` record names
are not read again. Just before the snapshot the catalog is asked whether the run is still ours; a worker that was presumed
dead and wakes up is refused there.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from backupctl import __version__
from backupctl.catalog.catalog import FencedError
from backupctl.catalog.models import Run, SnapshotRow
from backupctl.clock import iso, parse_iso
from backupctl.config.models import Job
from backupctl.drills.interlocks import machine_hash
from backupctl.errors import (
    DamageError,
    IncompleteError,
    LockedError,
    NoSuchError,
    SourceError,
    StorageError,
    StoreUnreachableError,
    UserError,
)
from backupctl.governance.anomalies import WORTH_A_NOTE, Judgement
from backupctl.operations.anomalies import Parent, assess
from backupctl.operations.context import Context
from backupctl.operations.drawing import commit as commit_draws
from backupctl.operations.execute import Outcome
from backupctl.operations.hooks import around
from backupctl.operations.memory import want_of_memory
from backupctl.operations.packs import settle_packs
from backupctl.operations.records import TREE_DIGITS, SnapshotTags, fingerprint_of, of_job, save_json, source_rows
from backupctl.repository.commit import commit_once, decided
from backupctl.repository.entry import Problem
from backupctl.repository.fence import require_epoch
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.manifest import read_manifest
from backupctl.repository.partial import PartialKeeper
from backupctl.repository.repository import Repository
from backupctl.repository.writer import SnapshotWriter
from backupctl.sources.protocol import DividedSession, StreamSession, TreeSession, WarningSession


def run_backup(context: Context, run: Run) -> Outcome:
    """Complete (exit 0), incomplete (3: the snapshot exists and says what it lacks), or failed (nothing was kept).

    Raises UserError for what stops the whole run: no such job, a repository that cannot be opened, locked or written."""
    job = context.job(run.name)
    repository = context.resources.repository(job.repository)
    require_epoch(repository, job.job, job.epoch)
    started = context.clock.now()
    with repository.lock(settled=False):  # reading begins while it settles
        if job.hooks:
            repository.settle_locks()  # nothing is stopped for a run that may not be
        before = decided(repository, run.id) if run.options.get("taken_over") else None
        if before is not None:
            return _go_on_from(context, run, job, repository, before)
        _, adopted = settle_packs(context, job.repository, repository, again="read and stored again", job=job.job)
        if adopted.packs:
            text = f"taking up {adopted.packs} pack(s), {adopted.bytes:,} bytes, that an interrupted run has uploaded"
            context.reporter.event("note", text, job=job.job, run=run.id)
        base = _parent(context, repository, job)
        parent, parent_manifest = base.snapshot, base.manifest
        keeper = PartialKeeper(repository, job.job, run.id, parent)
        left = keeper.find()
        if left is not None:
            text = f"going on from what run {left.run} had read when it was interrupted, as of {iso(left.time)}"
            context.reporter.event("note", text, job=job.job, run=run.id)

        def progress(files: int, done: int, path: bytes) -> None:
            context.reporter.progress("backing up", done, None, item=path.decode("utf-8", "backslashreplace"))

        with SnapshotWriter(
            repository,
            parent=parent,
            parent_manifest=parent_manifest,
            resume=left.facts if left is not None else None,
            save_partial=keeper.save,
            progress=progress,
            clock=context.clock,
        ) as writer:
            warnings: list[str] = []
            with around(context, run, job, warnings) as states:
                facts, problems, transient = _read_sources(context, run, job, repository, base, writer, warnings)
                states.append("incomplete" if problems else "complete")
            if not facts:
                error = SourceError(
                    f"no source of job {job.job} could be read: {problems[0].message if problems else 'it has none'}",
                    source=problems[0].source if problems else "",
                    next_step=f"backupctl job check {job.job}",
                )
                error.transient = transient
                raise error
            written = writer.finish()
            assessed = assess(job, repository, base, written, writer.looks, facts, problems)
            notes = [*writer.notes, *assessed.notes]
        complete = not problems
        earliest = min(parse_iso(one["data_time"]) for one in facts.values())
        summary = asdict(written.stats)
        record = {
            "job": job.job,
            "run": run.id,
            "scheduled": iso(run.scheduled),
            "time": iso(earliest),
            "status": "complete" if complete else "incomplete",
            "repository": job.repository,
            "program": f"backupctl {__version__}",
            "sources": facts,
            "problems": [asdict(one) for one in problems],
            "manifest": written.manifest,
            "summary": summary,
            "anomalies": assessed.record,
        }
        fingerprint = save_json(repository, "fingerprint", record)
        tree = written.tree.hex()[:TREE_DIGITS]
        tags = SnapshotTags(
            True, job.job, run.id, fingerprint, complete=complete, tree=tree, suspicious=assessed.judgement.suspicious
        )
        snapshot = Snapshot(
            time=earliest,
            parent=parent.id if parent is not None else "",
            tree=written.tree,
            paths=[f"/{name}" for name in sorted(facts)],
            hostname=job.job,
            username="backupctl",
            tags=tags.encode(),
            program_version=f"backupctl {__version__}",
            summary={"backup_start": iso(started), "backup_end": iso(context.clock.now()), **summary},
        )
        stored = _commit(context, run, repository, snapshot)
        if SnapshotTags.of(stored) != tags:  # another worker of this run was faster
            return _go_on_from(context, run, job, repository, stored)
        keeper.clear()
    commit_draws(context, job)  # long before anybody knows what the next drill will choose from
    _remember(context, run, job, stored, record)
    for note in notes:
        context.reporter.event("note", note, job=job.job, run=run.id)
    outcome = _outcome(job, stored, record)
    outcome.summary |= {"resumed_files": written.resumed_files, "resumed_bytes": written.resumed_bytes}
    _tell_signals(context, run, stored.id, assessed.judgement, outcome)
    _tell_warnings(outcome, warnings)
    outcome.transient = transient
    return _copied(context, run, job, outcome)


def _tell_warnings(outcome: Outcome, warnings: list[str]) -> None:
    """What went wrong beside the data: the snapshot is what it is, and somebody should look."""
    if warnings:
        outcome.exit_code = outcome.exit_code or IncompleteError.exit_code
        outcome.message = "; ".join(filter(None, (outcome.message, *warnings)))


def _copied(context: Context, run: Run, job: Job, outcome: Outcome) -> Outcome:
    if not job.copies:
        return outcome
    if run.trigger != "manual" and job.schedule is not None and "copy" in job.schedule.then:
        return outcome  # the schedule copies later, in a run of its own
    from backupctl.operations.copy import after_run, with_copies  # brings `check`, and what is known of archived logs

    return with_copies(outcome, after_run(context, job, run))


def _commit(context: Context, run: Run, repository: Repository, snapshot: Snapshot) -> Snapshot:
    """The run's snapshot, stored. In a fleet another machine may have taken the run over while we slept: there the store
    itself decides which snapshot it leaves."""

    job = context.job(run.name)

    def still_ours() -> None:
        context.catalog.guard(run.id, run.epoch)
        require_epoch(
            repository, job.job, job.epoch
        )  # a standby was promoted meanwhile: what was read is of the old primary

    if context.settings.fleet is not None:
        return commit_once(repository, snapshot, run.id, still_ours=still_ours)
    still_ours()
    repository.save_snapshot(snapshot)
    return snapshot


def _go_on_from(context: Context, run: Run, job: Job, repository: Repository, snapshot: Snapshot) -> Outcome:
    """The worker that had this run before has decided on its snapshot: ours is that one."""
    text = f"an earlier worker of this run has written snapshot {snapshot.id[:8]}: going on from there"
    context.reporter.event("note", text, job=job.job, run=run.id)
    record = fingerprint_of(repository, snapshot)
    stored = _commit(context, run, repository, snapshot)
    commit_draws(context, job)
    _remember(context, run, job, stored, record)
    outcome = _outcome(job, stored, record)
    outcome.summary |= {"resumed_files": 0, "resumed_bytes": 0}
    _tell_signals(context, run, stored.id, Judgement.of(record.get("anomalies", {})), outcome)
    return _copied(context, run, job, outcome)


def _read_sources(
    context: Context,
    run: Run,
    job: Job,
    repository: Repository,
    base: Parent,
    writer: SnapshotWriter,
    warnings: list[str],
) -> tuple[dict[str, Any], list[Problem], bool]:
    """Every source in byte order of its name. One that fails is named and does not stop the others: what the rest held
    is worth keeping, as `incomplete`. The last answer: is there a problem, and may every one of them be gone next time?"""
    facts: dict[str, Any] = {}
    problems: list[Problem] = []
    lasting = False
    for name in sorted(job.sources, key=str.encode):
        settings = job.sources[name]
        found: list[Problem] = []
        fingerprint: dict[str, Any] | None = None
        next_step, passing = "", False
        context.reporter.event(
            "source", f"reading {name} ({settings.kind} on {settings.host})", job=job.job, source=name
        )
        try:
            host = context.resources.host(settings.host)
            source = context.resources.source(job, name)
            with source.open(host, context.clock) as session:
                if isinstance(session, StreamSession):
                    found = writer.add_stream(name, session.stream())
                elif isinstance(session, DividedSession) and session.split is not None:
                    from backupctl.operations.dividing import add_divided  # in a fleet only

                    found = add_divided(
                        context, run, job, repository, writer, base.snapshot, base.manifest, name, session
                    )
                else:
                    entries = session.trees() if isinstance(session, TreeSession) else session.entries()
                    found = writer.add_source(name, entries)
                fingerprint = session.fingerprint()
            if isinstance(session, WarningSession):
                for warning in session.warnings:
                    warnings.append(f"{name}: {warning}")
                    context.reporter.event("warning", warnings[-1], job=job.job, source=name)
        except (StorageError, StoreUnreachableError, DamageError, LockedError, FencedError):
            raise  # the repository's or the run's, not the source's
        except (UserError, OSError) as error:  # OSError: no room for a private file on the source's host, and its like
            if want_of_memory(context.settings, job.job, error) is not None:
                raise  # the run's, not the source's
            # what went wrong while reading comes first: that there is no fingerprint is often only its consequence
            message, next_step = str(error), ""
            if isinstance(error, UserError):
                message, next_step = " ".join(error.message.split()), error.next_step
                passing = error.transient
            if not any(message in one.message for one in found):
                found.append(Problem(name, "", "failed", message))
        for problem in found:
            where = f"{name}/{problem.path}" if problem.path else name
            context.reporter.event(
                "problem", f"{where}: {problem.kind}: {problem.message}", job=job.job, **asdict(problem)
            )
        problems += found
        lasting |= bool(found) and not passing
        if fingerprint is None:
            if next_step:
                context.reporter.event("note", f"  next: {next_step}", job=job.job, source=name)
            continue
        # every session says when its view was opened; what is not proven newer than that counts as lost
        facts[name] = {
            "kind": settings.kind,
            "host": settings.host,
            "machine": machine_hash(host.facts()),  # a drill refuses to restore there
            "data_time": fingerprint["time"],
            "fingerprint": fingerprint,
        }
    return facts, problems, bool(problems) and not lasting


def _tell_signals(context: Context, run: Run, snapshot: str, judgement: Judgement, outcome: Outcome) -> None:
    """Nothing that looks like an attack stops a backup: it makes a complete run one with warnings (exit code 3)."""
    words = judgement.words
    if judgement.suspicious:
        outcome.suspicion = words
        outcome.exit_code = outcome.exit_code or IncompleteError.exit_code
        outcome.message = "; ".join(filter(None, (outcome.message, f"suspicious: {words}")))
        text = f"snapshot {snapshot[:8]} is suspicious: {words}"
        context.reporter.event("warning", text, job=outcome.job, run=run.id, snapshot=snapshot)
        context.reporter.event("note", f"  next: backupctl anomaly show {snapshot[:8]}", job=outcome.job)
    elif judgement.points >= WORTH_A_NOTE:
        context.reporter.event("note", f"unusual, but not suspicious: {words}", job=outcome.job, run=run.id)


def _parent(context: Context, repository: Repository, job: Job) -> Parent:
    """The job's newest snapshot, whose unchanged files need not be read again. Anything wrong with it costs time, not
    data: the run then reads everything, and says why."""
    try:
        mine = of_job(repository.snapshots(), job.job)
        if not mine:
            return Parent()
        facts = fingerprint_of(repository, mine[-1])
        return Parent(mine[-1], read_manifest(repository, facts["manifest"]), facts)
    except (DamageError, NoSuchError) as error:
        context.reporter.event("warning", f"reading every file again: {error.message}", job=job.job)
        return Parent()


def _remember(context: Context, run: Run, job: Job, snapshot: Snapshot, record: dict[str, Any]) -> None:
    context.catalog.add_snapshot(
        SnapshotRow(
            id=snapshot.id,
            repository=job.repository,
            job=job.job,
            run=run.id,
            time=snapshot.time,
            status="complete" if SnapshotTags.of(snapshot).complete else "incomplete",
            fingerprint=SnapshotTags.of(snapshot).fingerprint,
            sources=source_rows(record["sources"]),
            files=record["summary"]["total_files_processed"],
            bytes=record["summary"]["total_bytes_processed"],
            stored_bytes=record["summary"]["data_added_packed"],
        )
    )


def _outcome(job: Job, snapshot: Snapshot, record: dict[str, Any]) -> Outcome:
    stats, problems = record["summary"], record["problems"]
    first = ""
    if problems:
        where = PurePosixPath(problems[0]["source"], problems[0]["path"])
        first = f"{len(problems)} problem(s), the first: {where}: {problems[0]['message']}"
    return Outcome(
        state="incomplete" if problems else "complete",
        exit_code=3 if problems else 0,
        message=first,
        job=job.job,
        repository=job.repository,
        snapshot=snapshot.id,
        problems=problems,
        summary={
            "files": stats["total_files_processed"],
            "bytes": stats["total_bytes_processed"],
            "new_files": stats["files_new"],
            "changed_files": stats["files_changed"],
            "unchanged_files": stats["files_unmodified"],
            "stored_bytes": stats["data_added_packed"],
        },
    )
