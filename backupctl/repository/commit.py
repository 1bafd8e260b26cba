"""Which snapshot a run leaves, decided once, in the store itself.

A worker that was stopped just before it stores its snapshot and wakes up an hour later has asked everybody it could ask.
Only the store can refuse it: the decision is an object that is created and never overwritten, `backupctl/commit/<SHA-256 of
the run's id>`, and it holds the sealed snapshot itself. Whoever creates it has decided. Whoever finds it there stores what it
holds, the same bytes under the same name, so that it matters to nobody which of them goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from backupctl.errors import DamageError, Exists, NotFound
from backupctl.repository import records
from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import seal, unseal
from backupctl.repository.format.snapshot import Snapshot, decode_snapshot, encode_snapshot
from backupctl.repository.format.unpacked import decode_unpacked, encode_unpacked
from backupctl.repository.repository import Repository

KIND = "commit"
KEPT = timedelta(days=7)
"""A decision is of use while a worker of its run may still wake up."""


def commit_once(repository: Repository, snapshot: Snapshot, run: str, *, still_ours: Callable[[], None]) -> Snapshot:
    """Store the snapshot of this run and return it with its id: `snapshot`, or the one that another worker of the same run
    has decided on. `still_ours` raises when the run belongs to somebody else; it is asked before each step. Everything the
    snapshot refers to must be durable. Raises LockedError as `Repository.save_snapshot`, DamageError for a decision that
    cannot be read."""
    repository.require_writable()
    repository.confirm_locks()
    sealed = seal(repository.keys, encode_unpacked(encode_snapshot(snapshot)))
    still_ours()
    try:
        repository.store.put(_name(run), sealed, if_absent=True)
    except Exists:
        sealed = repository.store.get(_name(run))
    decided = _read(repository, _name(run), sealed)
    still_ours()
    repository.store.put(f"snapshots/{decided.id}", sealed)
    return decided


def decided(repository: Repository, run: str) -> Snapshot | None:
    """What a worker of this run has decided on already. Raises DamageError."""
    try:
        return _read(repository, _name(run), repository.store.get(_name(run)))
    except NotFound:
        return None


def check_decision(repository: Repository, name: str) -> int:
    """The bytes read of a decision, which no hash of its own names: its seal is what it must pass. Raises DamageError,
    NotFound when it has gone meanwhile."""
    sealed = repository.store.get(name)
    _read(repository, name, sealed)
    return len(sealed)


def past(repository: Repository, now: datetime) -> Iterator[str]:
    """The names of the decisions that are of no use any more."""
    for info in repository.store.list(f"{records.PREFIX}{KIND}/"):
        if now - info.modified > KEPT and records.is_record(KIND, info.name.rpartition("/")[2]):
            yield info.name


def _name(run: str) -> str:
    return records.record_name(KIND, hashlib.sha256(run.encode()).hexdigest())


def _read(repository: Repository, name: str, sealed: bytes) -> Snapshot:
    try:
        snapshot_id = hashlib.sha256(sealed).hexdigest()
        snapshot = decode_snapshot(decode_unpacked(unseal(repository.keys, sealed)), snapshot_id)
    except FormatError as error:
        raise DamageError(
            f"{name}: {error}", name=name, next_step=f"delete that object, then run it again: {name}"
        ) from None
    return snapshot
