"""The scenario `full`: every source of one snapshot is restored on the staging host and compared with what it held.

Files are restored into the sandbox and each is checked against the manifest; databases stream straight from the
snapshot into a throw-away instance, and every table is compared with the fingerprint. Then the job's own probes. A
source that fails does not keep the others from being tried, so that the report names everything.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeGuard

from backupctl.clock import Clock, parse_iso
from backupctl.drills import stopwatch as phases
from backupctl.drills.interlocks import DiskCeiling, refuse_server
from backupctl.drills.model import DrillRequest
from backupctl.drills.probes import RestoredSystem, run_probes
from backupctl.drills.sandbox import Sandbox
from backupctl.drills.stopwatch import Stopwatch
from backupctl.drills.surroundings import Surroundings
from backupctl.drills.verdict import SourceOutcome, blames_backup, explain
from backupctl.drills.watched import CountingFiles, WatchedPlacer
from backupctl.errors import CouldNotRunError, DamageError, InterruptedRunError, UnreachableError, UserError
from backupctl.hosts.local import LocalHost
from backupctl.repository.manifest_facts import SourceTotals
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.restore import RestoreStats, restore
from backupctl.repository.verify import VerifyReport, verify_tree
from backupctl.sources.postgresql_heartbeat import READ as READ_HEARTBEAT
from backupctl.sources.postgresql_heartbeat import TABLE as HEARTBEAT_TABLE
from backupctl.sources.protocol import NOT_PERFORMED, CheckResult, DatabaseSource, Instance, Source
from backupctl.sources.software import SoftwareSource, shown
from backupctl.storage.overlay import OverlayStore

if TYPE_CHECKING:
    from backupctl.config.drilling import ProbeSettings

Progress = Callable[[str, int, int | None], None]
"""Called with the phase, the bytes restored (or compared) so far, and how many there are (None: not known). Called
often: must be cheap."""

BYTES_PER_ENTRY = 4096
SHOWN_DIFFERENCES = 100
SHOWN_PACKAGES = 20
DUMP_GROWTH = 2.5
"""A loaded dump with its indexes and write-ahead log, against the dump itself."""
RECOVERY_BYTES = 256 << 20
"""What a recovering server writes beside its restored files: log segments, mostly."""
EMPTY_INSTANCE_BYTES = {"postgresql": 160 << 20, "mariadb": 256 << 20, "mysql": 256 << 20}


class TimeUp(BaseException):
    """The drill's time budget is spent. No Exception, so that nothing on the way takes it for an ordinary failure."""


@dataclass(slots=True)
class Deadline:
    clock: Clock
    seconds: float | None
    _start: float = 0.0

    def __post_init__(self) -> None:
        self._start = self.clock.monotonic()

    def left(self) -> float | None:
        """Seconds left; None without a limit. Raises TimeUp when there are none."""
        if self.seconds is None:
            return None
        left = self._start + self.seconds - self.clock.monotonic()
        if left <= 0:
            raise TimeUp
        return left


