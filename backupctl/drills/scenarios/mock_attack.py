"""An attack on data and backups, survived: poison over several backups, then everything at once, then the operator's own
credentials turned against every place that holds backups. The last clean snapshot is found by what the backups say.

Real files of the tested snapshot (a bounded draw) and planted ones, among them canaries and a database, are the victims; they
live in the sandbox, and so does the repository they are backed up into with the real operations. Against the real places
nothing is tried but on scratch objects, which are under the same locks and the same credentials as the backups are.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from backupctl.config.models import Job, RepositorySettings, Settings
from backupctl.config.resources import Resources
from backupctl.drills.clean_point import Held, last_clean
from backupctl.drills.model import DrillRequest
from backupctl.drills.scenario import Rehearsal
from backupctl.drills.scenarios import attack_program
from backupctl.drills.scenarios.protocol import Record, Scenario
from backupctl.drills.scenarios.single_file import draw, sources_of_files
from backupctl.drills.verdict import SourceOutcome, explain
from backupctl.errors import UnreachableError
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.manifest import read_manifest
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.restore import restore
from backupctl.repository.retention import RetentionItem, RetentionPolicy, plan_retention
from backupctl.sources.protocol import CheckResult
from backupctl.sources.streams import program_text
from backupctl.storage.local import LocalStore
from backupctl.storage.protocol import Immutability

JOB, REPOSITORY = "world", "drill"
CYCLES: tuple[tuple[str, ...], ...] = (
    ("plant",),
    ("everyday",),
    ("everyday", "seep"),
    ("everyday", "seep"),
    ("storm",),
)
"""What happens before each backup. The last clean one is the second."""
LAST_CLEAN = 1
REAL_FILES = 60
REAL_FILE_BYTES = 1 << 20  # larger ones are not drawn: entropy does not depend on size, the time of a drill does
ROOM = 512 << 20
MOCK_TIMEOUT_SECONDS = 600


@dataclass(frozen=True, slots=True)
class World:
    """The victims and the repository that they are backed up into."""

    stage: Rehearsal
    settings: Settings
    victims: bytes

    def ask(self, step: str, number: int = 0) -> dict[str, Any]:
        """One step of the program on the staging host."""
        sandbox = os.fsdecode(self.stage.sandbox.directory)
        asked = {
            "root": os.fsdecode(self.victims),
            "owner": f"{sandbox}/state/owner.json",
            "drill": self.stage.request.id,
            "seed": self.stage.request.id,
            "round": number,
            "step": step,
        }
        host = self.stage.request.host
        argv = [host.python, "-c", program_text(attack_program)]
        done = host.run(argv, stdin=json.dumps(asked).encode(), timeout=MOCK_TIMEOUT_SECONDS, check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def run(stage: Rehearsal, reader: SnapshotReader, record: Record) -> None:
    outcome = SourceOutcome("mock attack", level=3)
    stage.outcomes.append(outcome)
    with stage.workroom() as workroom, ExitStack() as resources:
        world = _build(stage, workroom)
        snapshots, truth = _cycles(stage, world, reader, record, outcome)
        with stage.stopwatch.phase("attack the backups"):
            outcome.checks += against_backups(stage)
        stage.stopwatch.strike()
        opened = resources.enter_context(Resources(world.settings, stage.deadline.clock))
        repository = opened.repository(REPOSITORY)
        with stage.stopwatch.phase("find the last clean point"):
            chosen, said, alarms = _find(stage, repository, snapshots)
        stage.stopwatch.decided()
        outcome.checks.append(_judged(chosen, said))
        outcome.checks += _alarmed(alarms)
        outcome.checks.append(_retained(stage, chosen, len(snapshots)))
        _restore(stage, world, opened, repository.load_snapshot(snapshots[chosen]))
        with stage.stopwatch.phase("compare"):
            outcome.checks.append(_equal(stage, truth))


def _build(stage: Rehearsal, workroom: Path) -> World:
    around, victims = stage.surroundings, stage.sandbox.directory + b"/victims"
    key = workroom / "drill.key"
    key.touch(0o600)
    key.write_text(secrets.token_urlsafe(33))
    root, host = os.fsdecode(victims), stage.request.settings.on
    place = RepositorySettings.model_validate(
        {"storage": {"local": {"path": str(workroom / "repository")}}, "password": {"file": str(key)}}
    )
    job = Job.model_validate(
        {
            "job": JOB,
            "sources": {
                "victims": {"files": {"host": host, "paths": [f"{root}/files"]}},
                "records": {"sqlite": {"host": host, "path": f"{root}/records.db", "scratch": root}},
            },
            "repository": REPOSITORY,
            "objectives": {"rpo": "24h", "rto": "24h"},
        }
    )
    settings = around.settings.model_copy(
        update={
            "catalog": f"sqlite:///{workroom / 'catalog.db'}",
            "repositories": {REPOSITORY: place},
            "jobs": {JOB: job},
            "notify": {},
            "cache": None,
            "base": workroom,
        }
    )
    store = LocalStore(workroom / "repository", create=True)
    try:
        # nobody guesses 33 random bytes, and each backup opens it anew: a cheap key
        Repository.create(store, key.read_text(), clock=stage.deadline.clock, scrypt_n=1024)
    finally:
        store.close()
    return World(stage, settings, victims)


def _cycles(
    stage: Rehearsal, world: World, reader: SnapshotReader, record: Record, outcome: SourceOutcome
) -> tuple[list[str], Mapping[str, str]]:
    """Backups of an honest world, and then of one that is under attack; and what was in it when it was last clean."""
    with stage.stopwatch.phase("stage the replica"):
        drawn = _replica(stage, world, reader, record)
    snapshots: list[str] = []
    truth: dict[str, Any] = {}
    done: list[str] = []
    for number, steps in enumerate(CYCLES):
        stage.deadline.left()
        stage.progress("attack", number, len(CYCLES))
        with stage.stopwatch.phase("attack"):
            for step in steps:
                counts = world.ask(step, number)
                if step in ("seep", "storm"):
                    done.append(f"{step}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
        if number == LAST_CLEAN:
            truth = world.ask("tally")
        with stage.stopwatch.phase("back up"):
            snapshots.append(stage.surroundings.verbs.back_up(world.settings, JOB))
    outcome.checks.append(
        CheckResult(
            "the attack did damage",
            f"after {LAST_CLEAN + 1} clean backups",
            f"in {len(CYCLES) - LAST_CLEAN - 1} backups, {drawn} real files among the victims",
            bool(done) and world.ask("tally") != truth,
            3,
            detail="; ".join(done),
        )
    )
    return snapshots, truth


def _replica(stage: Rehearsal, world: World, reader: SnapshotReader, record: Record) -> int:
    """Real files of the tested snapshot among the victims; how many."""
    manifest, host = stage.request.manifest, stage.request.host
    count = 0
    for source in sources_of_files(record) if manifest is not None else ():
        entries = (one for one in manifest.source(source) if one.type == "file" and one.size <= REAL_FILE_BYTES)  # type: ignore[union-attr]  # tested above
        for entry in draw(entries, REAL_FILES, stage.chance()):
            target = world.victims + b"/files/real/%d" % count
            host.make_directory(target)
            with host.placer(target) as placer:
                restore(reader, placer, path=entry.path)
            count += 1
    return count


def against_backups(stage: Rehearsal) -> list[CheckResult]:
    """Every operation against every place that the job's backups are in, with the credentials that this program has. One
    that is accepted is harmless only when another place holds, where everything was refused."""
    job, resources = stage.request.job, stage.surroundings.resources
    checks: list[CheckResult] = []
    holding = ""
    unknown: list[str] = []
    for name in (job.repository, *job.copies):
        stage.deadline.left()
        try:
            found = resources.store(name).probe().immutability
        except UnreachableError as error:
            unknown.append(f"attack on {name}: {explain(error)}")
            continue
        if found is None:
            found = Immutability(False, "nothing is known of what this place refuses", False)
        holding = holding or (name if found.refuses_deletion else "")
        whole = ("take away what is to be kept", found.reason, found.refuses_deletion)
        for what, said, good in (*found.tried, whole):
            checks.append(CheckResult(f"attack on {name}: {what}", "refused, or harmless", said, good, 4))
    stage.trouble += unknown
    if unknown and not holding:  # perhaps it would have held
        return []
    return [one if one.ok or not holding else _made_harmless(one, holding) for one in checks]


def _made_harmless(check: CheckResult, holding: str) -> CheckResult:
    return replace(check, ok=True, actual=f"{check.actual}; harmless: {holding} refused everything")


def _find(stage: Rehearsal, repository: Repository, snapshots: Sequence[str]) -> tuple[int, list[str], dict[int, str]]:
    """The number of the snapshot that is taken for the last clean one, and why not the next; and which runs had found
    themselves suspicious when they were made, with their words."""
    held: list[Held] = []
    alarms: dict[int, str] = {}
    for name in snapshots:
        stage.deadline.left()
        snapshot = repository.load_snapshot(name)
        facts = stage.surroundings.verbs.record(repository, snapshot)
        found = facts.get("anomalies", {})
        if found.get("suspicious"):
            alarms[len(held)] = "; ".join(str(one["text"]) for one in found["signals"])
        manifest = read_manifest(repository, facts["manifest"])
        held.append(Held.of(SnapshotReader(repository, snapshot), manifest, facts))
    first = held[0]  # planted just now: what the canaries are is known
    canaries = {path: one.sha256 for path, one in first.files.items() if b"/canary-" in path}
    tables = {name: digest for name, (_, digest) in first.tables.items() if name.endswith(".canary")}
    chosen, said = last_clean(held, canaries, tables)
    for one in held:
        one.reader.close()
    return chosen, said, alarms


def _alarmed(alarms: Mapping[int, str]) -> list[CheckResult]:
    """What the runs said of themselves, without knowing where to look. Poison that only seeps in need not be seen by the
    run that saves it; a storm must be, and honest work must not."""
    storm = len(CYCLES) - 1
    false = [str(number + 1) for number in alarms if number <= LAST_CLEAN]
    first = f"the first alarm came with backup {min(alarms) + 1}" if alarms else "no run raised an alarm"
    when = f"{first}, the first poison with backup {LAST_CLEAN + 2}"
    return [
        CheckResult(
            "the run that saved the storm raised the alarm",
            "suspicious",
            "suspicious" if storm in alarms else "nothing was noticed",
            storm in alarms,
            4,
            detail="; ".join(filter(None, (when, alarms.get(storm, "")))),
        ),
        CheckResult(
            "runs that saved honest work raised none",
            "none",
            f"backup {', '.join(false)}" if false else "none",
            not false,
            4,
        ),
    ]


def _judged(chosen: int, said: Sequence[str]) -> CheckResult:
    names = ("the newest clean one", "one older than the newest clean one")
    right = LAST_CLEAN - 1 <= chosen <= LAST_CLEAN
    actual = names[LAST_CLEAN - chosen] if right else f"backup {chosen + 1}, which is "
    if not right:
        actual += "poisoned" if chosen > LAST_CLEAN else "needlessly old"
    detail = f"the next one shows: {'; '.join(islice(said, 10))}" if said else "no signal was seen"
    return CheckResult("the last clean backup is found", names[0], actual, right, 4, detail=detail)


def _retained(stage: Rehearsal, chosen: int, number: int) -> CheckResult:
    """Whether the job's own rules would still have the chosen one, had the attack gone on for one backup a day."""
    settings = stage.request.job.retention
    name = "retention leaves the last clean backup in place"
    if settings is None:
        return CheckResult(name, "kept", "kept: nothing ever expires", True, 4)
    now = stage.deadline.clock.now()
    items = [RetentionItem(str(n), now - timedelta(days=number - 1 - n)) for n in range(number)]
    policy, zone = RetentionPolicy(**dict(settings)), stage.request.job.timezone
    kept = plan_retention(items, policy, now=now, zone=zone, held={})[chosen]
    rules = ", ".join(kept.reasons)
    return CheckResult(name, "kept", f"kept ({rules})" if kept.keep else "expired by the job's own rules", kept.keep, 4)


