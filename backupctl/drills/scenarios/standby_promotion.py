"""A standby takes over: warm from an older snapshot, brought to the tested one, promoted behind a fence; the old primary is kept
out, and the new one is backed up.

Everything is done by the operations that `backupctl standby` calls, on a directory of the sandbox. The repository is the real
one under an overlay: the fence, the records and the new primary's backup stay in memory. So that what the servers hold can be
compared row by row, their replay stops at the very place of the log at which the tested snapshot's tables were read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from backupctl.clock import parse_iso
from backupctl.config.models import Job, Settings
from backupctl.drills import processes
from backupctl.drills import stopwatch as phases
from backupctl.drills.interlocks import MAINTENANCE
from backupctl.drills.model import DrillRequest
from backupctl.drills.scenario import Rehearsal, file_checks, planned_bytes
from backupctl.drills.scenarios.point_in_time import target_of
from backupctl.drills.scenarios.protocol import Record, Scenario
from backupctl.drills.surroundings import Warm
from backupctl.drills.verdict import SourceOutcome
from backupctl.errors import CouldNotRunError
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.verify import verify_tree
from backupctl.sources.binlog_archive import archive_of, piece_of
from backupctl.sources.mariadb_binlog import Position
from backupctl.sources.mariadb_replay import sequence
from backupctl.sources.protocol import CheckResult, DatabaseSource
from backupctl.sources.wal_format import format_lsn, is_segment_name, segment_place

BUILD, REFRESH, PROMOTE, ATTEMPT, RESUME = (
    "build the standby",
    "refresh it",
    "fence and promote",
    "try what is fenced off",
    "back up the new primary",
)
SEGMENT_DIGITS = 24
BEGINS = {"postgresql": "SELECT (txid_current() > 0)::int", "mariadb": "SELECT NOT @@GLOBAL.read_only"}
PAUSED = "SELECT pg_last_wal_replay_lsn(), pg_get_wal_replay_pause_state()"


def run(stage: Rehearsal, reader: SnapshotReader, record: Record) -> None:
    request, around = stage.request, stage.surroundings
    tested = request.snapshot
    assert tested is not None
    reader.close()
    kept = around.verbs.kept_warm(request.job)
    warm = {
        name: facts["fingerprint"]
        for name, facts in record["sources"].items()
        if name in kept and facts["fingerprint"].get("method") == "physical"
    }
    before, after = stage.rehearsed(request.repository), stage.rehearsed(request.repository)
    complete = around.verbs.complete(after, request.job.job)
    older = [one for one in complete if one.time < tested.time]
    newer = [one for one in before.snapshots() if one.time > tested.time]  # of every job: they may hold log
    _hide(before, [*newer, tested] if older else newer)
    _hide_log(before, warm)
    _hide(after, [one for one in complete if one.time > tested.time])
    outcomes = {
        name: SourceOutcome(name, level=3, data_time=parse_iso(facts["data_time"]))
        for name, facts in record["sources"].items()
    }
    takeover = SourceOutcome("promotion", level=3)
    stage.outcomes += [takeover, *outcomes.values()]
    local = {name: _stop_at(facts) for name, facts in warm.items()}
    directory = stage.sandbox.directory + b"/standby"
    with (
        stage.workroom() as workroom,
        around.verbs.standby(
            _settings(around.settings, request, workroom),
            request.job.job,
            on=request.settings.on,
            directory=directory,
            local=local,
        ) as standby,
    ):
        try:
            with stage.step(BUILD, takeover, native=True):
                standby.refresh(before)
        finally:
            _remember(stage, standby, warm)
        if takeover.checks or takeover.trouble:
            return
        stage.stopwatch.strike()
        with stage.step(REFRESH, takeover, native=True):
            found = standby.refresh(after)
            same = CheckResult("the standby follows the tested snapshot", tested.id, found, found == tested.id, 4)
            takeover.checks.append(same)
            takeover.checks += [_arrived(stage, standby, name, facts) for name, facts in warm.items()]
        if takeover.trouble or not all(check.ok for check in takeover.checks):
            return  # what came of it would not be what was tested
        with stage.step(PROMOTE, takeover, native=True):
            epoch, timelines = standby.promote()
            takeover.checks += _promoted(request.job, epoch, timelines, warm)
        if takeover.trouble or not all(check.ok for check in takeover.checks):
            return
        _remember(stage, standby, warm)
        _compare(stage, standby, outcomes, warm)
        with stage.step(ATTEMPT, takeover, native=True):
            for what, told in standby.attempts():
                takeover.checks.append(CheckResult(what, "refused", told or "it got through", bool(told), 4))
        with stage.step(RESUME, takeover, native=True):
            snapshot = standby.back_up()
            takeover.checks.append(
                CheckResult("backups of the new primary", "complete", "complete", True, 4, detail=snapshot)
            )


def _hide(repository: Repository, snapshots: list[Snapshot]) -> None:
    """In this overlay."""
    with repository.lock():
        for one in snapshots:
            repository.delete_snapshot(one.id)


def _hide_log(repository: Repository, warm: dict[str, Any]) -> None:
    """In this overlay: log that leads to where the tested snapshot stands."""
    with repository.lock():
        for facts in warm.values():
            archive, leads_there = _log_of(repository, facts)
            for name in archive.names():
                if leads_there(name):
                    archive.delete(name)


def _log_of(repository: Repository, facts: Any) -> tuple[LogArchive, Callable[[str], bool]]:
    """Where the server's log is received, and which pieces of it lead there."""
    if facts["kind"] == "mariadb":
        file = sequence(facts["binary_log"][0])
        return archive_of(
            repository, facts["server_uid"]
        ), lambda name: (piece := piece_of(name)) is not None and sequence(piece.file) >= file
    size, place = facts["segment_bytes"], target_of(facts).lsn

    def leads_there(name: str) -> bool:
        segment = name[:SEGMENT_DIGITS]
        return is_segment_name(segment) and segment_place(segment, size)[1] + size > place

    return LogArchive(repository, facts["system_identifier"]), leads_there


