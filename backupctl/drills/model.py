"""What a drill is asked to do and what it found: plain values, and the JSON that the repository and the report keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from backupctl.clock import iso, parse_iso
from backupctl.errors import DamageError
from backupctl.sources.protocol import CheckResult

if TYPE_CHECKING:  # reading a drill's record must not load the engine
    from backupctl.config.drilling import DrillSettings
    from backupctl.config.models import Job
    from backupctl.drills.interlocks import Production
    from backupctl.drills.surroundings import Surroundings
    from backupctl.hosts.protocol import Host
    from backupctl.repository.format.snapshot import Snapshot
    from backupctl.repository.manifest import ManifestReader
    from backupctl.repository.reader import SnapshotReader
    from backupctl.sources.protocol import Source

SCHEMA = 1
ADDED = ("measures", "interlocks", "draw", "control")  # records of earlier versions have none of these

Verdict = Literal["pass", "fail", "inconclusive", "stale", "skipped"]


@dataclass(frozen=True, slots=True)
class Phase:
    """`seconds` of one phase, summed over the sources."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ObjectiveSeconds:
    """What the job promises; None where it promises nothing."""

    rto: float | None = None
    rpo: float | None = None


@dataclass(frozen=True, slots=True)
class Instants:
    """Seconds since the declaration, t0, at which the steps of a recovery were reached; None for one that was not. What
    each is stands in `stopwatch`."""

    t1: float | None = None
    t2: float | None = None
    t3: float | None = None
    t4: float | None = None
    t5: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """No measurement: what recovering `bytes` in production might take, from what a drill took for `measured_bytes`.
    `scale` is how fast the staging host is against the one in production."""

    seconds: float
    bytes: int
    measured_bytes: int
    scale: float = 1.0


@dataclass(slots=True)
class Measures:
    """`key_seconds`: of t1, what fetching passwords and keys took. `heartbeat`: the newest change that a `fresh` probe found
    in the restored data; without one, the RPO counts from when the source was looked at."""

    instants: Instants = field(default_factory=Instants)
    key_seconds: float = 0.0
    heartbeat: datetime | None = None
    estimate: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        found["heartbeat"] = iso(self.heartbeat) if self.heartbeat is not None else None
        return found

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Measures:
        """Raises KeyError, TypeError or ValueError for what `to_json` did not make."""
        return cls(
            instants=Instants(**found["instants"]),
            key_seconds=float(found["key_seconds"]),
            heartbeat=parse_iso(found["heartbeat"]) if found["heartbeat"] is not None else None,
            estimate=Estimate(**found["estimate"]) if found["estimate"] is not None else None,
        )


@dataclass(slots=True)
class Cleanup:
    """`proved`: the directory is gone, no process of the drill lives, no socket listens. `facts`: how that was seen."""

    proved: bool = False
    facts: list[str] = field(default_factory=list)


@dataclass(slots=True)
class DrillRequest:
    """One rehearsal. `snapshot`, `reader`, `fingerprint`, `manifest` are None together: no complete snapshot exists.

    `id` is the run's id and names the sandbox. `declared` is t0, when the disaster was declared; `disaster` the instant
    up to which changes are asked for (default `declared`). `measured`: phases the caller went through after `declared`
    and before `run_drill`, such as opening the repository. `newest` is the time of the job's newest complete
    snapshot when the drill tests an older one on purpose. `scale`: see `Estimate`."""

    id: str
    name: str  # JOB/DRILL
    job: Job
    settings: DrillSettings
    snapshot: Snapshot | None
    reader: SnapshotReader | None
    fingerprint: Mapping[str, Any] | None
    manifest: ManifestReader | None
    sources: Mapping[str, Source]
    host: Host
    scratch: bytes
    declared: datetime
    max_disk: int | None = None  # bytes
    disaster: datetime | None = None
    newest: datetime | None = None
    repository: str = ""
    measured: Sequence[Phase] = ()
    surroundings: Surroundings | None = None
    production: Production | None = None
    chosen: frozenset[str] | None = None  # the sources to rehearse; None: all
    key_seconds: float = 0.0
    newest_bytes: int = 0  # of the newest complete snapshot, all sources: what a recovery in production would restore
    scale: float = 1.0

    @property
    def struck(self) -> datetime:
        """The disaster instant."""
        return self.disaster or self.declared


@dataclass(slots=True)
class DrillResult:
    """What a drill found. `rto_seconds` is None when service was never validated, `rpo_seconds` when content was not
    proven. `reasons` say in words why the verdict is not a plain pass, and name objectives missed."""

    id: str
    name: str
    job: str
    scenario: str
    host: str
    repository: str
    snapshot: str
    snapshot_time: datetime | None
    declared: datetime
    disaster: datetime
    finished: datetime
    verdict: Verdict
    level: int
    phases: list[Phase]
    checks: list[CheckResult]
    rto_seconds: float | None
    rpo_seconds: float | None
    objectives: ObjectiveSeconds
    restored_bytes: int
    reasons: list[str]
    cleanup: Cleanup
    measures: Measures = field(default_factory=Measures)
    interlocks: list[str] = field(default_factory=list)  # what was looked at before anything was written, in words
    draw: dict[str, Any] | None = None  # how the snapshot was drawn, see `catalog.selection`
    control: dict[str, Any] | None = (
        None  # of a negative control: the damage that was made, and what the drill said of it
    )

    def to_record(self) -> dict[str, Any]:
        """JSON-ready, with `schema`. The inverse is `from_record`."""
        record = asdict(self)
        for name in ("snapshot_time", "declared", "disaster", "finished"):
            record[name] = iso(record[name]) if record[name] is not None else None
        return {"schema": SCHEMA, **record, "measures": self.measures.to_json()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> DrillResult:
        """Raises DamageError when the record is not one that `to_record` of this schema made."""
        try:
            if record["schema"] != SCHEMA:
                raise ValueError(f"schema {repr(record['schema'])[:40]} is not {SCHEMA}")
            values = {name: record[name] for name in cls.__dataclass_fields__ if name in record or name not in ADDED}
            for name in ("snapshot_time", "declared", "disaster", "finished"):
                values[name] = parse_iso(values[name]) if values[name] is not None else None
            values["phases"] = [Phase(**phase) for phase in values["phases"]]
            values["checks"] = [CheckResult(**check) for check in values["checks"]]
            values["objectives"] = ObjectiveSeconds(**values["objectives"])
            values["cleanup"] = Cleanup(**values["cleanup"])
            if "measures" in values:
                values["measures"] = Measures.from_json(values["measures"])
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise DamageError(f"this is no drill record: {str(error)[:200]}", name="drill record") from None
        return cls(**values)
