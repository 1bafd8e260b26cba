"""The orchestrator burnt down, with its configuration, keys and catalog: a new one begins from the recovery kits alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from contextlib import ExitStack, closing

from backupctl.catalog.catalog import Catalog
from backupctl.clock import parse_iso
from backupctl.config.models import Settings
from backupctl.config.resources import Resources
from backupctl.drills import stopwatch as phases
from backupctl.drills.scenario import Rehearsal, checked_record
from backupctl.drills.scenarios.protocol import Record, Scenario
from backupctl.drills.verdict import SourceOutcome
from backupctl.repository.manifest import read_manifest
from backupctl.repository.reader import SnapshotReader
from backupctl.sources.protocol import CheckResult

Known = dict[str, dict[Hashable, tuple[object, ...]]]
"""What a catalog knows, by kind and id."""


def run(stage: Rehearsal, reader: SnapshotReader, record: Record) -> None:
    request, around = stage.request, stage.surroundings
    reader.close()  # the old machine's
    places = list(dict.fromkeys([request.repository, request.job.repository, *request.job.copies]))
    with stage.stopwatch.phase("print the kits"):
        kits = [around.verbs.kit(name) for name in places]
    before = _known(around.catalog, around.settings, places, stage)
    outcome = SourceOutcome("new orchestrator", level=3)
    stage.outcomes.append(outcome)
    stage.stopwatch.strike()
    with stage.workroom() as workroom, ExitStack() as opened:
        with stage.stopwatch.phase("bootstrap"):
            settings = around.verbs.bootstrap(kits, workroom / "new")
        stage.deadline.left()
        with stage.stopwatch.phase("rebuild the catalog"):
            problems = around.verbs.rebuild(settings)
        with closing(Catalog.open(settings.catalog, clock=stage.deadline.clock)) as catalog:
            outcome.checks += _compared(before, _known(catalog, around.settings, places, stage), problems)
        resources = opened.enter_context(Resources(settings, stage.deadline.clock))
        with stage.stopwatch.phase(phases.OPEN_REPOSITORY):
            repository = resources.repository(request.repository)
            complete = around.verbs.complete(repository, request.job.job)
        newest = request.snapshot.id if request.snapshot else ""
        chosen = next((one for one in complete if one.id == newest), None)
        there = "there" if chosen else "missing"
        outcome.checks.append(CheckResult("the tested snapshot", "there", there, chosen is not None, 4, detail=newest))
        if chosen is None:
            return
        facts = checked_record(around.verbs.record(repository, chosen))
        request.manifest = read_manifest(repository, str(facts["manifest"]))
        with SnapshotReader(repository, chosen) as own:
            for name in sorted(facts["sources"]):
                source = SourceOutcome(name, data_time=parse_iso(facts["sources"][name]["data_time"]))
                stage.outcomes.append(source)
                stage.files(source, own)


def _known(catalog: Catalog, settings: Settings, places: Iterable[str], stage: Rehearsal) -> Known:
    """What was known of these repositories before this drill began."""
    begun, known = stage.request.declared, set(places)
    jobs = {job.job for job in settings.jobs.values() if job.repository in known}
    return {
        "snapshots": {
            (one.repository, one.id): (one.job, one.run, one.time, one.status, one.fingerprint, one.files, one.bytes)
            for one in catalog.snapshots()
            if one.repository in known and one.time < begun
        },
        "drills": {
            one.id: (one.drill, one.snapshot, one.verdict, one.level, one.rto_seconds, one.rpo_seconds, one.record)
            for one in catalog.drills(until=begun)
            if one.record and one.job in jobs
        },
        "checks": {
            one.id: (one.mode, one.verdict, one.snapshots, one.packs, one.bytes_read, one.finished)
            for one in catalog.checks(until=begun)
            if one.record and one.repository in known
        },
        "holds": {
            one.id: (one.snapshot, one.reason, one.owner, one.expires)
            for one in catalog.holds()
            if one.repository in known and one.created < begun
        },
    }


def _compared(before: Known, after: Known, problems: list[str]) -> list[CheckResult]:
    checks = [
        CheckResult("records that cannot be read", "none", "; ".join(problems[:3]) or "none", not problems, 4),
    ]
    for kind, expected in before.items():
        found = after[kind]
        missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
        other = [key for key in expected.keys() & found.keys() if expected[key] != found[key]]
        equal = not missing and not extra and not other
        said = f"{len(missing)} missing, {len(extra)} more, {len(other)} different"
        checks.append(
            CheckResult(
                f"{kind} that the catalog knew",
                f"{len(expected)}, the same",
                f"{len(found)}, the same" if equal else said,
                equal,
                4,
                detail=", ".join(map(str, [*missing, *extra, *other][:3])),
            )
        )
    return checks


SCENARIO = Scenario(
    name="loss-of-orchestrator",
    proves="with the orchestrator, its configuration, keys and catalog lost, the recovery kits are enough to begin again",
    steps=(
        "print the recovery kit of the primary and of every copy",
        "declare the disaster; in an empty directory make a configuration and keys from the kits, and nothing else",
        "rebuild the catalog from the repositories, and compare it with the lost one",
        "restore the tested snapshot, dumps of databases as files, and compare it with the manifest in the repository",
    ),
    criteria=(
        "every snapshot, drill, check and hold that the lost catalog knew is known again, and the same",
        "every entry of the tested snapshot equals what the source held at backup time",
    ),
    needs=("storage credentials that still stand where the kits say, for S3",),
    run=run,
)
