"""Keeping the same snapshots in further repositories: `copies:` of a job after each run, `backupctl copy` at any time.

A copy holds what the primary holds, incomplete snapshots included (they count for freshness in neither), less what the
job's retention would remove from the copy at once. A copy that fails never changes what the night's backup was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from backupctl.catalog.models import Run, SnapshotRow
from backupctl.config.models import Job
from backupctl.errors import DamageError, IncompleteError, NoSuchError, NotFound, UsageError, UserError
from backupctl.governance.holds import held
from backupctl.operations.browse import locate, repository_names
from backupctl.operations.context import Context
from backupctl.operations.execute import Outcome
from backupctl.operations.log_copy import copy_log, needed_log
from backupctl.operations.memory import want_of_memory
from backupctl.operations.packs import settle_packs
from backupctl.operations.records import SnapshotTags, fingerprint_of, of_job, readable, source_rows
from backupctl.repository.copy import CopyTarget, copy_to, missing_in, origin
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository
from backupctl.repository.retention import RetentionItem, RetentionPolicy, plan_retention


@dataclass(slots=True)
class CopyResult:
    """How one destination was brought up to date. `error` is why it was not, with `exit_code` of that."""

    source: str
    destination: str
    job: str = ""
    copied: list[str] = field(default_factory=list)  # ids of the source's snapshots
    present: int = 0  # were there already
    lacking: list[str] = field(default_factory=list)  # ids of those that could not be copied
    bytes: int = 0  # of content that travelled
    stored_bytes: int = 0
    log_segments: int = 0  # of servers' archived logs, copied
    problems: list[str] = field(default_factory=list)
    error: str = ""
    exit_code: int = 0
    bug: Exception | None = None

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "bug"}


def targets(job: Job, to: str | None) -> list[str]:
    """Where the job's snapshots are copied. Raises UsageError when that is nowhere."""
    if to is not None:
        return [to]
    if not job.copies:
        raise UsageError(
            f"job {job.job} names no copies",
            next_step=f"add `copies: [REPOSITORY]` to it, or: backupctl copy {job.job} --to …",
        )
    return list(job.copies)


def after_run(context: Context, job: Job, run: Run) -> list[CopyResult]:
    """Bring the copies of the job up to date once its snapshot is in the primary. Nothing that goes wrong is raised, not
    even a signal or a bug: the snapshot stands. What it was is in the result; after a signal nothing more is tried."""
    results = [CopyResult(job.repository, name, job.job) for name in job.copies]
    if not results:
        return results
    try:
        errors = _into(context, job, results, before_commit=lambda: context.catalog.guard(run.id, run.epoch))
        for result, error in zip(results, errors, strict=True):
            if error is not None:
                _failed(result, error.message, error.exit_code)
    except BaseException as stopped:  # noqa: BLE001  bugs are shown by the worker, signals have done what they were for
        known: UserError | None = want_of_memory(context.settings, f"copying {job.job}", stopped)
        known = known or (stopped if isinstance(stopped, UserError) else None)
        for result in results:
            if known is not None:
                _failed(result, known.message, known.exit_code)
            else:
                _failed(result, f"stopped: {str(stopped) or type(stopped).__name__}", 1)
        results[0].bug = stopped if known is None and isinstance(stopped, Exception) else None
    for result in results:
        if result.error:
            context.reporter.event(
                "warning",
                f"copy {result.destination} lags: {result.error}; the backup itself stands",
                job=job.job,
                run=run.id,
                repository=result.destination,
            )
            context.reporter.event("note", f"  next: backupctl copy {job.job} --to {result.destination}", job=job.job)
    return results


def with_copies(outcome: Outcome, results: Sequence[CopyResult]) -> Outcome:
    """The backup's outcome with its copies told. A copy that lags makes a complete run one with warnings (exit code 3):
    its state stays what the snapshot in the primary is."""
    if results:
        outcome.summary["copies"] = [one.fields() for one in results]
    lagging = [f"copy {one.destination} lags: {one.error}" for one in results if one.error]
    if lagging:
        outcome.exit_code = outcome.exit_code or IncompleteError.exit_code
        outcome.message = "; ".join(filter(None, (outcome.message, *lagging)))
        outcome.bug = outcome.bug or next((one.bug for one in results if one.bug is not None), None)
    return outcome


def copy_job(context: Context, job: Job, name: str) -> CopyResult:
    """Every snapshot of the job that `name` lacks. Raises UserError for what stops all of it; a snapshot that cannot be
    read from the primary is a problem of the result, and the others are copied."""
    repository_names(context, [name])
    result = CopyResult(job.repository, name, job.job)
    _raise_first(_into(context, job, [result]))
    return result


def copy_job_into(context: Context, job: Job, names: Sequence[str]) -> list[tuple[CopyResult, UserError | None]]:
    """The same for several destinations with one reading of the primary; what stopped each of them. Raises UserError for
    what stops them all."""
    repository_names(context, names)
    results = [CopyResult(job.repository, name, job.job) for name in names]
    return list(zip(results, _into(context, job, results), strict=True))


