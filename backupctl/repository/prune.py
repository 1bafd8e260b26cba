"""Prune: give back the space of what no snapshot refers to. Plan first, apply later, under an exclusive lock.

The work is done in rounds, each of which stands by itself: new packs → new index → delete old index → delete old packs.
Unindexed packs go before the first, orphan records after the last. After a crash at any step every snapshot is whole: at
worst one round's blobs are stored twice or its packs are in no index, and the next prune goes on from there.

When anything that decides what is needed cannot be read, nothing is deleted at all. Of a blob that is stored more than
once, a copy that can be read stays; a pack that is lost goes from the index as soon as nothing needs it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from backupctl.errors import DamageError
from backupctl.repository.format.pack import PackedBlob, entry_bytes
from backupctl.repository.marking import NOTHING_DELETED
from backupctl.repository.prune_plan import PruneLimits, PrunePlan, decode_listing, names_seen, plan_prune
from backupctl.repository.repacking import Repacker
from backupctl.repository.repository import Repository, pack_name

__all__ = [
    "PruneLimits",
    "PrunePlan",
    "PruneStats",
    "apply_prune",
    "delete_names",
    "index_batches",
    "plan_prune",
]

INDEX_BLOBS = 50_000
ROUND_BYTES = 512 << 20  # moved at most between two points from which a killed prune goes on
ROUND_BLOBS = 2 * INDEX_BLOBS  # and so many listed in the index files that are replaced
DELETERS = 8

Listing = list[tuple[bytes, list[PackedBlob]]]
Progress = Callable[[int, int], None]  # bytes moved, bytes to move


@dataclass(slots=True)
class PruneStats:
    deleted_packs: int = 0
    repacked_packs: int = 0
    new_bytes: int = 0
    freed_bytes: int = 0
    deleted_indexes: int = 0
    deleted_records: int = 0
    rounds: int = 0


def apply_prune(repository: Repository, plan: PrunePlan, *, progress: Progress | None = None) -> PruneStats:
    """Do it, under an exclusive lock. When snapshots or indexes changed since the plan was made, it is made anew. A plan
    is used up by this."""
    with repository.lock(exclusive=True):
        if frozenset(names_seen(repository)) != plan.seen:
            plan = plan_prune(repository, plan.limits)
        stats = PruneStats(freed_bytes=plan.freed_bytes, repacked_packs=len(plan.repack))
        delete_names(repository, plan.unindexed)
        stats.deleted_packs += len(plan.unindexed) + len(plan.delete)
        try:
            _Rounds(repository, plan, stats, progress).run()
        finally:
            repository.reset_index()
        delete_names(repository, plan.orphan_records)
        stats.deleted_records = len(plan.orphan_records)
    return stats


def delete_names(repository: Repository, names: Collection[str]) -> None:
    """Several at a time, each under a lock that is still ours."""

    def delete(name: str) -> None:
        repository.require_locks()
        repository.store.delete(name)

    with ThreadPoolExecutor(DELETERS, thread_name_prefix="delete") as pool:
        try:
            for _ in pool.map(delete, names):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class _Rounds:
    """Replaces the index files of a plan, and with them the packs that go."""

    def __init__(self, repository: Repository, plan: PrunePlan, stats: PruneStats, progress: Progress | None) -> None:
        self._repository, self._plan, self._stats, self._progress = repository, plan, stats, progress
        self._gone = {*plan.delete, *plan.repack}
        self._missing = {pack_id: set(offsets) for pack_id, offsets in plan.repack.items()}
        self._listed: set[bytes] = set()  # packs that stay and stand in a new index file
        self._moved_bytes = 0
        self._files = deque(plan.indexes)

    def run(self) -> None:
        while self._files:
            self._round()
            self._stats.rounds += 1

    def _round(self) -> None:
        replaced: list[str] = []
        kept: Listing = []
        rest: Listing = []  # what goes, but in a later round
        freed: list[str] = []
        limit, blob_count = self._moved_bytes + ROUND_BYTES, 0
        with Repacker(self._repository) as repacker:
            while self._files and self._moved_bytes < limit and blob_count < ROUND_BLOBS:
                replaced.append(name := self._files.popleft())
                for pack_id, blobs in decode_listing(self._repository, name):
                    blob_count += len(blobs)
                    if pack_id not in self._gone:
                        if pack_id not in self._listed:
                            self._listed.add(pack_id)
                            kept.append((pack_id, blobs))
                    elif self._moved_bytes >= limit:
                        rest.append((pack_id, blobs))
                    elif self._let_go(repacker, pack_id, blobs):
                        freed.append(pack_name(pack_id))
            kept.extend(repacker.finish())
            self._stats.new_bytes += repacker.stored_bytes
        for batch in index_batches(kept):
            self._repository.save_index(batch)
        if rest:
            self._files.appendleft(f"index/{self._repository.save_index(rest)}")
        delete_names(self._repository, replaced)
        self._stats.deleted_indexes += len(replaced)
        delete_names(self._repository, freed)

    def _let_go(self, repacker: Repacker, pack_id: bytes, blobs: list[PackedBlob]) -> bool:
        """Move what is needed of a pack; True when no index file lists the pack any more after this one."""
        missing = self._missing.get(pack_id, set())
        if moving := [blob for blob in blobs if blob.offset in missing]:
            repacker.move(pack_id, moving)
            missing.difference_update(blob.offset for blob in moving)
            self._moved_bytes += sum(blob.length + entry_bytes(blob) for blob in moving)
            if self._progress is not None:
                self._progress(min(self._moved_bytes, self._plan.moved_bytes), self._plan.moved_bytes)
        self._plan.listings[pack_id] -= 1
        if self._plan.listings[pack_id]:
            return False
        if missing:
            name = pack_name(pack_id)
            raise DamageError(f"{name} is listed with different contents", name=name, next_step=NOTHING_DELETED)
        return True


def index_batches(packs: Iterable[tuple[bytes, list[PackedBlob]]]) -> Iterator[Listing]:
    """What goes into one index file each."""
    batch: Listing = []
    count = 0
    for pack in packs:
        batch.append(pack)
        count += len(pack[1])
        if count >= INDEX_BLOBS:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch
