"""The archived log of PostgreSQL servers in copies: without it a base backup there leads to its own instant only."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from backupctl.errors import DamageError, NoSuchError
from backupctl.operations.records import SnapshotTags, fingerprint_of
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.log_archive import PREFIX, DifferentContentError, LogArchive
from backupctl.repository.repository import Repository
from backupctl.sources.wal_format import is_segment_name, parse_lsn, segment_place
from backupctl.sources.wal_index import history_timeline


def needed_log(source: Repository, snapshots: Iterable[Snapshot]) -> list[tuple[str, str]]:
    """(server, name) of what `source` holds of the log from the oldest base backup among `snapshots` on: whole segments and
    histories of timelines, oldest first. A snapshot whose fingerprint cannot be read needs nothing here."""
    if next(iter(source.store.list(PREFIX)), None) is None:
        return []
    first: dict[str, tuple[int, int]] = {}  # server → first LSN that is needed, bytes of a segment
    for snapshot in snapshots:
        if not SnapshotTags.of(snapshot).fingerprint:
            continue
        try:
            sources = fingerprint_of(source, snapshot)["sources"]
        except (DamageError, NoSuchError):
            continue  # it could not be copied either, and that was told
        for one in (facts["fingerprint"] for facts in sources.values()):
            if one.get("method") == "physical" and "system_identifier" in one:
                start, server = parse_lsn(one["start_lsn"]), one["system_identifier"]
                first[server] = (min(start, first.get(server, (start, 0))[0]), one["segment_bytes"])
    return [
        (server, name)
        for server, (start, size) in sorted(first.items())
        for name in LogArchive(source, server).names()
        if history_timeline(name) is not None or (is_segment_name(name) and segment_place(name, size)[1] + size > start)
    ]


def copy_log(
    source: Repository,
    destination: Repository,
    needed: Iterable[tuple[str, str]],
    problems: list[str],
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[int, int]:
    """What of `needed` the destination lacks, sealed with its own key: how many, and their bytes. What cannot be read in the
    source, or is there with other content, goes to `problems`, and the rest is copied. The caller holds both locks."""
    count = size = 0
    there: dict[str, set[str]] = {}
    for server, name in needed:
        target = LogArchive(destination, server)
        if server not in there:
            there[server] = set(target.names())
        if name in there[server]:
            continue
        archive = LogArchive(source, server)
        try:
            content = archive.get(name)
            target.put(name, content, archive.look(name).facts)
        except NoSuchError:
            continue  # it expired meanwhile
        except (DamageError, DifferentContentError) as error:
            problems.append(f"log segment {name} cannot be copied: {error.message}")
            continue
        count, size = count + 1, size + len(content)
        progress(size)
    return count, size
