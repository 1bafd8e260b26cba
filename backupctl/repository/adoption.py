"""The packs of a repository against its index: what is lost, and what a run that was killed has left in no index.

Such packs are taken up: their headers are read, and an index file is written for them, so that what they hold is not
uploaded again. Only prune and repair delete packs, and they exclude every writer; so even a pack of a writer that is
still at work may be listed here, and again in that writer's own index. A pack is durable before anybody can list it: a
local store syncs it before it gets its name, and syncing the index file commits that name too.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from backupctl.repository.format.pack import PackedBlob, entry_bytes, pack_bytes
from backupctl.repository.repository import Repository
from backupctl.repository.unlisted import pack_of, read_headers
from backupctl.storage.protocol import ObjectInfo

INDEX_BLOBS = 50_000  # per index file, about

_PLAIN_ENTRY_BYTES, _COMPRESSED_ENTRY_BYTES = (
    entry_bytes(PackedBlob("data", bytes(32), 0, 32, plain_length)) for plain_length in (0, 1)
)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ComparedPacks:
    """`lost`: indexed packs that are missing or have the wrong size, and which of both. `unlisted`: packs in no index."""

    lost: dict[bytes, str] = field(default_factory=dict)
    unlisted: list[ObjectInfo] = field(default_factory=list)


@dataclass(slots=True)
class AdoptedPacks:
    packs: int = 0
    bytes: int = 0  # as stored


def compare_packs(repository: Repository) -> ComparedPacks:
    """One listing, no pack is read."""
    index = repository.index
    sizes = array("Q", [pack_bytes(())]) * len(index.packs)
    for _, reference, _, length, plain_length in index.records():
        sizes[reference >> 1] += length + (_COMPRESSED_ENTRY_BYTES if plain_length else _PLAIN_ENTRY_BYTES)
    missing = bytearray(b"\1") * len(sizes)
    found = ComparedPacks()
    for info in repository.store.list("data/"):
        pack = pack_of(info.name)
        if pack is None:
            continue
        number = index.pack_number(pack)
        if number is None:
            found.unlisted.append(info)
            continue
        missing[number] = 0
        if info.size != sizes[number]:
            found.lost[pack] = f"has {info.size} bytes instead of {sizes[number]}"
    number = missing.find(1)
    while number >= 0:
        found.lost[index.pack(number)] = "is missing"
        number = missing.find(1, number + 1)
    return found


def adopt_packs(
    repository: Repository, unlisted: Sequence[ObjectInfo], *, bad: Container[bytes] = frozenset()
) -> AdoptedPacks:
    """List these packs in a new index, except those in `bad` and those that are not as long as their header says. Hold a
    lock. What is not taken up is left to `prune`. Raises what the store raises."""
    done = AdoptedPacks()
    batch: list[tuple[bytes, list[PackedBlob]]] = []
    batch_blobs = 0

    def save() -> None:
        repository.require_locks()
        repository.save_index(batch)
        for pack, blobs in batch:
            repository.index.add_pack(pack, blobs)

    wanted = (info for info in unlisted if pack_of(info.name) not in bad)
    for info, blobs, why in read_headers(repository.store, repository.keys, wanted):
        pack = pack_of(info.name)
        if pack is None or blobs is None:
            log.warning("%s is in no index and cannot be taken up: %s", info.name, why)
            continue
        batch.append((pack, blobs))
        batch_blobs += len(blobs)
        done.packs += 1
        done.bytes += info.size
        if batch_blobs >= INDEX_BLOBS:
            save()
            batch, batch_blobs = [], 0
    if batch:
        save()
    return done