def _restore(stage: Rehearsal, world: World, opened: Resources, snapshot: Snapshot) -> None:
    """The chosen snapshot into a fresh directory and a fresh database, compared with its manifest and fingerprint."""
    repository, job = opened.repository(REPOSITORY), world.settings.jobs[JOB]
    facts = stage.surroundings.verbs.record(repository, snapshot)
    with SnapshotReader(repository, snapshot) as reader:
        request = replace(
            stage.request,
            job=job,
            settings=stage.request.settings.model_copy(update={"probes": []}),
            snapshot=snapshot,
            manifest=read_manifest(repository, facts["manifest"]),
            sources={name: opened.source(job, name) for name in job.sources},
        )
        inner = Rehearsal(request, stage.sandbox, stage.stopwatch, stage.deadline, stage.progress)
        inner.run(reader, facts)
    stage.restored_bytes += inner.restored_bytes
    stage.outcomes += inner.outcomes
    for outcome in inner.outcomes:
        outcome.data_time = None  # of this world, not of the job: no data of the job was lost or saved by it


def _equal(stage: Rehearsal, truth: Mapping[str, str]) -> CheckResult:
    """What came back against what a witness saw before the attack, who never looked at a backup."""
    back = _tallied(stage)
    missing, extra = truth.keys() - back.keys(), back.keys() - truth.keys()
    other = [path for path in truth.keys() & back.keys() if truth[path] != back[path]]
    found = (
        f"{len(missing)} missing, {len(extra)} extra, {len(other)} different" if missing or extra or other else "equal"
    )
    shown = ", ".join([*sorted(missing)[:3], *sorted(extra)[:3], *sorted(other)[:3]])
    return CheckResult(
        "what came back is what was there before the attack", "equal", found, found == "equal", 4, detail=shown
    )