def copy_selected(context: Context, jobs: Sequence[str], word: str, to: str | None) -> list[CopyResult]:
    """One snapshot by its id, from whichever repository has it, into `to`, or the copies of `jobs`, or of its own job."""
    named = [context.job(name) for name in jobs]
    repository, snapshot = locate(context, word)
    source = next(name for name in context.settings.repositories if context.resources.repository(name) is repository)
    own = context.settings.jobs.get(SnapshotTags.of(snapshot).job)
    if to is not None:
        return [copy_one(context, source, snapshot, to)]
    if own is None and not named:
        raise UsageError(
            f"snapshot {snapshot.short_id} is of no job that is configured, so it has no copies",
            next_step=f"backupctl copy --snapshot {snapshot.short_id} --to REPOSITORY",
        )
    chosen = named or ([own] if own is not None else [])
    names = dict.fromkeys(name for job in chosen for name in targets(job, None))
    return [copy_one(context, source, snapshot, name) for name in names]


def copy_one(context: Context, source_name: str, snapshot: Snapshot, name: str) -> CopyResult:
    """One snapshot, whoever made it and whether or not it is complete."""
    repository_names(context, [name])
    result = CopyResult(source_name, name, SnapshotTags.of(snapshot).job)
    _raise_first(_copy_all(context, [result], lambda source, problems: [snapshot]))
    return result


def copy_everything(context: Context, source: str, destination: str) -> CopyResult:
    """Every snapshot there is, of any job or none. One that cannot be read is a problem of the result."""
    result = CopyResult(source, destination)
    _raise_first(_copy_all(context, [result], readable))
    return result


def _into(
    context: Context, job: Job, results: Sequence[CopyResult], before_commit: Callable[[], None] = lambda: None
) -> list[UserError | None]:
    return _copy_all(context, results, lambda source, problems: wanted(context, job, source, problems), before_commit)


def _raise_first(errors: Sequence[UserError | None]) -> None:
    for error in errors:
        if error is not None:
            raise error


def wanted(context: Context, job: Job, source: Repository, problems: list[str] | None = None) -> list[Snapshot]:
    """The job's snapshots that belong into a copy. One that cannot be read goes to `problems`, or is raised."""
    mine = of_job(readable(source, problems) if problems is not None else source.snapshots(), job.job)
    if job.retention is None:
        return mine
    items = [RetentionItem(one.id, one.time, complete=SnapshotTags.of(one).complete) for one in mine]
    now = context.clock.now()
    policy = RetentionPolicy(**dict(job.retention))
    decisions = plan_retention(items, policy, now=now, zone=job.timezone, held=held(source, now))
    kept = {decision.item.id for decision in decisions if decision.keep}
    return [one for one in mine if one.id in kept]


def held_in_primary(context: Context, job: Job, copies: Iterable[Snapshot]) -> dict[str, str]:
    """Of the snapshots of a copy, those whose original somebody holds, with the reason: a hold counts in every copy.
    Raises what keeps the primary from being read: a hold that cannot be read is not taken for no hold."""
    primary = context.resources.repository(job.repository)
    held_origins = {}
    for snapshot_id, reason in held(primary, context.clock.now()).items():
        try:
            held_origins[origin(primary.read_snapshot(snapshot_id))] = reason
        except NotFound:
            held_origins[snapshot_id] = reason
    return {one.id: held_origins[origin(one)] for one in copies if origin(one) in held_origins}


@dataclass(slots=True, eq=False)
class _Destination:
    """One that is open and locked. `damaged`: what it lost is brought back, for every snapshot."""

    number: int  # among the results
    result: CopyResult
    repository: Repository
    damaged: bool
    whole: list[Snapshot]  # snapshots that it has
    missing: set[str]  # ids of those it lacks
    error: UserError | None = None

    def target(self, snapshot: Snapshot, before_commit: Callable[[], None]) -> CopyTarget | None:
        """What is to be done there about a snapshot, if anything."""
        if self.error is not None or (snapshot.id not in self.missing and not self.damaged):
            return None
        base = None if self.damaged else _base(snapshot, self.whole)
        return CopyTarget(self.repository, base, snapshot.id in self.missing, before_commit)


def _copy_all(
    context: Context,
    results: Sequence[CopyResult],
    choose: Callable[[Repository, list[str]], Sequence[Snapshot]],
    before_commit: Callable[[], None] = lambda: None,
) -> list[UserError | None]:
    """What `choose` wants, from the one source of all results into each of their destinations, read once. Why a
    destination dropped out, in the order of `results`. Raises what is wrong with the source as a whole."""
    source = context.resources.repository(results[0].source)
    errors: dict[int, UserError] = {}
    destinations: list[_Destination] = []
    with source.lock(), ExitStack() as locks:
        problems: list[str] = []
        chosen = sorted(choose(source, problems), key=lambda one: one.time)
        for number, result in enumerate(results):
            result.problems += problems
            try:
                destinations.append(_opened(context, number, result, chosen, locks))
            except UserError as error:
                errors[number] = error
        for snapshot in chosen:
            _copy(context, source, destinations, snapshot, before_commit)
        _copy_log(context, source, destinations, chosen)
    for destination in destinations:
        if destination.error is not None:
            errors[destination.number] = destination.error
        elif destination.result.problems:
            _failed(destination.result, destination.result.problems[0], DamageError.exit_code)
    return [errors.get(number) for number in range(len(results))]