def _stop_at(facts: Any) -> str:
    if facts["kind"] == "mariadb":
        return f"[backupctl]\nreplay_until = {Position(*facts['binary_log'])}\n"
    target = target_of(facts)
    inclusive = "on" if target.inclusive else "off"
    return (
        "listen_addresses = ''\nautovacuum = off\nrecovery_target_action = pause\n"
        f"recovery_target_lsn = '{format_lsn(target.lsn)}'\nrecovery_target_inclusive = {inclusive}\n"
    )


def _settings(real: Settings, request: DrillRequest, workroom: Path) -> Settings:
    """One job, that touches nothing else: no copies, no hooks, nobody is told. The others are known for the log that they store."""
    job = request.job.model_copy(
        update={
            "repository": request.repository,
            "copies": [],
            "hooks": [],
            "drills": {},
            "notify": [],
            "schedule": None,
            "retention": None,
        }
    )
    return real.model_copy(
        update={
            "catalog": f"sqlite:///{workroom / 'catalog.db'}",
            "repositories": {request.repository: real.repositories[request.repository]},
            "jobs": {**real.jobs, job.job: job},
            "standby": {},
            "notify": {},
            "fleet": None,
            "telemetry": None,
            "cache": None,
        }
    )


def _remember(stage: Rehearsal, standby: Warm, warm: dict[str, Any]) -> None:
    """Every server of the standby, so that it ends with the drill whatever happens."""
    for name in warm:
        try:
            instance = standby.server(name)
        except CouldNotRunError:
            continue  # it was not built; what went wrong has been said
        instance.connection["started"] = processes.start_time(stage.request.host, instance.pid)
        stage.instances[name] = instance
        stage.sandbox.record(instance)


def _arrived(stage: Rehearsal, standby: Warm, name: str, facts: Any) -> CheckResult:
    """Did the log lead to where the tested snapshot stands? There the server pauses."""
    source, title = cast(DatabaseSource, stage.request.sources[name]), f"{name}: replay up to the tested snapshot"
    instance = standby.server(name)
    if facts["kind"] == "mariadb":
        wanted, short = f"up to {Position(*facts['binary_log'])}", instance.connection["short"]
        return CheckResult(title, wanted, short or wanted, not short, 4)
    ((at, state),) = source.query(instance, "postgres", PAUSED)
    said = f"{state} at {at}" if state == "paused" else f"the log ends at {at}"
    return CheckResult(title, f"paused at {format_lsn(target_of(facts).lsn)}", said, state == "paused", 4)


def _promoted(job: Job, epoch: int, timelines: dict[str, int], warm: dict[str, Any]) -> list[CheckResult]:
    checks = [
        CheckResult("the epoch that began", str(job.epoch + 1), str(epoch), epoch == job.epoch + 1, 4),
    ]
    for name, facts in warm.items():
        if facts["kind"] != "postgresql":
            continue
        old, new = int(facts["timeline"]), timelines.get(name, 0)
        checks.append(CheckResult(f"{name}: timeline", f"later than {old}", str(new), new > old, 4))
    return checks


def _compare(stage: Rehearsal, standby: Warm, outcomes: dict[str, SourceOutcome], warm: dict[str, Any]) -> None:
    request, manifest = stage.request, stage.request.manifest
    for name, outcome in outcomes.items():
        with stage.step(phases.COMPARE, outcome, native=True):
            if name not in warm:
                assert manifest is not None
                report = verify_tree(request.host, standby.files(name), manifest, name)
                outcome.held = report.entries > 0
                outcome.checks += file_checks(name, report)
                outcome.trouble += [f"{path} could not be compared: {why}" for path, why in report.unchecked[:10]]
                continue
            source = cast(DatabaseSource, request.sources[name])
            instance, wanted, ask = standby.server(name), warm[name], BEGINS[warm[name]["kind"]]
            if wanted["kind"] == "postgresql":
                place = {"target_lsn": format_lsn(target_of(wanted).lsn)}
                instance.connection |= {**place, "timeline": str(wanted["timeline"])}
                wanted = wanted | place
            checks = source.compare(instance, wanted)
            outcome.checks += [replace(check, name=f"{name}: {check.name}") for check in checks]
            ((answer,),) = source.query(instance, MAINTENANCE[source.kind], ask)
            outcome.checks.append(CheckResult(f"{name}: it takes transactions", "1", answer, answer == "1", 4))


def room(request: DrillRequest, record: Record) -> int:
    """The standby, and the log that is brought beside each server."""
    return 2 * planned_bytes(request, record)


SCENARIO = Scenario(
    name="standby-promotion",
    proves="a standby takes over with everything that is stored, the old primary is kept out, and backups go on from the new one",
    steps=(
        "build a standby in the sandbox from the snapshot before the tested one, its servers from that base backup",
        "declare the disaster; refresh it to the tested snapshot, fetching what differs, and replaying the log to its very place",
        "raise the fence, promote the servers",
        "compare every file with the manifest and every table with the fingerprint",
        "try what an old primary and a second standby would do",
        "back up the new primary by the configuration that promoting printed",
    ),
    criteria=(
        "every file and every row is what the tested snapshot says",
        "each server takes transactions, PostgreSQL's on a timeline of its own",
        "backups and log of the old primary, an epoch that never began and a second promotion are refused",
        "the backup of the new primary is complete",
    ),
    needs=("room for the job twice on the staging host",),
    run=run,
    room=room,
)
