"""Restoring to a point in time: the logs that later snapshots hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime

from backupctl.errors import DamageError, NoSuchError, UsageError
from backupctl.operations.records import SnapshotTags, fingerprint_of
from backupctl.operations.select import parse_time
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.sources.protocol import Fingerprint, SnapshotFiles

LATEST = "latest"


def parse_until(text: str, zone: str) -> datetime | str | None:
    """None for `latest`; an instant for a time (wall clock of `zone` unless it names an offset); else the kind's own word."""
    if text == LATEST:
        return None
    try:
        return parse_time(text, zone)
    except UsageError:
        return text


def is_time(text: str) -> bool:
    return isinstance(parse_until(text, "UTC"), datetime)


def stored_logs(repository: Repository, kind: str, stack: ExitStack) -> Iterator[tuple[Fingerprint, SnapshotFiles]]:
    """Of every source of that kind, of any job, newest snapshot first. A snapshot whose facts cannot be read has none to offer."""
    for snapshot in sorted(repository.snapshots(), key=lambda one: one.time, reverse=True):
        if not SnapshotTags.of(snapshot).ours:
            continue
        try:
            sources = fingerprint_of(repository, snapshot)["sources"]
        except (DamageError, NoSuchError):
            continue
        for name, facts in sources.items():
            if facts["kind"] == kind:
                reader = stack.enter_context(SnapshotReader(repository, snapshot))
                yield facts["fingerprint"], reader.files(name)
