"""What a prune would do: which packs go, which are written anew, which stay as they are."""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import compress

from backupctl.errors import DamageError, NoSuchError
from backupctl.repository import commit, records
from backupctl.repository.check import fingerprints_of, manifest_id
from backupctl.repository.format import FormatError
from backupctl.repository.format.index import decode_index
from backupctl.repository.format.pack import TARGET_BYTES, PackedBlob, entry_bytes, pack_bytes
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.marking import NOTHING_DELETED, mark_used
from backupctl.repository.memory_index import MemoryIndex
from backupctl.repository.partial import KEPT, Partial, partials
from backupctl.repository.partial import RECORD_KIND as PARTIAL
from backupctl.repository.repository import Repository

SMALL_INDEX_BLOBS = 5_000
SMALL_PACK_BYTES = TARGET_BYTES // 4
SMALL_ONES = 10  # so many small packs of a kind, or small index files, are worth being merged
RECORD_KINDS = ("fingerprint", "manifest", "stretch")
_PACK_NAME = re.compile(r"data/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_DATA, _TREE, _PLAIN_TREE = 1, 2, 4
_ENTRY_BYTES = [entry_bytes(PackedBlob("data", b"", 0, 0, plain_length)) for plain_length in (0, 1)]


@dataclass(frozen=True, slots=True)
class PruneLimits:
    max_unused: float = 0.05  # so much of what stays may be waste that is not worth rewriting a pack for
    max_repack: int | None = None  # bytes to move at most; what is left waits for the next time
    grace: timedelta = timedelta(hours=1)  # a pack in no index is left alone while it is so young; 0: never


@dataclass(slots=True)
class PrunePlan:
    """What a prune would do. Sizes are bytes in the store."""

    limits: PruneLimits
    keep: int = 0  # packs left as they are
    repack: dict[bytes, array[int]] = field(default_factory=dict)  # pack → the offsets of its blobs that move
    delete: list[bytes] = field(default_factory=list)  # packs without any used blob
    unindexed: list[str] = field(default_factory=list)  # pack files that no index knows
    indexes: list[str] = field(default_factory=list)  # index files to be replaced
    orphan_records: list[str] = field(default_factory=list)  # names
    total_bytes: int = 0
    freed_bytes: int = 0  # blobs that nothing refers to, and unindexed packs
    moved_bytes: int = 0  # to be written anew
    left_bytes: int = 0  # unused but not worth rewriting now
    waiting_packs: int = 0  # worth rewriting, but beyond `max_repack`
    young_packs: int = 0  # in no index, and perhaps a writer's: left alone
    seen: frozenset[str] = frozenset()  # the names the plan rests on
    listings: dict[bytes, int] = field(default_factory=dict, repr=False)  # how many index files list a pack that goes

    def __bool__(self) -> bool:
        return bool(self.repack or self.delete or self.unindexed or self.indexes or self.orphan_records)


def plan_prune(
    repository: Repository, limits: PruneLimits | None = None, *, without: Collection[str] = ()
) -> PrunePlan:
    """Changes nothing. `without` are snapshots that will be gone by then. Raises DamageError when anything that decides
    what is needed cannot be read, UserError for a repository of version 1."""
    repository.require_writable()
    forgotten = {f"snapshots/{snapshot_id}" for snapshot_id in without}
    limits = limits or PruneLimits()
    plan = PrunePlan(limits, seen=frozenset(names_seen(repository)) - forgotten)
    snapshots = [snapshot for snapshot in repository.snapshots() if snapshot.id not in without]
    repository.reset_index()
    index = repository.index
    packs = _Packs(index)
    young_from = _store_time(repository) - limits.grace
    lost = _compare_listing(repository, index, packs, plan, young_from)
    current, stale = _partials(repository, snapshots)
    roots, hints = [snapshot.tree for snapshot in snapshots], [one.facts.tree for one in current]
    used, spoilt = mark_used(repository, index, roots, lost, hints=hints)
    packs.count_used(index, used)
    _choose(plan, packs, spoilt)
    packs.note_offsets(index, used, plan.repack)
    _find_indexes(repository, plan)
    fingerprints = [fingerprint for one in snapshots for fingerprint in fingerprints_of(one)]
    _find_orphan_records(repository, plan, fingerprints)
    plan.orphan_records += stale
    plan.orphan_records += commit.past(repository, repository.clock.now())
    return plan


def _partials(repository: Repository, snapshots: list[Snapshot]) -> tuple[list[Partial], list[str]]:
    """What interrupted runs left for the next run of their jobs, and the names of the records that are of no use."""
    oldest = repository.clock.now() - KEPT
    current = [one for one in partials(repository) if one.time > oldest and one.is_current(snapshots)]
    names = {records.record_name(PARTIAL, one) for one in repository.records(PARTIAL)}
    return current, sorted(names - {records.record_name(PARTIAL, one.id) for one in current})


def names_seen(repository: Repository) -> Iterator[str]:
    for prefix in ("snapshots/", "index/"):
        for info in repository.store.list(prefix):
            yield info.name


def _store_time(repository: Repository) -> datetime:
    """The store's own clock, read from the newest thing in it: our lock, written within the last 5 minutes."""
    found = (info.modified for prefix in ("locks/", "snapshots/", "index/") for info in repository.store.list(prefix))
    return max(found, default=datetime.now(UTC))


class _Packs:
    """Sums for each pack of the index, by pack number: 21 bytes each."""

    def __init__(self, index: MemoryIndex) -> None:
        self.ids = index.packs
        count = len(self.ids)
        self.size = array("Q", [pack_bytes(())]) * count
        self.used_bytes = array("Q", [0]) * count
        self.used_blobs = array("I", [0]) * count
        self.kinds = bytearray(count)
        for _, reference, _, length, plain_length in index.records():
            pack = reference >> 1
            self.size[pack] += length + _ENTRY_BYTES[plain_length > 0]
            self.kinds[pack] |= (_TREE if plain_length else _TREE | _PLAIN_TREE) if reference & 1 else _DATA

    def count_used(self, index: MemoryIndex, used: bytearray) -> None:
        for _, reference, _, length, plain_length in compress(index.records(), used):
            self.used_blobs[reference >> 1] += 1
            self.used_bytes[reference >> 1] += length + _ENTRY_BYTES[plain_length > 0]

    def note_offsets(self, index: MemoryIndex, used: bytearray, moving: dict[bytes, array[int]]) -> None:
        """Add where the used blobs of each of these packs begin."""
        by_number = {index.pack_number(pack_id): offsets for pack_id, offsets in moving.items()}
        for _, reference, offset, _, _ in compress(index.records(), used) if moving else ():
            if (offsets := by_number.get(reference >> 1)) is not None:
                offsets.append(offset)

    def unused_bytes(self, pack: int) -> int:
        return self.size[pack] - self.used_bytes[pack] - (pack_bytes(()) if self.used_blobs[pack] else 0)


def _compare_listing(
    repository: Repository, index: MemoryIndex, packs: _Packs, plan: PrunePlan, young_from: datetime
) -> dict[bytes, str]:
    """The packs of the index that are missing or have the wrong size; what no index knows goes into the plan."""
    there = bytearray(len(packs.ids))
    lost: dict[bytes, str] = {}
    for info in repository.store.list("data/"):
        match = _PACK_NAME.fullmatch(info.name)
        if match is None:
            continue  # not ours
        number = index.pack_number(bytes.fromhex(match[2]))
        if number is None:
            if plan.limits.grace and info.modified > young_from:
                plan.young_packs += 1
            else:
                plan.unindexed.append(info.name)
                plan.freed_bytes += info.size
            plan.total_bytes += info.size
            continue
        there[number] = 1
        plan.total_bytes += info.size
        if info.size != packs.size[number]:
            lost[packs.ids[number]] = f"has {info.size} bytes instead of {packs.size[number]}"
    for number, is_there in enumerate(there):
        if not is_there:
            lost[packs.ids[number]] = "is missing"
    return lost


def _choose(plan: PrunePlan, packs: _Packs, spoilt: Collection[bytes]) -> None:
    """Delete what is unused. Write anew, as far as `max_repack` allows and in this order: what is spoilt or not in the
    form that the format wants; the most wasteful packs until little enough of what stays is unused; small packs."""
    must: list[int] = []
    partly: list[int] = []
    whole: list[int] = []
    kept_bytes = 0
    for pack, pack_id in enumerate(packs.ids):
        if not packs.used_blobs[pack]:
            plan.delete.append(pack_id)
            plan.freed_bytes += packs.size[pack]
            continue
        kept_bytes += packs.used_bytes[pack]
        if packs.kinds[pack] not in (_DATA, _TREE) or pack_id in spoilt:
            must.append(pack)
        else:
            (partly if packs.unused_bytes(pack) else whole).append(pack)
    unused = sum(map(packs.unused_bytes, partly))
    taken = set[int]()

    def take(pack: int) -> bool:
        limit = plan.limits.max_repack
        if limit is not None and plan.moved_bytes + packs.used_bytes[pack] > limit:
            plan.waiting_packs += 1
            return False
        plan.repack[packs.ids[pack]] = array("I")
        plan.moved_bytes += packs.used_bytes[pack]
        plan.freed_bytes += packs.unused_bytes(pack)
        taken.add(pack)
        return True

    for pack in must:
        if not take(pack):
            plan.left_bytes += packs.unused_bytes(pack)
    for pack in sorted(partly, key=lambda pack: packs.used_bytes[pack] / packs.size[pack]):
        if unused <= plan.limits.max_unused * (kept_bytes + unused):
            break
        if take(pack):
            unused -= packs.unused_bytes(pack)
    plan.left_bytes += unused
    for kind in (_DATA, _TREE):
        small = [
            pack
            for pack in (*partly, *whole)
            if packs.kinds[pack] == kind and packs.size[pack] < SMALL_PACK_BYTES and pack not in taken
        ]
        if len(small) >= SMALL_ONES:
            for pack in small:
                if take(pack):
                    plan.left_bytes -= packs.unused_bytes(pack)
    plan.keep = len(packs.ids) - len(plan.delete) - len(plan.repack)


def _find_indexes(repository: Repository, plan: PrunePlan) -> None:
    """Which index files list a pack that goes, are empty, or are small and many."""
    gone = {*plan.repack, *plan.delete}
    small: list[str] = []
    chosen: set[str] = set()
    names = [f"index/{file_id}" for file_id in repository.list_ids("index/")]
    for name in names:
        blobs = 0
        for pack_id, listed in decode_listing(repository, name):
            blobs += len(listed)
            if pack_id in gone:
                chosen.add(name)
                plan.listings[pack_id] = plan.listings.get(pack_id, 0) + 1
        if not blobs:
            chosen.add(name)
        elif blobs < SMALL_INDEX_BLOBS:
            small.append(name)
    if len(small) >= SMALL_ONES:
        chosen.update(small)
    plan.indexes = [name for name in names if name in chosen]


def decode_listing(repository: Repository, name: str) -> Iterator[tuple[bytes, list[PackedBlob]]]:
    try:
        yield from decode_index(repository.load_file(name))
    except FormatError as error:
        raise DamageError(f"{name}: {error}", name=name, next_step=NOTHING_DELETED) from None


def _find_orphan_records(repository: Repository, plan: PrunePlan, fingerprints: Iterable[str]) -> None:
    """Fingerprints that no snapshot names, manifests that no such fingerprint names, and whatever was kept for joining."""
    needed: set[str] = set()
    for fingerprint in fingerprints:
        name = records.record_name("fingerprint", fingerprint)
        needed.add(name)
        try:
            manifest = manifest_id(repository.load_record("fingerprint", fingerprint))
        except (NoSuchError, FormatError, DamageError) as error:
            what = error if isinstance(error, FormatError) else error.message
            raise DamageError(f"{name}: {what}", name=name, next_step=NOTHING_DELETED) from None
        needed.add(records.record_name("manifest", manifest))
    for kind in RECORD_KINDS:
        for info in repository.store.list(f"{records.PREFIX}{kind}/"):
            if info.name not in needed and records.is_record(kind, info.name.rpartition("/")[2]):
                plan.orphan_records.append(info.name)
