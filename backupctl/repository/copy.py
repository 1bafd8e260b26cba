"""Copy snapshots into a second repository, which has keys of its own: every blob is opened, verified and sealed anew.

Blob ids are hashes of content, so trees stay as they are and only what the destination lacks travels. Packs are read in
whole stretches, several at a time, and memory is bounded: one byte per blob of the source's index, a few stretches, and
what the destination's saver holds.

Order: data and trees → index → manifest → fingerprint → snapshot. Killed before the last step, the destination holds
packs that nothing refers to; the next copy takes them up (`adopt_packs`) instead of sending them again.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from threading import Event, Lock

from backupctl.errors import Corrupt, DamageError, NoSuchError, NotFound, UserError
from backupctl.repository.blob_saver import BlobSaver, SaverStats
from backupctl.repository.check import fingerprints_of, manifest_id
from backupctl.repository.format import FormatError
from backupctl.repository.format.pack import BlobKind, PackedBlob
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import iterate_tree
from backupctl.repository.memory_index import Location
from backupctl.repository.repository import Repository, pack_name
from backupctl.repository.unlisted import unlisted_packs

READERS = 4  # threads, each with one stretch: enough to hide the latency of an object store
STRETCH_BYTES = 16 << 20
GAP_BYTES = 256 << 10  # read and thrown away rather than asked for twice
ADOPT_PACKS = 1_000  # per index file

Progress = Callable[[int, int], None]
"""Bytes of content copied, and to copy."""


@dataclass(slots=True)
class CopyPlan:
    """What the destination lacks. Sizes are of content."""

    wanted: bytearray = field(repr=False)  # 1 for each place in the source's index that travels, 2 for one seen
    strays: list[tuple[BlobKind, bytes]] = field(default_factory=list)  # what no index of the source lists
    blobs: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class CopiedSnapshot:
    """`id` in the destination. `bytes` of content travelled, `stored_bytes` as stored there."""

    id: str
    blobs: int
    bytes: int
    stored_bytes: int


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


def plan_copy(
    source: Repository, destination: Repository, snapshots: Iterable[Snapshot], *, base: Snapshot | None = None
) -> CopyPlan:
    """Walk the trees of the snapshots and mark what the destination lacks. `base` is a snapshot that is whole in the
    destination: directories equal to its own are not walked. Raises DamageError for a tree that cannot be read."""
    walk = _Walk(source, destination, CopyPlan(bytearray(len(source.index))))
    for snapshot in snapshots:
        walk.run(snapshot.tree, base.tree if base is not None else None)
    return walk.plan


@dataclass(slots=True)
class _Walk:
    source: Repository
    destination: Repository
    plan: CopyPlan
    seen_strays: set[tuple[BlobKind, bytes]] = field(default_factory=set)

    def run(self, root: bytes, base: bytes | None) -> None:
        todo: list[tuple[bytes, bytes | None]] = [(root, base)]
        with ThreadPoolExecutor(READERS, thread_name_prefix="walk") as readers:
            while todo:
                batch = [(tree, old) for tree, old in todo[-READERS:] if tree != old and self.mark("tree", tree)]
                del todo[-READERS:]
                trees = readers.map(self.source.load_blob, ["tree"] * len(batch), [tree for tree, _ in batch])
                for (tree, old), data in zip(batch, trees, strict=True):
                    known = self.directories(old) if old is not None else {}
                    for name, subtree, content in self.nodes(tree, data):
                        if subtree is not None:
                            todo.append((subtree, known.get(name)))
                        for blob in content:
                            self.mark("data", blob)

    def nodes(self, tree: bytes, data: bytes) -> Iterator[tuple[bytes, bytes | None, Sequence[bytes]]]:
        """(name, subtree, content) of each node. A copy with a hole in it would be no copy: both must be there."""
        name = f"tree/{tree.hex()}"
        try:
            for node in iterate_tree(data):
                if node.type == "dir" and node.subtree is None:
                    raise FormatError("a directory without a tree")
                if node.type == "file" and node.content is None:
                    raise FormatError("a file without a content list")
                yield node.name, node.subtree if node.type == "dir" else None, node.content or ()
        except FormatError as error:
            raise DamageError(f"{name} is malformed: {error}", name=name, next_step="backupctl check") from None

    def directories(self, tree: bytes) -> dict[bytes, bytes]:
        """The subtrees of a directory that the destination has; nothing when they cannot be read: then all is walked."""
        holder = self.source if self.source.has_blob("tree", tree) else self.destination
        try:
            nodes = iterate_tree(holder.load_blob("tree", tree))
            return {node.name: node.subtree for node in nodes if node.type == "dir" and node.subtree is not None}
        except (DamageError, FormatError):
            return {}

    def mark(self, kind: BlobKind, blob: bytes) -> bool:
        """True when the blob was not met before."""
        wanted = self.plan.wanted
        numbers = [number for number in self.source.index.numbers(kind, blob) if number < len(wanted)]
        if numbers:
            if wanted[numbers[0]]:
                return False
            wanted[numbers[0]] = 2
        else:
            if (kind, blob) in self.seen_strays:
                return False
            self.seen_strays.add((kind, blob))
        if self.destination.has_blob(kind, blob):
            return True
        self.plan.blobs += 1
        if numbers:
            wanted[numbers[0]] = 1
            self.plan.bytes += self.source.index.at(numbers[0]).blob.size
        else:
            self.plan.strays.append((kind, blob))
        return True


def copy_snapshot(
    source: Repository,
    destination: Repository,
    snapshot: Snapshot,
    *,
    base: Snapshot | None = None,
    progress: Progress | None = None,
    before_commit: Callable[[], None] = lambda: None,
) -> CopiedSnapshot:
    """The same snapshot in the destination, listed last. Hold a lock on both. `before_commit` may refuse it by raising.

    Raises DamageError when something of it cannot be read from the source: the destination then lists nothing new."""
    stats = copy_blobs(source, destination, snapshot, base=base, progress=progress)
    saved = copy_records(source, destination, snapshot, before_commit)
    return CopiedSnapshot(saved, stats.new_blobs, stats.new_bytes, stats.stored_bytes)


def copy_blobs(
    source: Repository,
    destination: Repository,
    snapshot: Snapshot,
    *,
    base: Snapshot | None = None,
    progress: Progress | None = None,
) -> SaverStats:
    """Everything the snapshot refers to, durable and indexed in the destination; what was stored for it. For a snapshot
    that is there already it brings back what the destination lost, once that is distrusted."""
    plan = plan_copy(source, destination, [snapshot], base=base)
    saver = destination.blob_saver()
    try:
        _Transfer(source, saver, plan, progress).run()
        saver.flush()
    except BaseException:
        saver.abort()
        raise
    return saver.stats


def copy_records(
    source: Repository, destination: Repository, snapshot: Snapshot, before_commit: Callable[[], None] = lambda: None
) -> str:
    """Our records of a snapshot and then the snapshot itself, whose blobs must be durable there; its id there."""
    renamed = {one: _copy_fingerprint(source, destination, one) for one in fingerprints_of(snapshot)}
    tags = [
        f"fingerprint:{renamed[tag.removeprefix('fingerprint:')]}"
        if tag.removeprefix("fingerprint:") in renamed and tag.startswith("fingerprint:")
        else tag
        for tag in snapshot.tags
    ]
    before_commit()
    return destination.save_snapshot(replace(snapshot, id="", parent="", original=origin(snapshot), tags=tags))


def _copy_fingerprint(source: Repository, destination: Repository, record: str) -> str:
    """The record and the manifest it names; its id there. Ids are hashes of what is sealed, so they differ."""
    data = source.load_record("fingerprint", record)
    try:
        manifest = manifest_id(data)
    except FormatError as error:
        name = f"backupctl/fingerprint/{record}"
        raise DamageError(f"{name}: {error}", name=name, next_step="backupctl check --read-data") from None
    if manifest:
        facts = json.loads(data)
        facts["manifest"] = destination.save_record("manifest", source.load_record("manifest", manifest))
        data = json.dumps(facts, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    return destination.save_record("fingerprint", data)


class _Transfer:
    """Carries what a plan wants, pack by pack in the order of the source's index, from its store into a saver."""

    def __init__(self, source: Repository, saver: BlobSaver, plan: CopyPlan, progress: Progress | None) -> None:
        self._source, self._saver, self._plan, self._progress = source, saver, plan, progress
        self._stop = Event()
        self._guard = Lock()
        self._done_bytes = 0

    def run(self) -> None:
        running: deque[Future[None]] = deque()
        with ThreadPoolExecutor(READERS, thread_name_prefix="copy") as readers:
            try:
                for pack, places in groupby(self._places(), key=lambda place: place.pack):
                    for stretch in stretches([place.blob for place in places]):
                        if len(running) == READERS:
                            running.popleft().result()
                        running.append(readers.submit(self._carry, pack, stretch))
                for kind, blob in self._plan.strays:
                    self._save(kind, blob, self._source.load_blob(kind, blob))
                while running:
                    running.popleft().result()
            except BaseException:
                self._stop.set()
                raise

    def _places(self) -> Iterator[Location]:
        index, wanted = self._source.index, self._plan.wanted
        number = wanted.find(1)
        while number >= 0:
            yield index.at(number)
            number = wanted.find(1, number + 1)

    def _carry(self, pack: bytes, blobs: list[PackedBlob]) -> None:
        """Runs in a reader. A stretch that cannot be read is no loss yet: each blob may have another copy."""
        start, end = blobs[0].offset, blobs[-1].offset + blobs[-1].length
        try:
            sealed = memoryview(self._source.store.get(pack_name(pack), offset=start, length=end - start))
        except (NotFound, Corrupt):
            sealed = memoryview(b"")
        for blob in blobs:
            if self._stop.is_set():
                return
            try:
                data = self._source.open_blob(
                    blob, bytes(sealed[blob.offset - start : blob.offset - start + blob.length])
                )
            except FormatError:
                data = self._source.load_blob(blob.kind, blob.id)
            self._save(blob.kind, blob.id, data)

    def _save(self, kind: BlobKind, blob: bytes, data: bytes) -> None:
        if self._saver.save(kind, data) != blob:
            raise RuntimeError(f"{kind} blob {blob.hex()} changed on its way: bad memory or a broken library")
        if self._progress is not None:
            with self._guard:
                self._done_bytes += len(data)
                self._progress(self._done_bytes, max(self._plan.bytes, self._done_bytes))


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


def adopt_packs(repository: Repository) -> int:
    """List packs that an interrupted copy left in no index in a new one; how many. Hold a lock. What cannot be read is
    left to `prune`."""
    found = unlisted_packs(repository.store, repository.keys, repository.index)
    packs = list(found.packs)
    for start in range(0, len(packs), ADOPT_PACKS):
        adopted = found.blobs_of(packs[start : start + ADOPT_PACKS])
        repository.save_index(list(adopted.items()))
        for pack, blobs in adopted.items():
            repository.index.add_pack(pack, blobs)
    return len(packs)


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
