"""Checking our own records: what every snapshot names, and on request all the others."""

from __future__ import annotations

from collections.abc import Iterable

from backupctl.errors import Corrupt, DamageError, Denied, NoSuchError, NotFound
from backupctl.repository import commit, fence, records
from backupctl.repository.check_trees import CheckProblem, Report
from backupctl.repository.format import FormatError
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository


def check_records(repository: Repository, snapshots: Iterable[Snapshot], problem: Report, *, every: bool) -> int:
    """The fingerprint and manifest of each snapshot; with `every`, all other records too. The bytes read."""
    done: dict[tuple[str, str], tuple[CheckProblem | None, str]] = {}
    bytes_read = 0

    def look(kind: str, record_id: str, *, needed: bool = True) -> tuple[CheckProblem | None, str]:
        """What is wrong with it, and the manifest it names. One that nobody needs may be gone: its run has ended."""
        nonlocal bytes_read
        if (kind, record_id) in done:
            return done[kind, record_id]
        name = records.record_name(kind, record_id)
        found: CheckProblem | None = None
        manifest = ""
        try:
            data = repository.load_record(kind, record_id)
            bytes_read += len(data)
            manifest = records.manifest_id(data) if kind == "fingerprint" else ""
        except FormatError as error:
            found = problem(name, f"{name}: {error}")
        except (DamageError, NoSuchError, Denied) as error:
            if needed or not isinstance(error, NoSuchError):
                found = problem(name, error.message)
        done[kind, record_id] = found, manifest
        return found, manifest

    for snapshot in snapshots:
        for fingerprint in records.fingerprints_of(snapshot):
            found, manifest = look("fingerprint", fingerprint)
            for bad in (found, look("manifest", manifest)[0] if manifest else None):
                if bad is not None:
                    bad.snapshots.append(snapshot.id)
    for info in repository.store.list(records.PREFIX) if every else ():
        kind, _, record_id = info.name.removeprefix(records.PREFIX).partition("/")
        if kind == commit.KIND:
            try:
                bytes_read += commit.check_decision(repository, info.name)
            except (DamageError, Corrupt, Denied) as error:
                problem(info.name, error.message)
            except NotFound:
                continue  # pruned between list and get
        elif kind == fence.KIND:
            try:
                bytes_read += fence.check_fence(repository, info.name)
            except (DamageError, Denied) as error:
                problem(info.name, error.message)
        elif records.is_record(kind, record_id):
            look(kind, record_id, needed=False)
    return bytes_read
