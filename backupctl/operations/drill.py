"""One drill run: choose the snapshot, hand everything to `drills.run`, keep what it found where it cannot be lost."""

from __future__ import annotations

from typing import Any

from backupctl.catalog.models import Run
from backupctl.config.drilling import DrillSettings
from backupctl.config.models import Job
from backupctl.drills.control import Damage, damaged_request, judged
from backupctl.drills.interlocks import Production
from backupctl.drills.model import Cleanup, DrillRequest, DrillResult, Phase
from backupctl.drills.run import run_drill
from backupctl.drills.scenarios.registry import scenario_of
from backupctl.drills.stopwatch import DECIDE, KEYS, OPEN_REPOSITORY
from backupctl.drills.surroundings import Surroundings
from backupctl.drills.verdict import exit_code
from backupctl.errors import DamageError, IncompleteError, NoSuchError, StaleError, UsageError, UserError
from backupctl.operations.context import Context
from backupctl.operations.drawing import Drawn, draw
from backupctl.operations.execute import Outcome
from backupctl.operations.fallback import Opened, open_snapshot
from backupctl.operations.learn import check_rows, drill_row
from backupctl.operations.production import production_of
from backupctl.operations.records import of_job
from backupctl.operations.rehearsing import RehearsedVerbs
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.manifest import ManifestReader, read_manifest
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository


def run_drill_of(context: Context, run: Run) -> Outcome:
    """`run.name` is JOB/DRILL; `run.options` may hold {"snapshot": id}. The verdict is the exit code."""
    job, drill_name = drill_of(context, run.name)
    settings = job.drills[drill_name]
    places = dict.fromkeys((job.repository, *job.copies, *(settings.select.places or () if settings.select else ())))
    wanted: str | None = run.options.get("snapshot")
    production = production_of(context, settings.on, places if scenario_of(settings.scenario).reads_there else ())
    stolen = [settings.stolen] if settings.stolen is not None else []
    with context.resources.confined(places, settings.on, stolen) as withheld:
        drawn = draw(context, job, run.name, run.id) if settings.select is not None and wanted is None else None
        name, result, record, elsewhere = _rehearse(
            context, run, job, settings, production, drawn, drawn.snapshot if drawn is not None else wanted, withheld
        )
    context.catalog.add_drill(drill_row(result, record), check_rows(result.id, result.checks))
    for check in result.checks:
        if not check.ok:
            context.reporter.event(
                "check",
                f"differs: {check.name}: expected {check.expected}, got {check.actual}",
                verdict="fail",
                level=check.level,
            )
    code = _exit_code(result, elsewhere)
    return Outcome(
        state={0: "complete", 3: "incomplete"}.get(code, "failed"),
        exit_code=code,
        verdict=result.verdict,
        message="; ".join(result.reasons),
        job=job.job,
        repository=name,
        snapshot=result.snapshot,
        summary={
            "level": result.level,
            "reasons": result.reasons,
            "checks": len(result.checks),
            "failed_checks": sum(not check.ok for check in result.checks),
            "rto_seconds": result.rto_seconds,
            "rpo_seconds": result.rpo_seconds,
            "restored_bytes": result.restored_bytes,
            "cleaned_up": result.cleanup.proved,
        },
    )


def _rehearse(
    context: Context,
    run: Run,
    job: Job,
    settings: DrillSettings,
    production: Production,
    drawn: Drawn | None,
    wanted: str | None,
    withheld: int,
) -> tuple[str, DrillResult, str, list[str]]:
    """The repository that was read, what the drill found, its record there, and what had to come from elsewhere."""
    declared, started, keys = context.clock.now(), context.clock.monotonic(), context.resources.secret_seconds
    damaged: UserError | None
    found, damaged = _open(context, job, wanted, drawn.place if drawn is not None else None)
    name = found.name if found is not None else drawn.place if drawn is not None else job.repository
    repository = context.resources.repository(name)
    keys = context.resources.secret_seconds - keys
    opened = Phase(OPEN_REPOSITORY, max(context.clock.monotonic() - started - keys, 0.0))
    staging = context.settings.hosts[settings.on]
    with repository.lock():
        started = context.clock.monotonic()
        request = DrillRequest(
            id=run.id,
            name=run.name,
            job=job,
            settings=settings,
            snapshot=None,
            reader=None,
            fingerprint=None,
            manifest=None,
            sources={},
            host=context.resources.host(settings.on),
            scratch=str(staging.scratch).encode(),
            declared=declared,
            max_disk=staging.max_disk,
            repository=name,
            surroundings=Surroundings(
                context.settings,
                context.resources,
                context.catalog,
                RehearsedVerbs(context),
            ),
            production=production,
            key_seconds=keys,
            scale=staging.scale,
        )
        if found is not None:
            damaged = _fill(context, job, found, request, drawn)
        request.measured = [Phase(KEYS, keys), opened, Phase(DECIDE, context.clock.monotonic() - started)]
        damage: Damage | None = None
        if settings.control and request.snapshot is not None:
            assert found is not None
            repository.fallback = None
            request, damage = damaged_request(request, repository, context.clock)

        def progress(phase: str, done: int, total: int | None) -> None:
            context.reporter.progress(phase, done, total)

        def stopped(cleanup: Cleanup) -> None:
            context.audit("drill.stopped", run.name, run=run.id, cleaned_up=cleanup.proved, facts=cleanup.facts)

        result = run_drill(request, clock=context.clock, progress=progress, stopped=stopped)
        if request.reader is not None:
            request.reader.close()
        if damaged is not None:
            _judge_unreadable(result, damaged)
        result.draw = drawn.facts if drawn is not None else None
        result.interlocks.append(f"secrets: {withheld} of production withheld")
        elsewhere = found.fallback.notes if found is not None else []
        result.reasons += elsewhere
        if damage is not None:
            judged(result, damage)
        record = repository_record(context, repository, result)
    return name, result, record, elsewhere


