"""Passwords of a repository, and the move to a new one when its master key may be known to somebody who should not have it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backupctl.config.secrets import fetch_secret
from backupctl.errors import ConfigError, DamageError
from backupctl.hosts.secret import SecretRef
from backupctl.operations.context import Context
from backupctl.operations.copy import CopyResult, copy_everything, open_pair
from backupctl.operations.records import readable
from backupctl.operations.setup import generate_key
from backupctl.repository.copy import missing_in, origin, plan_copy
from backupctl.repository.fence import copy_fences
from backupctl.repository.keys import KeyRemoval, RepositoryKey, add_key, list_keys, plan_removal, remove_key
from backupctl.repository.repository import Repository

MOVED_RECORDS = ("check", "drill", "hold", "clearance")


def password_of(file: Path) -> str:
    """The password in a file that only its owner may read. Raises ConfigError."""
    try:
        return fetch_secret(SecretRef(file=str(file.absolute()))).decode()
    except UnicodeDecodeError:
        raise ConfigError(
            f"the password in {file} is no UTF-8 text", next_step="use a text password; restic can read no other"
        ) from None


def keys_of(context: Context, name: str, password_file: Path | None = None) -> list[RepositoryKey]:
    """Every key; `opens` with the configured password, or with that in `password_file`."""
    repository = context.resources.repository(name)
    password = password_of(password_file) if password_file is not None else context.resources.password(name)
    return list_keys(repository, password)


def key_in_use(context: Context, name: str) -> str:
    """The short id of the key that the configured password opens."""
    return next((key.short_id for key in keys_of(context, name) if key.opens), "unknown")


def add(context: Context, name: str, password_file: Path) -> tuple[RepositoryKey, bool]:
    """One more key, with the password in a file; a file that does not exist is generated (0600) first, and then the
    second value is True."""
    repository = context.resources.repository(name)
    generated = bool(generate_key(SecretRef(file=str(password_file.absolute()))))
    key = add_key(repository, password_of(password_file))
    context.audit("key.added", name, key=key.id)
    return key, generated


def removal(context: Context, name: str, prefix: str, proof_file: Path | None) -> KeyRemoval:
    """What removing the key means. Raises UsageError for what would lock everybody out."""
    proof = password_of(proof_file) if proof_file is not None else None
    repository = context.resources.repository(name)
    return plan_removal(repository, prefix, password=context.resources.password(name), proof=proof)


def remove(context: Context, name: str, planned: KeyRemoval) -> None:
    remove_key(context.resources.repository(name), planned)
    context.audit("key.removed", name, key=planned.key.id)


@dataclass(slots=True)
class Rotation:
    """A planned move of everything into a new repository with a new master key."""

    old: str
    new: str
    snapshots: int = 0  # in the old one
    missing: int = 0  # of those not in the new one yet
    bytes: int = 0  # of content to copy
    records: int = 0  # of checks, drills and holds to move
    jobs: list[str] = field(default_factory=list)  # whose `repository` is the old one
    copying_jobs: list[str] = field(default_factory=list)  # whose `copies` name it
    problems: list[str] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def plan_rotation(context: Context, old: str, new: str) -> Rotation:
    """Changes nothing. Raises NoSuchError while there is no new repository, UsageError when both are the same."""
    source, destination = open_pair(context, old, new)
    plan = Rotation(old, new)
    with source.lock(), destination.lock():
        snapshots = readable(source, plan.problems)
        missing = missing_in(destination, snapshots)
        plan.snapshots, plan.missing = len(snapshots), len(missing)
        try:
            plan.bytes = plan_copy(source, destination, missing).bytes
        except DamageError as error:
            plan.problems.append(error.message)
        plan.records = sum(1 for _ in _records_to_move(source, destination))
    plan.jobs = [job.job for job in context.settings.jobs.values() if job.repository == old]
    plan.copying_jobs = [job.job for job in context.settings.jobs.values() if old in job.copies]
    return plan


def rotate(context: Context, old: str, new: str) -> CopyResult:
    """Copy every snapshot, whoever made it, and then the records of checks, drills and holds. Goes on where an earlier
    one stopped. Nothing is removed from the old repository."""
    result = copy_everything(context, old, new)
    source, destination = open_pair(context, old, new)
    with source.lock(), destination.lock():
        for kind, data in _records_to_move(source, destination):
            destination.save_record(kind, data)
        for job in context.settings.jobs.values():
            if job.repository in (old, new):
                copy_fences(source, destination, job.job)
    context.audit("key.rotated", old, into=new, snapshots=len(result.copied), problems=len(result.problems))
    return result


def _records_to_move(source: Repository, destination: Repository) -> Iterator[tuple[str, bytes]]:
    """(kind, content) of what the destination lacks. Holds name their snapshot by its new id. One that cannot be read is
    an error: a hold that was lost on the way would protect nothing."""
    renamed = {origin(one): one.id for one in destination.snapshots()}
    originals = {one.id: origin(one) for one in readable(source, [])}
    for kind in MOVED_RECORDS:
        there = {hashlib.sha256(destination.load_record(kind, one)).digest() for one in destination.records(kind)}
        for record in sorted(source.records(kind)):
            data = source.load_record(kind, record)
            if kind == "hold":
                data = _renamed_hold(data, originals, renamed)
            if hashlib.sha256(data).digest() not in there:
                yield kind, data


def _renamed_hold(data: bytes, originals: dict[str, str], renamed: dict[str, str]) -> bytes:
    facts = json.loads(data)
    snapshot = facts["snapshot"]
    facts["snapshot"] = renamed.get(originals.get(snapshot, snapshot), snapshot)
    return json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()
