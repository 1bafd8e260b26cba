"""One kind of thing to protect. Adding a kind = one module here, one line in `registry.py`, its conformance tests.

A backup calls `preflight`, then `open`, then reads every entry of the session, then asks it for its fingerprint.
A restore or drill gets the same source's directory out of a snapshot and calls `restore` (into a directory), or
`boot` (a throw-away instance) + `compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, runtime_checkable

from backupctl.clock import Clock
from backupctl.errors import UsageError
from backupctl.hosts.protocol import ByteSource, Host, Placer
from backupctl.repository.entry import Entry
from backupctl.repository.stretches import Weight

Fingerprint = dict[str, Any]
"""JSON-ready facts about what the source held at the instant of its view: `kind`, `time` (when the view was opened, UTC),
`versions`, and per kind: databases → tables → {rows, digest}, schema digest, roles, sequences, positions."""


def differ(before: str, after: str) -> bool:
    """Whether two digests of a table say that its content is not the same, or one is not there (""). Those that were made in
    different ways, of which a word before a colon tells, say nothing."""
    ways = {digest.partition(":")[0] if ":" in digest else "" for digest in (before, after) if digest}
    return before != after and (not before or not after or len(ways) == 1)


@dataclass(frozen=True, slots=True)
class PreflightFinding:
    severity: Literal["error", "warning", "info"]
    message: str
    next_step: str = ""


@dataclass(slots=True)
class StagingNeeds:
    """What a restore elsewhere needs: room, and what is missing for it there."""

    bytes: int = 0
    findings: list[PreflightFinding] = field(default_factory=list)


NOT_PERFORMED = "not performed"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One assertion of a drill: what was expected, what was found. `level` is the proof level it belongs to (0..6).
    `evidence`: SHA-256 of everything that was seen, of which `actual` and `detail` show a part; "" where they show all."""

    name: str  # e.g. "table public.articles"
    expected: str
    actual: str
    ok: bool
    level: int
    seconds: float = 0.0
    detail: str = ""
    evidence: str = ""

    @property
    def performed(self) -> bool:
        return was_performed(self.actual)


def was_performed(actual: str) -> bool:
    """What was not performed says so, and is neither good nor bad."""
    return not actual.startswith(NOT_PERFORMED)


class Session(Protocol):
    """One consistent view of a source. Use as a context manager; leaving it ends every process it started."""

    def entries(self) -> Iterator[Entry]:
        """Named entries, relative to the source's directory, in the order `repository.entry` asks for."""

    def fingerprint(self) -> Fingerprint:
        """Call after `entries` is exhausted. Taken inside the same view of the data. Raises SourceError."""

    def __enter__(self) -> Session: ...

    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class TreeSession(Session, Protocol):
    """One that can hand over whole directories of this machine instead of walking them itself."""

    def trees(self) -> Iterator[Entry]:
        """As `entries`, but what lies in such a directory is not yielded: its entry has `below`."""


@runtime_checkable
class DividedSession(Session, Protocol):
    """One that several workers may read at once, each some directories of it."""

    split: int | None
    """How many; None for one."""

    def trees(self, elsewhere: Collection[bytes] = ()) -> Iterator[Entry]:
        """As `TreeSession.trees`, without the directories `elsewhere` and what they hold."""

    def stretch(self, directories: Iterable[bytes]) -> Iterator[Entry]:
        """These directories alone, with what they hold."""

    def weights(self, load: Callable[[bytes], bytes], tree: bytes | None, *, least: int) -> list[Weight]:
        """What there is to divide: by `tree`, what the parent snapshot has of this source, else by looking. What weighs less
        than `least` is one piece."""

    def inodes(self) -> list[int]:
        """Of the places that it reads: another worker that finds others reads something else."""

    def met(self) -> tuple[Mapping[str, int], int]:
        """Objects of each kind that it has met, and their bytes."""

    def seen(self, kinds: Mapping[str, int], size: int) -> None:
        """What another session of the same source has met, for the fingerprint."""

    def __enter__(self) -> DividedSession: ...


@runtime_checkable
class DividedSource(Protocol):
    """One whose sessions are such."""

    def open_part(self, host: Host, clock: Clock) -> DividedSession:
        """As `Source.open`, while another session holds what has to be held."""


@runtime_checkable
class WarningSession(Protocol):
    """One that may have something to say when it is over, which does not make what it read any worse."""

    warnings: list[str]


@runtime_checkable
class StreamSession(Protocol):
    """One that cannot sort what it sends: its entries come in any order, and the trees are built at the end."""

    def stream(self) -> Iterator[Entry]:
        """As `Session.entries`, in any order. An entry with `error` names something about a path that was sent, too."""

    def fingerprint(self) -> Fingerprint: ...

    def __enter__(self) -> StreamSession: ...

    def __exit__(self, *exc: object) -> None: ...