@dataclass(slots=True)
class Rehearsal:
    """One pass through the scenario, and what it saw so far: readable even when it was cut short."""

    request: DrillRequest
    sandbox: Sandbox
    stopwatch: Stopwatch
    deadline: Deadline
    progress: Progress
    total_bytes: int = 0
    outcomes: list[SourceOutcome] = field(default_factory=list)
    probes: list[CheckResult] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    instances: dict[str, Instance] = field(default_factory=dict)
    restored_bytes: int = 0
    heartbeats: dict[str, datetime] = field(default_factory=dict)  # by source, the newest change that a probe found
    looked: list[str] = field(default_factory=list)  # interlocks on servers, in words

    @property
    def ceiling(self) -> DiskCeiling:
        return DiskCeiling(self.request.max_disk, self.sandbox.used_bytes)

    def chance(self) -> random.Random:
        """What is drawn in this drill: the same again for the same id, which is in its record."""
        return random.Random(self.request.id)  # noqa: S311  a draw that anybody can repeat, no secret

    @property
    def surroundings(self) -> Surroundings:
        """Raises CouldNotRunError in a drill that was given none."""
        if self.request.surroundings is None:
            raise CouldNotRunError(f"the scenario {self.request.settings.scenario} needs the configuration around it")
        return self.request.surroundings

    def rehearsed(self, name: str) -> Repository:
        """The repository `name` over a store that keeps what is written to it: damage and repairs stay in this drill.
        Neither its locks nor the local cache are seen."""
        clock, resources = self.deadline.clock, self.surroundings.resources
        store = OverlayStore(resources.store(name), clock=clock, hidden=("locks/",))
        return Repository.open(store, resources.password(name), clock=clock)

    @contextmanager
    def workroom(self) -> Iterator[Path]:
        """A private directory on this machine, gone afterwards. In the sandbox where that is on this machine too: then
        the next drill removes what a killed one left."""
        here = os.fsdecode(self.sandbox.directory) if isinstance(self.request.host, LocalHost) else None
        with TemporaryDirectory(prefix="backupctl-drill-", dir=here) as directory:
            yield Path(directory)

    def run(self, reader: SnapshotReader, record: Mapping[str, Any]) -> None:
        manifest = self.request.manifest
        self.total_bytes = sum(manifest.totals(name).bytes for name in record["sources"]) if manifest else 0
        planned = [_outcome(name, record) for name in planned_sources(self.request, record)]
        self.outcomes += planned
        for number, outcome in enumerate(planned):
            self._source(number, outcome, reader, record)
        self.probe(record)

    def _source(self, number: int, outcome: SourceOutcome, reader: SnapshotReader, record: Mapping[str, Any]) -> None:
        facts, source = record["sources"].get(outcome.name), self.request.sources.get(outcome.name)
        if facts is None:
            outcome.bad.append("the job has this source, the snapshot does not hold it")
        elif source is None or source.kind != facts["kind"]:
            outcome.trouble.append(
                "the job no longer describes this source, so it cannot be restored the way it was saved"
            )
        elif is_database(source):
            self._database(number, outcome, source, facts["fingerprint"], reader)
        else:
            self.files(outcome, reader)
            if isinstance(source, SoftwareSource):
                self._inventory(outcome, source, reader)

    def _inventory(self, outcome: SourceOutcome, source: SoftwareSource, reader: SnapshotReader) -> None:
        """How the staging host differs from the one that was saved: good to know, and no fault of the backup."""
        with self.step(phases.COMPARE, outcome, native=False):
            for one in source.differences(self.request.host, reader.files(outcome.name)):
                outcome.checks.append(
                    CheckResult(
                        f"{outcome.name}: {one.section.replace('_', ' ')} of the staging host",
                        "told, whatever it is",
                        one.summary,
                        True,
                        3,
                        detail=shown(one.lines(), SHOWN_PACKAGES),
                    )
                )

    def files(self, outcome: SourceOutcome, reader: SnapshotReader) -> None:
        """Everything below the source's directory, as files, compared with the manifest."""
        host, target, manifest = self.request.host, self.sandbox.files_of(outcome.name), self.request.manifest
        begun = self.stopwatch.elapsed()
        stats = self.restore(outcome, reader, outcome.name.encode(), target)
        if stats is not None and not stats.problems:
            outcome.level = 3
            detail = "; ".join([f"{stats.restored_files} files, {stats.restored_bytes} bytes", *stats.warnings[:10]])
            outcome.checks.append(_restored(outcome, detail, self.stopwatch.elapsed() - begun))
        if not outcome.trouble and manifest is not None:
            with self.step(phases.COMPARE, outcome, native=True):
                report = verify_tree(
                    host,
                    target,
                    manifest,
                    outcome.name,
                    progress=lambda entries, done, path: self.progress(phases.COMPARE, done, self.total_bytes),
                )
                outcome.held = report.entries > 0
                outcome.checks += file_checks(outcome.name, report)
                outcome.trouble += [
                    f"{path} could not be compared: {why}" for path, why in report.unchecked[:SHOWN_DIFFERENCES]
                ]

    def restore(
        self, outcome: SourceOutcome, reader: SnapshotReader, path: bytes, target: bytes
    ) -> RestoreStats | None:
        """`path` of the snapshot into the directory `target` of the sandbox. What the backup could not give is a failed
        check of the outcome, what the staging host refused is its trouble. None when it stopped half-way."""
        stats: RestoreStats | None = None
        with self.step(phases.RESTORE_FILES, outcome, native=False):
            self.request.host.make_directory(target)
            with self.request.host.placer(target) as inner:
                placer = WatchedPlacer(inner)
                before = self.restored_bytes
                stats = restore(
                    reader,
                    placer,
                    path=path,
                    progress=lambda files, done, path: self._report(phases.RESTORE_FILES, before + done),
                )
            refused = [problem.message for problem in stats.problems if problem.message in placer.refused]
            damaged = [problem for problem in stats.problems if problem.message not in placer.refused]
            outcome.trouble += [f"{phases.RESTORE_FILES}: {message}" for message in refused[:SHOWN_DIFFERENCES]]
            outcome.checks += [
                failed(f"{outcome.name}: restore of {problem.path}", 3, problem.message)
                for problem in damaged[:SHOWN_DIFFERENCES]
            ]
        return stats

    def _database(
        self,
        number: int,
        outcome: SourceOutcome,
        source: DatabaseSource,
        fingerprint: dict[str, Any],
        reader: SnapshotReader,
    ) -> None:
        instance: Instance | None = None
        with self.step(phases.BOOT, outcome, native=False):
            instance = source.boot(self.request.host, self.sandbox.instance(number), fingerprint)
            self.instances[outcome.name] = instance
            self.sandbox.record(instance)
            if instance.pid > 0:  # nothing to ask where nothing runs yet
                self.looked += refuse_server(source, instance, self.sandbox.directory, fingerprint)
        if instance is None or outcome.trouble:
            return
        with self.step(phases.LOAD, outcome, native=True):
            begun = self.stopwatch.elapsed()
            before = self.restored_bytes
            files = CountingFiles(reader.files(outcome.name), lambda done: self._report(phases.LOAD, before + done))
            starts_later = instance.pid == 0
            try:
                notes = source.load(instance, files)
            finally:
                outcome.level = 2 if files.all_read else 0
                self.sandbox.record(instance)  # some servers start only now
            if starts_later and instance.pid > 0:  # from the pages of the one that was saved
                self.looked += refuse_server(source, instance, self.sandbox.directory, fingerprint, same=True)
            outcome.level = 3
            outcome.checks.append(_restored(outcome, "; ".join(notes), self.stopwatch.elapsed() - begun))
        if outcome.level == 3:
            with self.step(phases.COMPARE, outcome, native=True):
                checks = source.compare(instance, fingerprint)
                outcome.checks += [replace(check, name=f"{outcome.name}: {check.name}") for check in checks]

    def probe(self, record: Mapping[str, Any]) -> None:
        """What the job's owner wants to see, asked of the servers that run now and the files that were restored."""
        planned = [*self.request.settings.probes, *self._heartbeats_to_read(record)]
        if not planned or any(outcome.trouble for outcome in self.outcomes):
            return  # without everything in place a probe would blame the backup for what staging lacks
        self._report(phases.PROBE, self.restored_bytes)
        with self.stopwatch.phase(phases.PROBE):
            system = RestoredSystem(
                self.request.host,
                self.sandbox.directory,
                self.sandbox.files,
                self._running_databases(record),
                viewed={name: parse_iso(facts["data_time"]) for name, facts in record["sources"].items()},
                rpo=self.request.job.objectives.rpo,
                heartbeats=self.heartbeats,
            )
            try:
                for check in run_probes(planned, system, self.deadline.clock, self.deadline.left):
                    self.probes.append(check)
            except (UnreachableError, CouldNotRunError) as error:
                self.trouble.append(f"{phases.PROBE}: {explain(error)}")

    def _heartbeats_to_read(self, record: Mapping[str, Any]) -> list[ProbeSettings]:
        """A `fresh` probe for each restored source with a heartbeat. A snapshot from before there was one is no worse for it."""
        from backupctl.config.drilling import FreshProbe, ProbeSettings

        probes = []
        for name in self.instances:
            database = getattr(getattr(self.request.sources[name], "options", None), "heartbeat", None)
            if database is None:
                continue
            held = (record["sources"][name]["fingerprint"].get("databases") or {}).get(database, {})
            if HEARTBEAT_TABLE in held.get("tables", {}):
                probes.append(ProbeSettings(fresh=FreshProbe(source=name, database=database, query=READ_HEARTBEAT)))
            else:
                actual = f"{NOT_PERFORMED}: the snapshot holds no {HEARTBEAT_TABLE} in database {database}"
                self.probes.append(CheckResult(f"heartbeat: {name}", "a time", actual, True, 5))
        return probes

    def _running_databases(self, record: Mapping[str, Any]) -> dict[str, tuple[DatabaseSource, Instance, list[str]]]:
        running = {}
        for name, instance in self.instances.items():
            source = self.request.sources[name]
            if is_database(source):
                databases = record["sources"][name]["fingerprint"].get("databases") or {}
                running[name] = (source, instance, list(databases))
        return running

    def _report(self, phase: str, restored_bytes: int) -> None:
        self.restored_bytes = restored_bytes
        self.ceiling.restored(restored_bytes)
        self.progress(phase, restored_bytes, self.total_bytes)

    @contextmanager
    def step(self, phase: str, outcome: SourceOutcome, *, native: bool) -> Iterator[None]:
        """One timed step of one source. What goes wrong in it belongs to that source, and the drill goes on."""
        self.deadline.left()
        self._report(phase, self.restored_bytes)
        try:
            with self.stopwatch.phase(phase):
                yield
            if phase in phases.RESTORING:
                self.ceiling.look()
        except InterruptedRunError:
            raise
        except (UserError, OSError) as error:
            if blames_backup(error, native=native):
                level = 4 if phase == phases.COMPARE else 3
                outcome.checks.append(failed(f"{outcome.name}: {phase}", level, explain(error)))
            else:
                outcome.trouble.append(f"{phase}: {explain(error)}")


