"""What a run had finished reading when it was interrupted, for the next run of the same job: the record `partial`.

It is written while a run reads, names a tree, and is a hint like a parent snapshot is: a file is taken over from it only
when size, times and inode say that it is the same, and when all its blobs are in the index. The tree holds what the run
had done, and for the rest what its own parent had. It counts only while the snapshot that the run began from is still the
newest of its job, and is no snapshot to anybody.

    {"job":"website","parent":"<snapshot id, or empty>","run":"<run id>","schema":1,"time":"<RFC 3339>"}
    <zstd frame of a manifest: manifest_facts.py>
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from backupctl.clock import iso, parse_iso
from backupctl.errors import DamageError, NoSuchError, StorageError
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.manifest import ManifestReader
from backupctl.repository.manifest_facts import ManifestFacts
from backupctl.repository.repository import Repository

RECORD_KIND = "partial"
SCHEMA = 1
KEPT = timedelta(days=14)  # prune leaves a partial, and what it needs, alone for so long

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Partial:
    """One such record. `parent` is the id of the snapshot that the run began from, "" for none."""

    id: str
    job: str
    run: str
    parent: str
    time: datetime
    facts: ManifestFacts

    def is_current(self, snapshots: Iterable[Snapshot]) -> bool:
        """Whether the job has committed nothing since the run began."""
        mine = [one for one in snapshots if f"job:{self.job}" in one.tags]
        return self.parent == (max(mine, key=lambda one: one.time).id if mine else "")


def partials(repository: Repository) -> Iterator[Partial]:
    """Those that can be read; the others are worth a warning and nothing more."""
    for record_id in repository.records(RECORD_KIND):
        try:
            yield _decode(record_id, repository.load_record(RECORD_KIND, record_id))
        except NoSuchError:
            continue  # its run has just written the next
        except DamageError as error:
            log.warning("cannot use what an interrupted run left: %s", error.message)


class PartialKeeper:
    """The partials of one run of a job: finds what an earlier one left, keeps this one's, removes them all in the end."""

    def __init__(self, repository: Repository, job: str, run: str, parent: Snapshot | None) -> None:
        self._repository, self._job, self._run, self._parent = repository, job, run, parent
        self._mine: list[str] = []

    def find(self) -> Partial | None:
        """The newest that this run can go on from. Nothing that is wrong with it is raised but what the store raises."""
        parent = self._parent.id if self._parent is not None else ""
        found = [one for one in partials(self._repository) if one.job == self._job]
        self._mine = [one.id for one in found]
        usable = [one for one in found if one.parent == parent and self._repository.has_blob("tree", one.facts.tree)]
        return max(usable, key=lambda one: one.time, default=None)

    def save(self, facts: ManifestFacts) -> None:
        """What was done by now, all of it durable and in the index. Then those before it go."""
        head = {
            "schema": SCHEMA,
            "job": self._job,
            "run": self._run,
            "parent": self._parent.id if self._parent is not None else "",
            "time": iso(self._repository.clock.now()),
        }
        line = json.dumps(head, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
        saved = self._repository.save_record(RECORD_KIND, line + b"\n" + facts.encode())
        self.clear()
        self._mine = [saved]

    def clear(self) -> None:
        """Remove them. A store that forbids deleting keeps them: they are of no use to anybody, and do no harm."""
        for record_id in self._mine:
            try:
                self._repository.delete_record(RECORD_KIND, record_id)
            except StorageError as error:
                log.warning("a record that is no longer needed stays: %s", error.message)
        self._mine = []


def _decode(record_id: str, data: bytes) -> Partial:
    """Raises DamageError."""
    name = f"backupctl/{RECORD_KIND}/{record_id}"
    line, _, rest = data.partition(b"\n")
    try:
        head = json.loads(line)
        if head["schema"] != SCHEMA:
            raise ValueError(f"schema {str(head['schema'])[:20]} is not known here")
        texts = [head[key] for key in ("job", "run", "parent", "time")]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("its head is not made of texts")
        job, run, parent, time = texts
        return Partial(record_id, job, run, parent, parse_iso(time), ManifestReader(rest, name=name).facts)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamageError(f"{name} cannot be read: {error}", name=name) from None