class StoredFiles(Protocol):
    """Files by name, to be read."""

    def names(self, directory: bytes = b"") -> list[bytes]:
        """Sorted names in a directory of the snapshot."""

    def open(self, path: bytes) -> ByteSource: ...

    def size(self, path: bytes) -> int: ...


class SnapshotFiles(StoredFiles, Protocol):
    """A source's directory inside a snapshot, as a restore sees it."""

    def restore(
        self, placer: Placer, path: bytes = b"", progress: Callable[[int], None] = lambda done: None
    ) -> list[str]:
        """All that a directory of the snapshot holds, into the placer's root, pack by pack: what could not be restored.
        `progress` is told the bytes done."""


@dataclass(slots=True)
class Instance:
    """A throw-away server that a drill or restore started. `stop` ends it by pid and is idempotent."""

    kind: str
    host: Host
    directory: bytes
    version: str
    connection: dict[str, str] = field(default_factory=dict)  # kind-specific: socket directory, port, database
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """What of one database is wanted: all of it, or `tables` by their names in the fingerprint. `schema` or `table` is what was
    asked for; `rename` what it, or the database, shall be called."""

    database: str
    tables: tuple[str, ...] = ()
    schema: str = ""
    table: str = ""
    rename: str = ""


class Source(Protocol):
    name: str  # the source's name in the job
    kind: str

    def preflight(self, host: Host) -> list[PreflightFinding]: ...

    def open(self, host: Host, clock: Clock) -> Session | StreamSession: ...


Target = datetime | str
"""The end of a recovery: an instant (everything committed by then), or a position or transaction in the kind's own words."""
StoredLogs = Iterator[tuple[Fingerprint, StoredFiles]]
"""What is stored of sources of one kind, newest snapshot first: a source takes from it as many logs as it needs."""


class DatabaseSource(Source, Protocol):
    """Sources whose restore needs a server (or, for SQLite, the library)."""

    def boot(self, host: Host, directory: bytes, fingerprint: Fingerprint) -> Instance:
        """Start an empty private instance in `directory` (which must not exist), no network, as an unprivileged user.
        Raises CouldNotRunError when the host lacks the programs, naming the package."""

    def load(self, instance: Instance, files: SnapshotFiles, *, databases: Sequence[str] | None = None) -> list[str]:
        """Restore with the native tool, stopping at the first error. Returns notes. Raises DamageError when the
        dump itself is bad, CouldNotRunError when the instance fails."""

    def compare(self, instance: Instance, fingerprint: Fingerprint) -> list[CheckResult]:
        """Content against fingerprint: every table, schema, counts. Never empty for a source that held anything."""

    def query(self, instance: Instance, database: str, sql: str) -> list[list[str]]:
        """Run one read-only statement for a probe; rows of text."""

    def examine(self, instance: Instance, databases: Sequence[str]) -> list[CheckResult]:
        """What the kind's own checker says of what was restored, a result for each database; nothing where there is no
        checker. Raises CouldNotRunError when the host lacks it."""

    def client_command(self, instance: Instance, database: str) -> list[str]:
        """What a person types on the instance's host to look into the database."""

    def stop(self, instance: Instance) -> None: ...

    def data_time(self, fingerprint: Fingerprint) -> datetime:
        """The instant the view of the data was opened."""


@runtime_checkable
class StagedSource(Protocol):
    """One that can tell before its first drill whether a staging host will do."""

    def staging_needs(self, host: Host, staging: Host) -> StagingNeeds:
        """Raises UserError when the source itself cannot be asked."""


@runtime_checkable
class PartSource(Protocol):
    """A database source that can restore less than a database, or under another name."""

    def load_part(self, instance: Instance, files: SnapshotFiles, part: Part, fingerprint: Fingerprint) -> list[str]:
        """As `load`; what comes back of single tables is compared with the source's fingerprint at once. Notes for people.
        Raises DamageError, CouldNotRunError, UsageError for a backup that cannot be taken apart."""


class BeforeBackupError(UsageError):
    """A point that lies before the end of the backup from which it should be reached."""


@runtime_checkable
class PointInTimeSource(DatabaseSource, Protocol):
    """One that can go on from a backup through logs that were stored later."""

    def log_time(self, fingerprint: Fingerprint, logs: StoredLogs) -> datetime | None:
        """When the newest stored log of the same server was read; None when none is stored, or none is of use."""

    def find(self, fingerprint: Fingerprint, logs: StoredLogs, until: Target | None) -> str:
        """Where `load_until` would end, in words, told from the logs alone. Raises what that would, before it touches anything."""

    def load_until(
        self,
        instance: Instance,
        files: SnapshotFiles,
        fingerprint: Fingerprint,
        logs: StoredLogs,
        until: Target | None,
    ) -> list[str]:
        """As `load`, of everything, and on to `until`; None is as far as the logs reach. Raises NoSuchError for a target that
        they do not reach, BeforeBackupError, DamageError for logs that are damaged or have a gap before it."""


Facts = Mapping[str, str]
