"""Reading from a copy what the primary cannot give: all of it, one snapshot, its records, or one blob; always verified, and
always said."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from backupctl.config.models import Job
from backupctl.errors import DamageError, NoSuchError, UsageError, UserError
from backupctl.operations.browse import repository_name
from backupctl.operations.context import Context
from backupctl.operations.records import fingerprint_of, readable
from backupctl.repository.copy import fetch_blob, find_copy
from backupctl.repository.format.pack import BlobKind
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository

Facts = TypeVar("Facts")
log = logging.getLogger(__name__)


class Fallback:
    """What stands in for the repository `name` when something in it cannot be read. Thread-safe."""

    def __init__(self, context: Context, name: str, others: Sequence[str]) -> None:
        self.name = name
        self._context, self._others = context, others
        self._guard = threading.RLock()
        self._blobs: dict[str, int] = {}
        self._said: list[str] = []

    @property
    def notes(self) -> list[str]:
        """In words, what did not come from `name`, or from elsewhere than asked for."""
        return self._said + [
            f"{number} blob(s) that cannot be read in {self.name} came from {name}"
            for name, number in self._blobs.items()
        ]

    def say(self, note: str) -> None:
        self._said.append(note)
        self._context.reporter.event("warning", note, repository=self.name)

    def __call__(self, kind: BlobKind, blob: bytes, why: DamageError) -> bytes | None:
        """The blob from one of the others, verified; None when none has it. For `Repository.fallback`."""
        with self._guard:
            try:
                data, found = fetch_blob(self.repositories(), kind, blob)
            except NoSuchError:
                return None
            name = repository_name(self._context, found)
            if name not in self._blobs:
                note = f"{self.name}: {why.message}; reading from {name} what is damaged there"
                self._context.reporter.event("warning", note, repository=self.name)
            self._blobs[name] = self._blobs.get(name, 0) + 1
            return data

    def repositories(self) -> Iterator[Repository]:
        """The others, each opened when it is asked for; one that cannot be opened is passed over."""
        for name in self._others:
            try:
                yield self._context.resources.repository(name)
            except UserError as error:
                log.warning("%s cannot be opened: %s", name, error.message)

    def records(
        self, repository: Repository, snapshot: Snapshot, read: Callable[[Repository, dict[str, Any]], Facts]
    ) -> Facts:
        """What `read` makes of a repository and the snapshot's fingerprint record in it: there, or else in a copy. Raises
        what was said first, DamageError or NoSuchError."""
        try:
            return read(repository, fingerprint_of(repository, snapshot))
        except (DamageError, NoSuchError) as error:
            for other in self.repositories():
                try:
                    if (found := find_copy(snapshot, readable(other, []))) is None:
                        continue
                    facts = read(other, fingerprint_of(other, found))
                except UserError as second:
                    log.warning("%s: %s", other.store.location, second.message)
                    continue
                self.say(f"{self.name}: {error.message}; taken from {repository_name(self._context, other)}")
                return facts
            raise


@dataclass(frozen=True, slots=True)
class Opened:
    """A snapshot and the repository that it is read from, called `name`."""

    name: str
    repository: Repository
    snapshot: Snapshot
    fallback: Fallback


def open_snapshot(
    context: Context, job: Job, choose: Callable[[Repository], Snapshot], *, origin: str | None = None
) -> Opened:
    """The snapshot that `choose` finds, in the job's repository or, when that cannot give it, in the first of its copies
    that can; with `origin`, in that one or not at all. What is damaged in there is read from the others.

    Raises what the first one said, UsageError for an `origin` that holds no copy of the job."""
    places = [job.repository, *job.copies]
    if origin is not None and origin not in context.settings.repositories:
        known = ", ".join(context.settings.repositories)
        raise NoSuchError(f"no repository named {origin!r}; known: {known}", next_step="backupctl config show")
    first: UserError | None = None
    for name in [origin] if origin is not None else places:
        try:
            repository = context.resources.repository(name)
            snapshot = choose(repository)
        except UsageError:
            raise
        except UserError as error:
            first = first or error
            continue
        fallback = Fallback(context, name, [other for other in places if other != name])
        if first is not None:
            fallback.say(f"{job.repository} cannot give it ({first.message}); reading from its copy {name}")
        repository.fallback = fallback
        return Opened(name, repository, snapshot, fallback)
    assert first is not None
    raise first
