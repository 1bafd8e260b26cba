"""Packs in the making: sealed blobs on their way to an upload, two packs for each kind at a time.

Each blob goes into one of them at random, which hides chunk sizes from whoever sees the packs (restic 0.18;
https://eprint.iacr.org/2025/532).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from backupctl.repository.format.pack import BlobKind
from backupctl.repository.format.sealing import Run

OPEN_PACKS = 2


@dataclass(slots=True)
class OpenPack:
    kind: BlobKind
    runs: list[Run] = field(default_factory=list)
    size: int = 0

    def add(self, run: Run) -> None:
        self.runs.append(run)
        self.size += len(run[0]) + len(run[1])


class OpenPacks:
    """Not thread-safe: its owner has a lock."""

    def __init__(self, target_bytes: int, choose: random.Random | None = None) -> None:
        self._target_bytes = target_bytes
        # seeded by the system; asking it for every blob took a hundredth of a first backup, and nobody sees the choices
        self._choose = choose or random.Random()  # noqa: S311 — a choice that only its sums show
        self._open: dict[BlobKind, list[OpenPack]] = {"data": [], "tree": []}

    def add(self, kind: BlobKind, runs: Sequence[Run]) -> list[OpenPack]:
        """Put one run, or each of two, into another pack; the packs that are full."""
        packs = self._open[kind]
        if len(runs) == 1 and len(runs[0][1]) >= self._target_bytes:
            chosen = [OpenPack(kind)]
        elif len(packs) < OPEN_PACKS:
            packs += [OpenPack(kind) for _ in range(max(1, len(runs) - len(packs)))]
            chosen = packs[-len(runs) :]
        else:
            chosen = self._choose.sample(packs, len(runs))
        for pack, run in zip(chosen, runs, strict=True):
            pack.add(run)
        full = [pack for pack in chosen if pack.size >= self._target_bytes]
        packs[:] = [other for other in packs if not any(other is pack for pack in full)]
        return full

    def take(self) -> list[OpenPack]:
        """The packs that are still open, small ones of a kind together; none is open afterwards."""
        leftovers: list[OpenPack] = []
        for packs in self._open.values():
            if sum(pack.size for pack in packs) <= self._target_bytes:
                for pack in packs[1:]:
                    packs[0].runs.extend(pack.runs)
                del packs[1:]
            leftovers.extend(packs)
            packs.clear()
        return leftovers
