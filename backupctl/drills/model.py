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
    from backupctl.config.models import DrillSettings, Job
    from backupctl.drills.surroundings import Surroundings
    from backupctl.hosts.protocol import Host
    from backupctl.repository.format.snapshot import Snapshot
    from backupctl.repository.manifest import ManifestReader
    from backupctl.repository.reader import SnapshotReader
    from backupctl.sources.protocol import Source

SCHEMA = 1

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
    snapshot when the drill tests an older one on purpose."""

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

    def to_record(self) -> dict[str, Any]:
        """JSON-ready, with `schema`. The inverse is `from_record`."""
        record = asdict(self)
        for name in ("snapshot_time", "declared", "disaster", "finished"):
            record[name] = iso(record[name]) if record[name] is not None else None
        return {"schema": SCHEMA, **record}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> DrillResult:
        """Raises DamageError when the record is not one that `to_record` of this schema made."""
        try:
            if record["schema"] != SCHEMA:
                raise ValueError(f"schema {repr(record['schema'])[:40]} is not {SCHEMA}")
            values = {name: record[name] for name in cls.__dataclass_fields__}
            for name in ("snapshot_time", "declared", "disaster", "finished"):
                values[name] = parse_iso(values[name]) if values[name] is not None else None
            values["phases"] = [Phase(**phase) for phase in values["phases"]]
            values["checks"] = [CheckResult(**check) for check in values["checks"]]
            values["objectives"] = ObjectiveSeconds(**values["objectives"])
            values["cleanup"] = Cleanup(**values["cleanup"])
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise DamageError(f"this is no drill record: {str(error)[:200]}", name="drill record") from None
        return cls(**values)
