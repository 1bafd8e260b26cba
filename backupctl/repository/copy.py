"""Copy snapshots into further repositories, which have keys of their own: every blob is opened, verified and sealed anew.

Blob ids are hashes of content, so trees stay as they are and only what a destination lacks travels. Several destinations
are served by one reading: packs are read in whole stretches, several at a time, and each blob is opened once and handed to
every destination that lacks it, at the pace of the slowest. A destination that fails drops out with its own error. Memory
is bounded: one byte per blob of the source's index and destination, a few stretches, and what each saver holds.

Order in each destination: data and trees → index → manifest → fingerprint → snapshot. Killed before the last step, it
holds packs that nothing refers to; the next copy takes them up (`adoption.py`) instead of sending them again.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from threading import Event, Lock

from backupctl.errors import Corrupt, DamageError, NoSuchError, NotFound, UserError
from backupctl.repository.blob_saver import BlobSaver, SaverStats
from backupctl.repository.check import fingerprints_of, manifest_id
from backupctl.repository.copy_plan import READERS, CopyPlan, plan_copies, plan_copy
from backupctl.repository.format import FormatError
from backupctl.repository.format.pack import BlobKind, PackedBlob
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.memory_index import Location
from backupctl.repository.repository import Repository, pack_name

__all__ = [
    "CopiedSnapshot",
    "CopyPlan",
    "CopyTarget",
    "copy_snapshot",
    "copy_to",
    "fetch_blob",
    "find_copy",
    "missing_in",
    "origin",
    "plan_copy",
]

STRETCH_BYTES = 16 << 20
GAP_BYTES = 256 << 10  # read and thrown away rather than asked for twice

Progress = Callable[[int, int], None]
"""Bytes of content read, and to read."""


@dataclass(frozen=True, slots=True)
class CopiedSnapshot:
    """`id` in the destination. `bytes` of content travelled, `stored_bytes` as stored there."""

    id: str
    blobs: int
    bytes: int
    stored_bytes: int


@dataclass(slots=True, eq=False)
class CopyTarget:
    """One destination of a copy, on which a lock is held. `base`: a snapshot that is whole there. Without `commit` only
    what the snapshot refers to is brought there, for one that it has already. `before_commit` may refuse it by raising.
    Afterwards either `copied` is set, or `error`: why this destination has not got it."""

    repository: Repository
    base: Snapshot | None = None
    commit: bool = True
    before_commit: Callable[[], None] = lambda: None
    copied: CopiedSnapshot | None = None
    error: UserError | None = None


def origin(snapshot: Snapshot) -> str:
    """The id that a snapshot had first: what it and its copies have in common."""
    return snapshot.original or snapshot.id


def find_copy(snapshot: Snapshot, among: Iterable[Snapshot]) -> Snapshot | None:
    """The same snapshot in another repository, whoever copied it (stock restic sets `original` too)."""
    for other in among:
        if origin(other) == origin(snapshot) and (other.time, other.tree) == (snapshot.time, snapshot.tree):
            return other
    return None


def missing_in(
    destination: Repository, snapshots: Iterable[Snapshot], present: Sequence[Snapshot] | None = None
) -> list[Snapshot]:
    """Those of `snapshots` that the destination has not got, oldest first. One that stock restic copied, which leaves
    our records behind, counts as missing."""
    by_origin: dict[str, list[Snapshot]] = {}
    for one in destination.snapshots() if present is None else present:
        by_origin.setdefault(origin(one), []).append(one)
    records = set(destination.records("fingerprint"))
    missing = []
    for snapshot in snapshots:
        whole = [one for one in by_origin.get(origin(snapshot), ()) if records.issuperset(fingerprints_of(one))]
        if find_copy(snapshot, whole) is None:
            missing.append(snapshot)
    return sorted(missing, key=lambda one: (one.time, one.id))


def copy_snapshot(
    source: Repository,
    destination: Repository,
    snapshot: Snapshot,
    *,
    base: Snapshot | None = None,
    progress: Progress | None = None,
    before_commit: Callable[[], None] = lambda: None,
) -> CopiedSnapshot:
    """The same snapshot in one destination, listed last. As `copy_to`, but an error of the destination is raised too."""
    target = CopyTarget(destination, base, before_commit=before_commit)
    copy_to(source, [target], snapshot, progress=progress)
    if target.error is not None or target.copied is None:
        raise target.error or RuntimeError("neither copied nor failed")
    return target.copied


def copy_to(
    source: Repository, targets: Sequence[CopyTarget], snapshot: Snapshot, *, progress: Progress | None = None
) -> None:
    """The same snapshot in every target, with one reading of the source. Hold a lock on all of them.

    Raises what is wrong with the source, DamageError for what cannot be read from it: no target then lists anything new.
    What is wrong with a target is its `error`, and the others go on."""
    plans = [CopyPlan(target.repository, bytearray(len(source.index))) for target in targets]
    plan_copies(source, plans, snapshot, [target.base for target in targets])
    streams = [_Stream(target, plan) for target, plan in zip(targets, plans, strict=True)]
    try:
        _Transfer(source, streams, progress).run()
        for stream in streams:
            stream.attempt(stream.saver.flush)
        still_open = any(stream.open for stream in streams)
        records = [_load_records(source, one) for one in fingerprints_of(snapshot)] if still_open else []
        for stream in streams:
            stream.attempt(lambda stream=stream: stream.commit(snapshot, records))  # type: ignore[misc]  # one of them
    finally:
        for stream in streams:
            stream.target.error = stream.plan.error
            if stream.target.copied is None:
                stream.saver.abort()


@dataclass(frozen=True, slots=True)
class _Records:
    """A fingerprint of the source, and the manifest that it names."""

    id: str
    fingerprint: bytes
    manifest: bytes | None


def _load_records(source: Repository, record: str) -> _Records:
    data = source.load_record("fingerprint", record)
    try:
        manifest = manifest_id(data)
    except FormatError as error:
        name = f"backupctl/fingerprint/{record}"
        raise DamageError(f"{name}: {error}", name=name, next_step="backupctl check --read-data") from None
    return _Records(record, data, source.load_record("manifest", manifest) if manifest else None)


def _save_records(destination: Repository, records: _Records) -> str:
    """The fingerprint's id there. Ids are hashes of what is sealed, so they differ."""
    data = records.fingerprint
    if records.manifest is not None:
        facts = json.loads(data)
        facts["manifest"] = destination.save_record("manifest", records.manifest)
        data = json.dumps(facts, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    return destination.save_record("fingerprint", data)


class _Stream:
    """What flows into one target. The first thing that goes wrong there is its error and ends it."""

    def __init__(self, target: CopyTarget, plan: CopyPlan) -> None:
        self.target, self.plan = target, plan
        self.saver: BlobSaver = target.repository.blob_saver()

    @property
    def open(self) -> bool:
        return self.plan.error is None

    def attempt(self, step: Callable[[], object]) -> None:
        if self.open:
            try:
                step()
            except UserError as error:
                self.plan.error = self.plan.error or error

    def save(self, kind: BlobKind, blob: bytes, data: bytes) -> None:
        if self.saver.save(kind, data) != blob:
            raise RuntimeError(f"{kind} blob {blob.hex()} changed on its way: bad memory or a broken library")

    def commit(self, snapshot: Snapshot, records: Iterable[_Records]) -> None:
        """Our records of the snapshot and then the snapshot itself, whose blobs are durable there."""
        stats: SaverStats = self.saver.stats
        saved = ""
        if self.target.commit:
            repository = self.target.repository
            renamed = {f"fingerprint:{one.id}": f"fingerprint:{_save_records(repository, one)}" for one in records}
            tags = [renamed.get(tag, tag) for tag in snapshot.tags]
            self.target.before_commit()
            saved = repository.save_snapshot(replace(snapshot, id="", parent="", original=origin(snapshot), tags=tags))
        self.target.copied = CopiedSnapshot(saved, stats.new_blobs, stats.new_bytes, stats.stored_bytes)


class _Transfer:
    """Carries what any stream wants, pack by pack in the order of the source's index, from its store into the savers."""

    def __init__(self, source: Repository, streams: Sequence[_Stream], progress: Progress | None) -> None:
        self._source, self._streams, self._progress = source, streams, progress
        self._stop = Event()
        self._guard = Lock()
        self._done_bytes = 0
        self._most_bytes = max((stream.plan.bytes for stream in streams), default=0)

    def run(self) -> None:
        running: deque[Future[None]] = deque()
        with ThreadPoolExecutor(READERS, thread_name_prefix="copy") as readers:
            try:
                for pack, places in groupby(self._places(), key=lambda found: found[1].pack):
                    numbers = {place.blob.offset: number for number, place in places}
                    blobs = [self._source.index.at(number).blob for number in numbers.values()]
                    for stretch in stretches(blobs):
                        if len(running) == READERS:
                            running.popleft().result()
                        running.append(readers.submit(self._carry, pack, stretch, numbers))
                strays = dict.fromkeys(stray for stream in self._streams for stray in stream.plan.strays)
                for kind, blob in strays:
                    wanting = [one for one in self._streams if one.open and (kind, blob) in one.plan.strays]
                    if wanting:
                        self._save(wanting, kind, blob, self._source.load_blob(kind, blob))
                while running:
                    running.popleft().result()
            except BaseException:
                self._stop.set()
                raise

    def _places(self) -> Iterator[tuple[int, Location]]:
        """What some stream that is still open wants."""
        number = -1
        while True:
            found = [one.plan.wanted.find(1, number + 1) for one in self._streams if one.open]
            number = min((place for place in found if place >= 0), default=-1)
            if number < 0:
                return
            yield number, self._source.index.at(number)

    def _carry(self, pack: bytes, blobs: list[PackedBlob], numbers: dict[int, int]) -> None:
        """Runs in a reader. A stretch that cannot be read is no loss yet: each blob may have another copy."""
        if not any(one.open for one in self._streams):
            return
        start, end = blobs[0].offset, blobs[-1].offset + blobs[-1].length
        try:
            sealed = memoryview(self._source.store.get(pack_name(pack), offset=start, length=end - start))
        except (NotFound, Corrupt):
            sealed = memoryview(b"")
        for blob in blobs:
            number = numbers[blob.offset]
            wanting = [one for one in self._streams if one.open and one.plan.wanted[number] == 1]
            if self._stop.is_set() or not wanting:
                continue
            try:
                data = self._source.open_blob(
                    blob, bytes(sealed[blob.offset - start : blob.offset - start + blob.length])
                )
            except FormatError:
                data = self._source.load_blob(blob.kind, blob.id)
            self._save(wanting, blob.kind, blob.id, data)

    def _save(self, streams: Iterable[_Stream], kind: BlobKind, blob: bytes, data: bytes) -> None:
        for stream in streams:
            stream.attempt(lambda stream=stream: stream.save(kind, blob, data))  # type: ignore[misc]  # one of them
        if self._progress is not None:
            with self._guard:
                self._done_bytes += len(data)
                self._progress(self._done_bytes, max(self._most_bytes, self._done_bytes))


def stretches(blobs: Sequence[PackedBlob]) -> Iterator[list[PackedBlob]]:
    """Blobs of one pack in the order of their offsets, grouped into what is worth one request."""
    group: list[PackedBlob] = []
    for blob in sorted(blobs, key=lambda one: one.offset):
        end = group[-1].offset + group[-1].length if group else 0
        if group and (blob.offset - end > GAP_BYTES or blob.offset + blob.length - group[0].offset > STRETCH_BYTES):
            yield group
            group = []
        group.append(blob)
    if group:
        yield group


def fetch_blob(repositories: Iterable[Repository], kind: BlobKind, blob: bytes) -> tuple[bytes, Repository]:
    """A blob's content, verified, from the first of `repositories` that has it, and which one that was.

    Raises NoSuchError, naming why each could not give it."""
    reasons = []
    for repository in repositories:
        try:
            return repository.load_blob(kind, blob), repository
        except UserError as error:
            reasons.append(f"{repository.store.location}: {error.message}")
    raise NoSuchError(
        f"no copy has the {kind} blob {blob.hex()}: {'; '.join(reasons) or 'there is no copy'}",
        next_step="backupctl check --read-data",
    )
