"""The place that holds a repository's objects, reduced to what a repository needs.

Objects are write-once and small enough to hold in memory (a pack is about 16 MiB). Names use `/` and are relative to
the store's root. Every store passes `tests/conformance/test_storage.py`; errors are classified once, as in
`backupctl.errors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    name: str
    size: int  # bytes
    modified: datetime  # UTC, as the store says


@dataclass(frozen=True, slots=True)
class Immutability:
    """Whether the store really refused to delete what is to be kept, measured with our own credentials just now."""

    refuses_deletion: bool
    reason: str
    claimed: bool  # the configuration says that it does
    possible: tuple[str, ...] = ()  # what these credentials can do all the same
    tried: tuple[tuple[str, str, bool], ...] = ()  # against one locked object: (what, outcome, refused or harmless)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What `probe` tried and what really happened, one line each: (what, outcome, good). `immutability` is None where
    nobody asked for it."""

    facts: tuple[tuple[str, str, bool], ...]
    immutability: Immutability | None = None


@dataclass(frozen=True, slots=True)
class Posture:
    """One thing that a store says of itself, and whether that is as it should be. `info`: it would not say."""

    what: str
    outcome: str
    severity: Literal["ok", "info", "warning", "error"] = "ok"
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a store says when it is asked without writing anything. `server_time` is UTC, to the second; None where the store
    has no clock of its own."""

    postures: tuple[Posture, ...] = ()
    server_time: datetime | None = None


class ObjectStore(Protocol):
    location: str  # for people: no secrets, e.g. "s3://bucket/prefix at https://host" or "/srv/repository"

    def put(self, name: str, data: bytes, *, if_absent: bool = False) -> None:
        """Store `data` durably under `name`, all or nothing: a reader sees the whole object or none, also after a
        crash. With `if_absent`, raise Exists when the name is taken. Raises Denied, Full, Transient."""

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Exactly the bytes asked for. Raises NotFound, Denied, Transient, and Corrupt when fewer come back."""

    def stat(self, name: str) -> ObjectInfo:
        """Raises NotFound."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose name starts with `prefix`, recursively, in name order."""

    def delete(self, name: str) -> None:
        """Idempotent: a missing object is no error. Raises Denied."""

    def retain(self, name: str, until: datetime) -> None:
        """Ask the store to refuse deletion before `until`. Raises UserError where the store cannot."""

    def locked_until(self, name: str) -> datetime | None:
        """Until when the store says that it refuses to delete what `get` gives now; None: it is not locked. Raises NotFound,
        and Denied where these credentials may not know."""

    def inspect(self) -> Inspection:
        """How the store is set up, by its own words and by reading alone. What may not be asked is told as such."""

    def probe(self) -> ProbeResult:
        """Try what the store promises (put, overwrite-if-absent, wrong checksum, delete) on a scratch name and report
        behaviour, never headers. Leaves nothing behind."""

    def close(self) -> None: ...