def is_database(source: Source) -> TypeGuard[DatabaseSource]:
    return hasattr(source, "boot")


def planned_sources(request: DrillRequest, record: Mapping[str, Any]) -> list[str]:
    """What the snapshot holds and what the job protects now: neither may be passed over in silence."""
    return sorted(request.chosen if request.chosen is not None else {*record["sources"], *request.job.sources})


def planned_bytes(request: DrillRequest, record: Mapping[str, Any]) -> int:
    """Room the restore will need on the staging host, estimated from the manifest."""
    total = 0.0
    for name, facts in record["sources"].items():
        held = request.manifest.totals(name) if request.manifest else SourceTotals()
        size = held.bytes + held.entries * BYTES_PER_ENTRY
        if facts["kind"] in ("files", "sqlite", "software"):
            total += size
        elif facts["fingerprint"].get("method") == "physical":
            total += size + RECOVERY_BYTES
        else:
            total += size * DUMP_GROWTH + EMPTY_INSTANCE_BYTES.get(facts["kind"], 0)
    return int(total)


def file_checks(source: str, report: VerifyReport) -> list[CheckResult]:
    """One check for the whole tree, and one for each difference (the first hundred). None when there was nothing."""
    if not report.entries and not report.difference_count:
        return []
    differ, unchecked = report.difference_count, report.unchecked_count
    found = f"{differ} differences" if differ else "no difference"
    checks = [
        CheckResult(
            f"{source}: {report.entries} entries against the manifest",
            "no difference",
            found + (f", {unchecked} entries not compared" if unchecked else ""),
            differ == 0,
            4,
            detail=f"content of {report.files} files compared, {report.bytes} bytes",
        )
    ]
    for one in report.differences[:SHOWN_DIFFERENCES]:
        checks.append(CheckResult(f"{source}: {one.aspect} of {one.path}", one.expected, one.actual, False, 4))
    return checks


def checked_record(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fingerprint record, with what a drill needs from it in place; DamageError otherwise."""
    try:
        for facts in record["sources"].values():
            _ = (facts["kind"], facts["fingerprint"], parse_iso(facts["data_time"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamageError(f"the fingerprint record is malformed: {error!r}", name="fingerprint record") from None
    return record


def _outcome(name: str, record: Mapping[str, Any]) -> SourceOutcome:
    facts = record["sources"].get(name)
    if facts is None:
        return SourceOutcome(name)
    return SourceOutcome(name, held=_held(facts), data_time=parse_iso(facts["data_time"]))


def _held(facts: Mapping[str, Any]) -> bool:
    """False only for a database source whose fingerprint says that it had no table at all."""
    databases = facts["fingerprint"].get("databases")
    if not isinstance(databases, Mapping):
        return True
    return any(not isinstance(one, Mapping) or one.get("tables", True) for one in databases.values())


def failed(name: str, level: int, message: str) -> CheckResult:
    return CheckResult(name, "no error", message, False, level)


def _restored(outcome: SourceOutcome, detail: str, seconds: float) -> CheckResult:
    return CheckResult(f"{outcome.name}: restore", "no error", "no error", True, 3, round(seconds, 6), detail)