def drill_of(context: Context, name: str) -> tuple[Job, str]:
    """JOB/DRILL, or JOB alone when it has one drill."""
    job_name, _, drill_name = name.partition("/")
    job = context.job(job_name)
    if not drill_name and len(job.drills) == 1:
        return job, next(iter(job.drills))
    if drill_name not in job.drills:
        known = ", ".join(f"{job_name}/{one}" for one in job.drills) or "none"
        kind = NoSuchError if drill_name else UsageError
        raise kind(f"no drill named {name!r}; known drills of this job: {known}", next_step="backupctl drill list")
    return job, drill_name


def repository_record(context: Context, repository: Repository, result: DrillResult) -> str:
    """Keep the drill sealed beside the data, so that losing the catalog loses no evidence. A store that refuses is
    reported and does not change what the drill found."""
    import json

    text = json.dumps(result.to_record(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    try:
        return repository.save_record("drill", text.encode())
    except UserError as error:
        context.reporter.event("warning", f"the drill's record could not be stored beside the data: {error}")
        return ""


def _open(
    context: Context, job: Job, wanted: str | None, place: str | None
) -> tuple[Opened | None, DamageError | None]:
    """The newest complete snapshot, or the one that is `wanted`, in the job's repository or else in a copy; in `place` or not
    at all when that was drawn. Without one: what makes the backup unreadable, if something does."""

    def choose(repository: Repository) -> Snapshot:
        repository.bypass_cache()  # what is proven is that the repository alone is enough, in the time that it takes
        complete = of_job(repository.snapshots(), job.job, complete_only=True)
        if wanted:
            return repository.load_snapshot(wanted)
        if not complete:
            raise NoSuchError(f"job {job.job} has no complete snapshot there", next_step=f"backupctl run {job.job}")
        return complete[-1]

    try:
        return open_snapshot(context, job, choose, origin=place), None
    except DamageError as error:
        return None, error
    except NoSuchError:
        if wanted:
            raise
        return None, None


def _fill(context: Context, job: Job, found: Opened, request: DrillRequest, drawn: Drawn | None) -> UserError | None:
    """What belongs to the snapshot. Returns what makes the backup unreadable, if something does."""
    repository, snapshot = found.repository, found.snapshot

    def read(holder: Repository, facts: dict[str, Any]) -> tuple[dict[str, Any], ManifestReader]:
        return facts, read_manifest(holder, facts["manifest"])

    try:
        repository.reread_snapshot(snapshot.id)  # under our lock: no prune took it meanwhile
        complete = of_job(repository.snapshots(), job.job, complete_only=True)
        request.newest = complete[-1].time if complete else None
        if complete:
            request.newest_bytes = int(complete[-1].summary.get("total_bytes_processed") or 0)
        request.fingerprint, request.manifest = found.fallback.records(repository, snapshot, read)
    except (DamageError, NoSuchError) as error:
        return error
    request.snapshot = snapshot
    request.reader = SnapshotReader(repository, snapshot)
    names: Any = request.fingerprint["sources"]
    request.sources = {name: context.resources.source(job, name) for name in names if name in job.sources}
    if drawn is not None:
        older = request.newest is not None and snapshot.time < request.newest
        # what the job got, or lost, since an older snapshot was taken is no fault of that one
        request.chosen = drawn.sources or (frozenset(request.sources) if older else None)
    return None


def _judge_unreadable(result: DrillResult, damaged: UserError) -> None:
    """A snapshot is there and it, or its facts, cannot be read: that is a bad backup, not a missing one."""
    result.verdict = "fail"
    result.level = 0
    result.reasons = [f"what the drill needs first cannot be read: {damaged.message}"]


def _exit_code(result: DrillResult, elsewhere: list[str]) -> int:
    """The verdict's; but a pass is no plain success when traces of it stay behind (3), an objective was missed (6), or it
    took a copy because the primary is damaged or away (3)."""
    if result.verdict != "pass":
        return exit_code(result.verdict)
    if not result.cleanup.proved:
        return IncompleteError.exit_code
    pairs = ((result.rto_seconds, result.objectives.rto), (result.rpo_seconds, result.objectives.rpo))
    missed = any(got is not None and wanted is not None and got > wanted for got, wanted in pairs)
    return StaleError.exit_code if missed else IncompleteError.exit_code if elsewhere else 0
