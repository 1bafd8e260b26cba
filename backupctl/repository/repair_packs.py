"""Repair packs: what a damaged pack still gives goes into a new one, what it has lost comes from a copy.

Plan first, apply later, under an exclusive lock: new packs → new index → delete old index → delete damaged packs. A crash
leaves blobs stored twice or packs in no index; every snapshot reads as well as before, and the next repair goes on.

All that a damaged pack still gives is kept, needed or not. From the copies comes what snapshots need, which includes what lay
in packs that are in no index any more. Packs in no index that hold something needed, such as an interrupted repair leaves, are
listed. A damaged pack goes only when all of it that can be read stands elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from backupctl.repository.adoption import compare_packs
from backupctl.repository.format.pack import PackedBlob
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.ledger import Ledger
from backupctl.repository.prune import delete_names
from backupctl.repository.repacking import Repacker
from backupctl.repository.repair_index import files_listing, replace_index
from backupctl.repository.repository import Repository
from backupctl.repository.survey import DamagedPack, Key, Survey, take

Progress = Callable[[int, int], None]  # blobs stored anew, blobs to store


@dataclass(slots=True)
class PacksPlan:
    """`copies` of the survey are those that this plan counts on."""

    survey: Survey
    salvage: int = 0  # blobs that damaged packs still give
    copies: Sequence[Repository] = ()

    @property
    def damaged(self) -> dict[bytes, DamagedPack]:
        return {pack: found for pack, found in self.survey.damaged.items() if not found.mislisted}

    @property
    def mislisted(self) -> dict[bytes, DamagedPack]:
        """Left alone: `repair index` comes first."""
        return {pack: found for pack, found in self.survey.damaged.items() if found.mislisted}

    @property
    def fetch(self) -> dict[Key, int]:
        """What comes from which of the copies."""
        return self.survey.found

    @property
    def adopt(self) -> set[bytes]:
        """Packs in no index that will be listed."""
        return self.survey.unlisted - self.survey.damaged.keys()

    def __bool__(self) -> bool:
        return bool(self.damaged or self.fetch or self.adopt)


@dataclass(slots=True)
class RepairedPacks:
    salvaged: int = 0
    fetched: int = 0
    failed: list[Key] = field(default_factory=list)  # the copy that should have it could not give it
    new_bytes: int = 0
    deleted_packs: int = 0


def suspected(repository: Repository, found_bad: Iterable[bytes] = ()) -> set[bytes]:
    """Packs of the index that are missing, of the wrong size, bad by the ledger of reading, or among `found_bad`."""
    index, ledger = repository.index, Ledger(repository)
    suspects = {pack for pack in index.packs if ledger.is_bad(pack)}
    suspects.update(pack for pack in found_bad if pack in index.packs)
    return suspects | compare_packs(repository).lost.keys()


def plan_packs(
    repository: Repository,
    snapshots: Sequence[Snapshot],
    suspects: Collection[bytes],
    copies: Sequence[Repository] = (),
) -> PacksPlan:
    """Read the suspects, and find out what `snapshots`, which are all there are, need. Changes nothing. Hold a lock."""
    survey = Survey(repository, snapshots, suspects, copies=copies)
    plan = PacksPlan(survey, copies=copies)
    taken: set[Key] = set()
    plan.salvage = sum(len(_good(repository, pack, taken)) for pack in plan.damaged.values())
    return plan


def _good(repository: Repository, pack: DamagedPack, taken: set[Key]) -> list[PackedBlob]:
    """What a damaged pack still gives, less what another one gave, which is noted in `taken`."""
    good = []
    for blob in repository.index.blobs_of([pack.id])[pack.id]:
        if blob.offset not in pack.bad and (blob.kind, blob.id) not in taken:
            taken.add((blob.kind, blob.id))
            good.append(blob)
    return good


def apply_packs(repository: Repository, plan: PacksPlan, *, progress: Progress | None = None) -> RepairedPacks:
    """Do it, under the exclusive lock that the plan was made under. Raises DamageError, with nothing deleted, when what could
    be read a moment ago no longer can; what the stores say when a copy cannot be asked."""
    done = RepairedPacks()
    total = plan.salvage + len(plan.fetch)
    with repository.lock(exclusive=True):
        with Repacker(repository) as repacker:
            taken: set[Key] = set()
            for pack in plan.damaged.values():
                if good := _good(repository, pack, taken):
                    repacker.move(pack.id, good)
                    done.salvaged += len(good)
                    if progress is not None:
                        progress(done.salvaged, total)
            for kind, blob in plan.fetch:
                content, _ = take(plan.copies, kind, blob)
                if content is None:
                    done.failed.append((kind, blob))
                    continue
                repacker.add(kind, blob, content)
                done.fetched += 1
                if progress is not None:
                    progress(done.salvaged + done.fetched, total)
            new = [*repacker.finish(), *plan.survey.extra.blobs_of(plan.adopt).items()]
            done.new_bytes = repacker.stored_bytes
        replace_index(repository, files_listing(repository, plan.damaged), plan.damaged, new)
        there = [pack.name for pack in plan.damaged.values() if pack.is_there]
        delete_names(repository, there)
        done.deleted_packs = len(there)
    return done
