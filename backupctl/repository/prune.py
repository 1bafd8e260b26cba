"""Prune: give back the space of what no snapshot refers to. Plan first, apply later, under an exclusive lock.

Order: new packs → new index → delete old index → delete old packs → delete orphan records. After a crash at any step
every snapshot is whole: at worst blobs are stored twice or packs are in no index, and the next prune tidies that up.
When anything that decides what is needed cannot be read, nothing is deleted at all. Of a blob that is stored more than
once, a copy that can be read stays; a pack that is lost goes from the index as soon as nothing needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile

from backupctl.errors import DamageError, NoSuchError
from backupctl.repository import records
from backupctl.repository.check import fingerprints_of, manifest_id
from backupctl.repository.format import FormatError
from backupctl.repository.format.index import decode_index
from backupctl.repository.format.pack import PackedBlob, entry_bytes, pack_bytes
from backupctl.repository.format.tree import iterate_tree
from backupctl.repository.memory_index import Location, MemoryIndex
from backupctl.repository.repository import Repository, pack_name

MAX_UNUSED = 0.05  # of the repository; restic's --max-unused
INDEX_BLOBS = 50_000
RECORD_KINDS = ("fingerprint", "manifest")
NOTHING_DELETED = "nothing was deleted; run `backupctl check`, repair or forget what is damaged, then prune again"


@dataclass(slots=True)
class PrunePlan:
    """What a prune would do. Sizes are bytes in the store."""

    keep: int = 0  # packs left as they are
    repack: list[bytes] = field(default_factory=list)  # packs whose used blobs move into new packs
    delete: list[bytes] = field(default_factory=list)  # packs without any used blob
    unindexed: list[str] = field(default_factory=list)  # pack files that no index knows
    indexes: list[str] = field(default_factory=list)  # index files to be replaced
    orphan_records: list[str] = field(default_factory=list)  # names
    total_bytes: int = 0
    freed_bytes: int = 0  # blobs that nothing refers to, and unindexed packs
    left_bytes: int = 0  # unused but not worth repacking
    seen: frozenset[str] = frozenset()  # the names the plan rests on
    used: bytearray = field(default_factory=bytearray, repr=False)  # 1 for each copy of the index that stays

    def __bool__(self) -> bool:
        return bool(self.repack or self.delete or self.unindexed or self.indexes or self.orphan_records)


@dataclass(frozen=True, slots=True)
class PruneStats:
    deleted_packs: int = 0
    repacked_packs: int = 0
    new_bytes: int = 0
    freed_bytes: int = 0
    deleted_indexes: int = 0
    deleted_records: int = 0


@dataclass(slots=True)
class _PackUse:
    size: int
    used_blobs: int = 0
    used_bytes: int = 0
    unused_bytes: int = 0
    kinds: int = 0  # bit 0: data, bit 1: trees


def plan_prune(repository: Repository) -> PrunePlan:
    """Changes nothing. Raises DamageError when anything that decides what is needed cannot be read."""
    seen = frozenset(_names(repository))
    snapshots = repository.snapshots()
    repository.reset_index()
    index = repository.index
    lost = repository.lost_packs()
    spoilt: set[bytes] = set()
    used = _mark(repository, index, [snapshot.tree for snapshot in snapshots], lost, spoilt)
    packs = _measure(index, used)
    _keep_where_data_would_be_lost(repository, index, used, spoilt)
    known = {pack_name(pack_id) for pack_id in packs}
    orphans = {info.name: info.size for info in repository.store.list("data/") if info.name not in known}
    plan = PrunePlan(seen=seen, used=used, unindexed=sorted(orphans))
    plan.total_bytes = sum(use.size for use in packs.values())
    plan.freed_bytes = sum(orphans.values())
    _choose(plan, packs, spoilt)
    gone = {*plan.repack, *plan.delete}
    plan.indexes = [name for name, listed in _index_files(repository) if not listed or not gone.isdisjoint(listed)]
    plan.orphan_records = _orphan_records(repository)
    return plan


def _names(repository: Repository) -> Iterator[str]:
    for prefix in ("snapshots/", "index/"):
        for info in repository.store.list(prefix):
            yield info.name


def _mark(
    repository: Repository, index: MemoryIndex, roots: Iterable[bytes], lost: Mapping[bytes, str], spoilt: set[bytes]
) -> bytearray:
    """One byte per record of the index: 1 for the copy of each blob that stays. Every tree is read, and of what is stored
    more than once each copy until a good one is found; the packs of the others are added to `spoilt`."""
    used = bytearray(len(index))

    def mark(copies: list[int], what: str) -> bool:
        """True when the blob was not marked before."""
        if any(used[number] for number in copies):
            return False
        if not copies:
            raise DamageError(f"{what} is in no index", name=what, next_step=NOTHING_DELETED)
        there = [number for number in copies if index.at(number).pack not in lost]
        if not there:
            pack = index.at(copies[0]).pack
            name = pack_name(pack)
            raise DamageError(f"the pack {name} {lost[pack]}", name=name, next_step=NOTHING_DELETED)
        chosen = there[0]
        if len(there) > 1:
            bad = list(takewhile(lambda number: not _is_good(repository, index.at(number)), there))
            spoilt.update(index.at(number).pack for number in bad)
            chosen = there[len(bad) % len(there)]  # the first when none is good
        used[chosen] = 1
        return True

    todo = list(roots)
    while todo:
        tree = todo.pop()
        if not mark(index.numbers("tree", tree), f"tree/{tree.hex()}"):
            continue
        try:
            for node in iterate_tree(repository.load_blob("tree", tree)):
                if node.type == "dir":
                    if node.subtree is None:
                        raise FormatError("a directory without a tree")
                    todo.append(node.subtree)
                for blob in node.content or ():
                    mark(index.numbers("data", blob), f"data/{blob.hex()}")
                if node.type == "file" and node.content is None:
                    raise FormatError("a file without a content list")
        except FormatError as error:
            name = f"tree/{tree.hex()}"
            raise DamageError(f"{name} is malformed: {error}", name=name, next_step=NOTHING_DELETED) from None
    return used


def _is_good(repository: Repository, place: Location) -> bool:
    try:
        repository.load_copy(place)
    except DamageError:
        return False
    return True


def _keep_where_data_would_be_lost(
    repository: Repository, index: MemoryIndex, used: bytearray, spoilt: set[bytes]
) -> None:
    """Take out of `spoilt` the packs that hold the only copy of something needed that cannot be read: they cannot be
    written anew, and what else is in them must stay."""
    for number, place in enumerate(index):
        if used[number] and place.pack in spoilt and not _is_good(repository, place):
            spoilt.discard(place.pack)


def _measure(index: MemoryIndex, used: bytearray) -> dict[bytes, _PackUse]:
    packs = {pack_id: _PackUse(pack_bytes(())) for pack_id in index.packs}
    for number, place in enumerate(index):
        use = packs[place.pack]
        size = place.blob.length + entry_bytes(place.blob)
        use.size += size
        use.kinds |= 2 if place.blob.kind == "tree" else 1
        if used[number]:
            use.used_blobs += 1
            use.used_bytes += size
        else:
            use.unused_bytes += size
    return packs


def _choose(plan: PrunePlan, packs: dict[bytes, _PackUse], spoilt: set[bytes]) -> None:
    """Delete what is unused, write anew what is spoilt or mixed, and the most wasteful packs until at most 5 % of what
    stays is unused."""
    partly: list[tuple[bytes, _PackUse]] = []
    kept_bytes = 0
    for pack_id, use in packs.items():
        if use.used_blobs == 0:
            plan.delete.append(pack_id)
            plan.freed_bytes += use.size
        elif use.kinds == 3 or pack_id in spoilt:  # the format wants trees and data apart
            plan.repack.append(pack_id)
            plan.freed_bytes += use.unused_bytes
        elif use.unused_bytes:
            partly.append((pack_id, use))
        else:
            plan.keep += 1
        kept_bytes += use.used_bytes
    plan.left_bytes = sum(use.unused_bytes for _, use in partly)
    partly.sort(key=lambda item: item[1].used_bytes / item[1].size)
    for pack_id, use in partly:
        if plan.left_bytes <= MAX_UNUSED * (kept_bytes + plan.left_bytes):
            plan.keep += 1
            continue
        plan.repack.append(pack_id)
        plan.left_bytes -= use.unused_bytes
        plan.freed_bytes += use.unused_bytes


def _index_files(repository: Repository) -> Iterator[tuple[str, list[bytes]]]:
    """Each index file with the packs it lists."""
    for file_id in repository.list_ids("index/"):
        name = f"index/{file_id}"
        yield name, [pack_id for pack_id, _ in _decode(repository, name)]


def _decode(repository: Repository, name: str) -> Iterator[tuple[bytes, list[PackedBlob]]]:
    try:
        yield from decode_index(repository.load_file(name))
    except FormatError as error:
        raise DamageError(f"{name}: {error}", name=name, next_step=NOTHING_DELETED) from None


def _orphan_records(repository: Repository) -> list[str]:
    """Fingerprints that no snapshot names and manifests that no such fingerprint names."""
    needed: dict[str, set[str]] = {kind: set() for kind in RECORD_KINDS}
    for snapshot in repository.snapshots():
        for fingerprint in fingerprints_of(snapshot):
            needed["fingerprint"].add(fingerprint)
            try:
                needed["manifest"].add(manifest_id(repository.load_record("fingerprint", fingerprint)))
            except (NoSuchError, FormatError, DamageError) as error:
                name = records.record_name("fingerprint", fingerprint)
                what = error if isinstance(error, FormatError) else error.message
                raise DamageError(f"{name}: {what}", name=name, next_step=NOTHING_DELETED) from None
    return [
        records.record_name(kind, record_id)
        for kind in RECORD_KINDS
        for record_id in repository.records(kind)
        if record_id not in needed[kind]
    ]


def apply_prune(repository: Repository, plan: PrunePlan) -> PruneStats:
    """Do it, under an exclusive lock. When snapshots or indexes changed since the plan was made, it is made anew."""
    with repository.lock(exclusive=True):
        if frozenset(_names(repository)) != plan.seen:
            plan = plan_prune(repository)
        new_bytes = _repack(repository, plan)
        _rewrite_index(repository, plan)
        repository.require_locks()
        for name in plan.indexes:
            repository.store.delete(name)
        packs = [pack_name(pack_id) for pack_id in (*plan.repack, *plan.delete)]
        for name in (*packs, *plan.unindexed):
            repository.require_locks()
            repository.store.delete(name)
        for name in plan.orphan_records:
            repository.store.delete(name)
        repository.reset_index()
    return PruneStats(
        deleted_packs=len(plan.delete) + len(plan.unindexed),
        repacked_packs=len(plan.repack),
        new_bytes=new_bytes,
        freed_bytes=plan.freed_bytes,
        deleted_indexes=len(plan.indexes),
        deleted_records=len(plan.orphan_records),
    )


def _repack(repository: Repository, plan: PrunePlan) -> int:
    """Store the used blobs of the packs to repack again, in new packs with an index of their own; bytes stored. Each blob
    is verified when read and again when sealed."""
    if not plan.repack:
        return 0
    repository.reset_index()  # read from the same files, it has the order that the plan has
    index = repository.index
    chosen = set(plan.repack)
    by_pack: dict[bytes, list[Location]] = {}
    for number, place in enumerate(index):
        if plan.used[number] and place.pack in chosen:
            by_pack.setdefault(place.pack, []).append(place)
    saver = repository.blob_saver()
    try:
        for places in by_pack.values():
            for place in places:
                saver.save(place.blob.kind, repository.load_blob(place.blob.kind, place.blob.id), again=True)
        saver.flush()
    except BaseException:
        saver.abort()
        raise
    return saver.stats.stored_bytes


def _rewrite_index(repository: Repository, plan: PrunePlan) -> None:
    """Write the packs that stay and are listed in an index file that goes into new index files."""
    gone = {*plan.repack, *plan.delete}
    listed: set[bytes] = set()
    batch: list[tuple[bytes, list[PackedBlob]]] = []
    count = 0
    for name in plan.indexes:
        for pack_id, blobs in _decode(repository, name):
            if pack_id in gone or pack_id in listed:
                continue
            listed.add(pack_id)
            batch.append((pack_id, blobs))
            count += len(blobs)
            if count >= INDEX_BLOBS:
                repository.save_index(batch)
                batch, count = [], 0
    if batch:
        repository.save_index(batch)
