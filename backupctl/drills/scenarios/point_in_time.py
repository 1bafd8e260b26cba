"""An older base backup and the log behind it: PostgreSQL comes back as of the newest snapshot's own instant, row by row.

The newest snapshot says, for a record of the log, what every table held there. So a recovery that begins at an older base
backup and follows the archived log to that record proves the whole chain: nothing of the newest base backup is used. Then the
newest one is followed to the log's end: up to there nothing is lost, and from there the RPO counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from backupctl.clock import iso, parse_iso
from backupctl.drills import stopwatch as phases
from backupctl.drills.scenario import Rehearsal, checked_record
from backupctl.drills.scenarios.protocol import Record, Scenario
from backupctl.drills.verdict import SourceOutcome
from backupctl.errors import CouldNotRunError, NoSuchError
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.reader import SnapshotReader
from backupctl.sources.postgresql import PostgresqlSource
from backupctl.sources.protocol import CheckResult, Instance
from backupctl.sources.wal_archive import Goal, LogIndex, Target, roll_forward
from backupctl.sources.wal_format import parse_lsn


def run(stage: Rehearsal, reader: SnapshotReader, record: Record) -> None:
    sources = [
        name
        for name, facts in record["sources"].items()
        if facts["fingerprint"].get("method") == "physical" and name in stage.request.sources
    ]
    if not sources:
        raise CouldNotRunError(
            "the snapshot holds no physical backup of PostgreSQL", next_step="choose the scenario `full` for this job"
        )
    repository = reader.repo
    complete = stage.surroundings.verbs.complete(repository, stage.request.job.job)
    stage.stopwatch.strike()
    for number, name in enumerate(sources):
        _source(stage, number, name, record, complete, reader)
        _tail(stage, len(sources) + number, name, record, reader)
    stage.probe(record)


def _source(
    stage: Rehearsal, number: int, name: str, record: Record, complete: list[Snapshot], reader: SnapshotReader
) -> None:
    goal_facts: dict[str, Any] = record["sources"][name]["fingerprint"]
    verbs, repository = stage.surroundings.verbs, reader.repo
    outcome = SourceOutcome(name, data_time=parse_iso(record["sources"][name]["data_time"]))
    stage.outcomes.append(outcome)
    older: list[tuple[Snapshot, dict[str, Any]]] = []
    for snapshot in complete:
        facts = checked_record(verbs.record(repository, snapshot))["sources"].get(name, {}).get("fingerprint", {})
        same = facts.get("system_identifier") == goal_facts["system_identifier"]
        if same and parse_lsn(facts["log_end"]) <= parse_lsn(goal_facts["end_lsn"]):
            older.append((snapshot, facts))
    if not older:
        outcome.trouble.append("there is no older base backup of this server to begin from: run the job once more")
        return
    snapshot, facts = older[-1]
    index = LogIndex.read(LogArchive(repository, facts["system_identifier"]), facts["segment_bytes"])
    target = target_of(goal_facts)
    source = cast(PostgresqlSource, stage.request.sources[name])
    instance = _boot(stage, number, name, facts, outcome)
    if instance is None:
        return
    with stage.step(phases.LOAD, outcome, native=True), SnapshotReader(repository, snapshot) as own:
        try:
            notes = source.recover(
                instance,
                own.files(name),
                lambda place, mine: roll_forward(index, facts, target, place, mine),
            )
        except NoSuchError as error:  # the archive does not lead there: that is what is tested
            outcome.bad.append(error.message)
            return
        finally:
            stage.sandbox.record(instance)
        outcome.level = 3
        began = f"from the base backup {snapshot.short_id} of {iso(snapshot.time)}"
        outcome.checks.append(
            CheckResult(
                f"{name}: recovery along the log", "no error", "no error", True, 3, detail=f"{began}: {notes[0]}"
            )
        )
    if outcome.level == 3:
        with stage.step(phases.COMPARE, outcome, native=True):
            wanted = {**goal_facts, "target_lsn": instance.connection["target_lsn"]}
            checks = source.compare(instance, wanted)
            outcome.checks += [replace(check, name=f"{name}: {check.name}") for check in checks]


def _tail(stage: Rehearsal, number: int, name: str, record: Record, reader: SnapshotReader) -> None:
    """From the newest base backup as far as the archived log leads: the newest commit that a server has replayed is what is
    proven present, whatever production says it has sent."""
    facts: dict[str, Any] = record["sources"][name]["fingerprint"]
    outcome = stage.outcomes[-1]
    if outcome.bad or outcome.trouble or not all(check.ok for check in outcome.checks):
        return
    source, before = cast(PostgresqlSource, stage.request.sources[name]), stage.instances[name]
    source.stop(before)
    stage.request.host.remove_tree(before.directory)
    index = LogIndex.read(LogArchive(reader.repo, facts["system_identifier"]), facts["segment_bytes"])
    goal: Goal | None = None

    def forward(place: Callable[[str, bytes], None], own: Callable[[str], bytes]) -> Goal:
        nonlocal goal
        goal = roll_forward(index, facts, Target("latest"), place, own)
        return goal

    instance = _boot(stage, number, name, facts, outcome)
    if instance is None:
        return
    with stage.step(phases.LOAD, outcome, native=True):
        try:
            notes = source.recover(instance, reader.files(name), forward)
        finally:
            stage.sandbox.record(instance)
        newest = goal.last_commit if goal is not None else None
        if newest is not None and (outcome.data_time is None or newest > outcome.data_time):
            outcome.data_time = newest
        proven = f"proven present up to {iso(outcome.data_time)}" if outcome.data_time is not None else ""
        title = f"{name}: recovery to the end of the log"
        outcome.checks.append(CheckResult(title, "no error", "no error", True, 3, detail=f"{notes[0]}; {proven}"))


def _boot(stage: Rehearsal, number: int, name: str, facts: dict[str, Any], outcome: SourceOutcome) -> Instance | None:
    """A private server for these facts; None when there is none, and the outcome says why."""
    with stage.step(phases.BOOT, outcome, native=False):
        source = cast(PostgresqlSource, stage.request.sources[name])
        instance = source.boot(stage.request.host, stage.sandbox.instance(number), facts)
        stage.instances[name] = instance
        stage.sandbox.record(instance)
    return None if outcome.trouble else instance


def target_of(facts: dict[str, Any]) -> Target:
    """The record at which a fingerprint was true: its snapshots' place in the log, or the end of its base backup."""
    exact = facts["target_lsn"]
    return Target("lsn", lsn=parse_lsn(exact or facts["end_lsn"]), inclusive=bool(exact))


SCENARIO = Scenario(
    name="point-in-time",
    proves="an older base backup and the archived log lead to a later instant, and every row is what it was there",
    steps=(
        "take the newest base backup that lies before the newest snapshot",
        "let a private server replay the archived log to the very record at which the newest snapshot's tables were read",
        "compare every table with what that snapshot says the server held",
        "let another server replay the log from the newest base backup to its end: its last commit is what is not lost",
    ),
    criteria=(
        "the log leads there without a hole",
        "the server's own log says that it stopped at that record",
        "every table equals what was read at that instant",
        "the log behind the newest base backup replays to its end",
    ),
    needs=("a PostgreSQL source with `method: physical` and an archived log", "two complete snapshots"),
    run=run,
)
