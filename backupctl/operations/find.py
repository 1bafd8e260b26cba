"""Which snapshots hold a file, and when it changed; which files a damaged object takes with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from backupctl.errors import DamageError, NoSuchError, UsageError
from backupctl.operations.browse import ListedSnapshot, list_snapshots, locate, repository_name
from backupctl.operations.context import Context
from backupctl.operations.records import SnapshotTags, fingerprint_of
from backupctl.repository.find import Finder, Query, Version, blob_ids, pack_contents, versions, with_content
from backupctl.repository.format.node import Node
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Search:
    """`job`, `snapshot`, `since`, `until` choose snapshots; the rest what to look for in them. Hexadecimal words: `sha256`
    is a whole file's, `object_id` a blob's or tree's (or its beginning), `pack` a pack's."""

    query: Query
    job: str | None = None
    snapshot: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    sha256: str | None = None
    object_id: str | None = None
    pack: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    repository: str
    job: str  # "" for snapshots that are not ours
    version: Version


@dataclass(slots=True)
class FindResult:
    """`problems`: what could not be looked into, so that something in it may have been missed."""

    found: list[Found] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    searched: int = 0  # snapshots


def find(context: Context, search: Search) -> FindResult:
    """By repository and job, then by path, each path's newest version first. Raises NoSuchError for an unknown job or
    snapshot, or for an object that no repository knows."""
    result = FindResult()
    lost: NoSuchError | None = None
    known = False
    for name, snapshots in _by_repository(context, search).items():
        repository = context.resources.repository(name)
        with repository.lock():
            try:
                query = _resolve(repository, search)
            except NoSuchError as error:
                lost = error
                continue
            known = True
            finder = Finder(repository, query)
            for job in sorted({SnapshotTags.of(one).job for one in snapshots}):
                own = [one for one in snapshots if SnapshotTags.of(one).job == job]
                result.searched += len(own)
                matches = (
                    (one, SnapshotTags.of(one).complete, _matches(repository, finder, one, query, search, result))
                    for one in own
                )
                result.found += [Found(name, job, version) for version in versions(matches)]
            result.problems += finder.problems
    if lost is not None and not known:
        raise lost
    return result


def _by_repository(context: Context, search: Search) -> dict[str, list[Snapshot]]:
    """Newest first. A copy is left out where its original is there: it holds the same files. Not its packs, though."""
    if search.snapshot is not None:
        repository, one = locate(context, search.snapshot)
        return {repository_name(context, repository): [one]}
    chosen: dict[str, list[Snapshot]] = {}
    every = list_snapshots(context, search.job)
    ids = {listed.snapshot.id for listed in every}
    for listed in reversed(every):
        is_copy = listed.snapshot.original in ids
        if _in_time(listed, search) and (search.pack is not None or not is_copy):
            chosen.setdefault(listed.repository, []).append(listed.snapshot)
    return chosen


def _in_time(listed: ListedSnapshot, search: Search) -> bool:
    when = listed.snapshot.time
    return (search.since is None or when >= search.since) and (search.until is None or when <= search.until)


def _resolve(repository: Repository, search: Search) -> Query:
    query = search.query
    if search.pack is not None:
        _, blobs, trees = pack_contents(repository, _hex(search.pack, "--pack"))
        query = replace(query, blobs=blobs, trees=trees)
    if search.object_id is not None:
        blobs, trees = blob_ids(repository, _hex(search.object_id, "--object"))
        query = replace(
            query,
            blobs=blobs if query.blobs is None else query.blobs & blobs,
            trees=trees if query.trees is None else query.trees & trees,
        )
    return query


def _hex(word: str, option: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{8,64}", word.lower()):
        raise UsageError(
            f"{option} {word}: not an object's id",
            next_step="give 8 to 64 hexadecimal digits, as `backupctl check` prints",
        )
    return word.lower()


def _matches(
    repository: Repository, finder: Finder, snapshot: Snapshot, query: Query, search: Search, result: FindResult
) -> Iterator[tuple[bytes, Node]]:
    if search.sha256 is None:
        yield from finder.find(snapshot)
        return
    digest = search.sha256.lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise UsageError(f"--sha256 {digest}: a SHA-256 has 64 hexadecimal digits", next_step="sha256sum FILE")
    try:
        manifest = str(fingerprint_of(repository, snapshot)["manifest"])
        matches = query.matcher()
        for path, node in with_content(repository, snapshot, manifest, digest):
            if matches(path, node):
                yield path, node
    except (NoSuchError, DamageError, KeyError) as error:
        result.problems.append(f"snapshot {snapshot.short_id}: no whole-file hashes to search: {error}")