def _opened(
    context: Context, number: int, result: CopyResult, chosen: Sequence[Snapshot], locks: ExitStack
) -> _Destination:
    _, repository = open_pair(context, result.source, result.destination)
    locks.enter_context(repository.lock())
    damaged, _ = settle_packs(context, result.destination, repository, again="copied again")
    whole = repository.snapshots()
    missing = {one.id for one in missing_in(repository, chosen, whole)}
    result.present = len(chosen) - len(missing)
    return _Destination(number, result, repository, damaged, whole, missing)


def _copy(
    context: Context,
    source: Repository,
    destinations: Sequence[_Destination],
    snapshot: Snapshot,
    before_commit: Callable[[], None],
) -> None:
    pairs = [(one, target) for one in destinations if (target := one.target(snapshot, before_commit)) is not None]
    if not pairs:
        return
    names = ", ".join(destination.result.destination for destination, _ in pairs)

    def progress(done: int, total: int) -> None:
        context.reporter.progress(f"copying to {names}", done, total, item=snapshot.short_id)

    try:
        copy_to(source, [target for _, target in pairs], snapshot, progress=progress)
    except (DamageError, NoSuchError) as error:  # the source's; the next snapshot may be sound
        for destination, _ in pairs:
            destination.result.lacking.append(snapshot.id)
            destination.result.problems.append(f"snapshot {snapshot.short_id} cannot be copied: {error.message}")
        return
    for destination, target in pairs:
        try:
            if target.error is not None:
                raise target.error
            _told(context, destination, target, snapshot)
        except UserError as error:
            destination.error = error


def _copy_log(
    context: Context, source: Repository, destinations: Sequence[_Destination], chosen: Sequence[Snapshot]
) -> None:
    needed = needed_log(source, chosen)
    for one in destinations if needed else ():
        result = one.result

        def progress(done: int, result: CopyResult = result) -> None:
            context.reporter.progress(f"copying log to {result.destination}", done, None)

        try:
            if one.error is None:
                result.log_segments, size = copy_log(source, one.repository, needed, result.problems, progress)
                result.bytes += size
        except UserError as error:
            one.error = error


def _told(context: Context, destination: _Destination, target: CopyTarget, snapshot: Snapshot) -> None:
    """The result, the catalog and the audit trail, of what is in the destination now."""
    result, copied = destination.result, target.copied
    assert copied is not None
    destination.whole.append(snapshot)
    result.bytes += copied.bytes
    result.stored_bytes += copied.stored_bytes
    if not target.commit:
        return
    result.copied.append(snapshot.id)
    repository = destination.repository
    remember(context, result.destination, repository, repository.read_snapshot(copied.id), copied.stored_bytes)
    context.audit("snapshot.copied", snapshot.id, repository=result.source, into=result.destination, snapshot=copied.id)


def remember(context: Context, name: str, repository: Repository, snapshot: Snapshot, stored_bytes: int) -> None:
    """The catalog's row of a snapshot that was copied into the repository `name`; none for one that is not ours."""
    tags = SnapshotTags.of(snapshot)
    if not tags.ours:
        return
    facts = fingerprint_of(repository, snapshot)
    summary = facts.get("summary", {})
    context.catalog.add_snapshot(
        SnapshotRow(
            id=snapshot.id,
            repository=name,
            job=tags.job,
            run=tags.run,
            time=snapshot.time,
            status="complete" if tags.complete else "incomplete",
            fingerprint=tags.fingerprint,
            sources=source_rows(facts["sources"]),
            files=summary.get("total_files_processed", 0),
            bytes=summary.get("total_bytes_processed", 0),
            stored_bytes=stored_bytes,
        )
    )


def open_pair(context: Context, source: str, destination: str) -> tuple[Repository, Repository]:
    """Both repositories. Raises UsageError when they are one and the same."""
    opened = context.resources.repository(source), context.resources.repository(destination)
    if opened[0].id == opened[1].id:
        raise UsageError(
            f"{source} and {destination} are the same repository ({opened[0].store.location}): that is no copy",
            next_step="give the copy a place of its own and create it: backupctl init",
        )
    return opened


def _base(snapshot: Snapshot, whole: Iterable[Snapshot]) -> Snapshot | None:
    """The snapshot most like this one of those that the destination has: what is equal need not be walked."""
    alike = [one for one in whole if (one.hostname, one.paths) == (snapshot.hostname, snapshot.paths)]
    return min(alike, key=lambda one: abs(one.time - snapshot.time), default=None)


def _failed(result: CopyResult, message: str, exit_code: int) -> None:
    result.error, result.exit_code = message, exit_code
