"""The primary place is away: everything comes from a copy alone, opened with its own password, and the primary is not asked."""

from __future__ import annotations

from dataclasses import replace

from backupctl.clock import iso
from backupctl.drills import stopwatch as phases
from backupctl.drills.scenario import Rehearsal, checked_record
from backupctl.drills.scenarios.protocol import Record, Scenario
from backupctl.drills.verdict import SourceOutcome
from backupctl.errors import CouldNotRunError
from backupctl.repository.manifest import read_manifest
from backupctl.repository.reader import SnapshotReader
from backupctl.sources.protocol import CheckResult


def run(stage: Rehearsal, reader: SnapshotReader, record: Record) -> None:
    request, verbs = stage.request, stage.surroundings.verbs
    reader.close()  # of the primary: from here on it is away
    copies = [name for name in request.job.copies if name != request.repository]
    if not copies:
        raise CouldNotRunError(
            f"job {request.job.job} has no second destination", next_step="give it one: `copies: [REPOSITORY]`"
        )
    name = stage.chance().choice(copies)
    stage.stopwatch.strike()
    lag = SourceOutcome(f"copy {name}", level=3)
    stage.outcomes.append(lag)
    with stage.stopwatch.phase(phases.OPEN_REPOSITORY):
        repository = stage.rehearsed(name)
        there = verbs.complete(repository, request.job.job)
    behind = [one for one in there if request.newest is None or one.time >= request.newest]
    wanted = f"one of {iso(request.newest)} or newer" if request.newest else "one"
    found = f"one of {iso(there[-1].time)}" if there else "none"
    rpo = request.job.objectives.rpo
    recent = bool(there) and (bool(behind) or request.struck - there[-1].time <= rpo)
    lag.checks.append(
        CheckResult(
            f"copy {name}: the newest complete snapshot", f"{wanted}, or within the RPO of {rpo}", found, recent, 4
        )
    )
    if not there:
        return
    snapshot = there[-1]
    facts = checked_record(verbs.record(repository, snapshot))
    with SnapshotReader(repository, snapshot) as own:
        manifest = read_manifest(repository, str(facts["manifest"]))
        inner = Rehearsal(
            replace(request, snapshot=snapshot, reader=own, manifest=manifest, repository=name, fingerprint=facts),
            stage.sandbox,
            stage.stopwatch,
            stage.deadline,
            stage.progress,
            instances=stage.instances,
            heartbeats=stage.heartbeats,
            looked=stage.looked,  # stopped in the end with those of the drill
        )
        inner.run(own, facts)
    stage.request = inner.request
    stage.outcomes += inner.outcomes
    stage.probes += inner.probes
    stage.trouble += inner.trouble
    stage.restored_bytes = inner.restored_bytes


SCENARIO = Scenario(
    name="second-destination",
    proves="with the primary place gone, everything comes back from a copy alone, no older than promised",
    steps=(
        "draw one of the job's copies; open it with its own password, and nothing else",
        "look how far its newest complete snapshot lies behind",
        "restore and compare everything from it as in `full`, with what the copy itself says the source held",
    ),
    criteria=(
        "the copy has the newest complete snapshot, or one within the RPO",
        "everything that `full` asks for",
    ),
    needs=("a job with `copies`",),
    run=run,
)