def _tallied(stage: Rehearsal) -> Mapping[str, str]:
    restored = stage.sandbox.files_of("victims")
    inside = restored + stage.sandbox.directory + b"/victims"
    return World(stage, stage.surroundings.settings, inside).ask("tally")


def room(request: DrillRequest, record: Record) -> int:
    return ROOM


SCENARIO = Scenario(
    name="mock-attack",
    proves="an attacker who has everything that the operator has cannot take the last clean backup away, and it is found",
    steps=(
        "restore a draw of real files on the staging host, plant others, canaries and a database",
        "back them up with the real operations: two clean backups",
        "let poison seep in over two more backups: some blocks of some files, some rows, sizes and times as they were",
        "strike: encrypt, rename, delete, drop a table, leave a note; back that up too",
        "turn the operator's own credentials against every place of the job's backups, on scratch objects under its locks",
        "declare the disaster; find the last clean backup by what the backups say",
        "restore it into a fresh directory and database, and compare it",
    ),
    criteria=(
        "every operation against the backups is refused, or harmless because another place refused them all",
        "the chosen backup is the last clean one, or the one before, and never a poisoned one",
        "the run that saved the storm marked its own snapshot suspicious, and no clean one did",
        "the job's own retention would still have it",
        "what came back equals its manifest, its fingerprint, and what a witness saw before the attack",
    ),
    needs=("room for a small world on the staging host (512 MiB)", "a place of backups that refuses deletion, to pass"),
    run=run,
    room=room,
)
