"""Packs in the making: sealed blobs on their way to an upload, two packs for each kind at a time.

Each blob goes into one of them at random, which hides chunk sizes from whoever sees the packs (restic 0.18;
https://eprint.iacr.org/2025/532).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from backupctl.repository.format.pack import BlobKind, PackedBlob

OPEN_PACKS = 2
_ENTRY_BYTES = 41


@dataclass(slots=True)
class OpenPack:
    kind: BlobKind
    blobs: list[tuple[bytes, int, bytes | bytearray]] = field(
        default_factory=list
    )  # id, plain length (0: plain), sealed
    size: int = 0

    def add(self, blob_id: bytes, plain_length: int, sealed: bytes | bytearray) -> None:
        self.blobs.append((blob_id, plain_length, sealed))
        self.size += len(sealed) + _ENTRY_BYTES

    def entries(self) -> list[PackedBlob]:
        entries, offset = [], 0
        for blob_id, plain_length, sealed in self.blobs:
            entries.append(PackedBlob(self.kind, blob_id, offset, len(sealed), plain_length))
            offset += len(sealed)
        return entries


class OpenPacks:
    """Not thread-safe: its owner has a lock."""

    def __init__(self, target_bytes: int, choose: random.Random | None = None) -> None:
        self._target_bytes = target_bytes
        # seeded by the system; asking it for every blob took a hundredth of a first backup, and nobody sees the choices
        self._choose = choose or random.Random()  # noqa: S311 — a choice that only its sums show
        self._open: dict[BlobKind, list[OpenPack]] = {"data": [], "tree": []}

    def add(self, kind: BlobKind, blob_id: bytes, plain_length: int, sealed: bytes | bytearray) -> OpenPack | None:
        """Put a sealed blob into a pack; the pack when it is full."""
        packs = self._open[kind]
        if len(sealed) >= self._target_bytes:
            pack = OpenPack(kind)
        elif len(packs) < OPEN_PACKS:
            packs.append(pack := OpenPack(kind))
        else:
            pack = self._choose.choice(packs)
        pack.add(blob_id, plain_length, sealed)
        if pack.size < self._target_bytes:
            return None
        packs[:] = [other for other in packs if other is not pack]
        return pack

    def take(self) -> list[OpenPack]:
        """The packs that are still open, small ones of a kind together; none is open afterwards."""
        leftovers: list[OpenPack] = []
        for packs in self._open.values():
            if sum(pack.size for pack in packs) <= self._target_bytes:
                for pack in packs[1:]:
                    packs[0].blobs.extend(pack.blobs)
                del packs[1:]
            leftovers.extend(packs)
            packs.clear()
        return leftovers
