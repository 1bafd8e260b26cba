"""Packs in the making: sealed blobs on their way to an upload, two packs for each kind at a time.

Each blob goes into one of them at random, which hides chunk sizes from whoever sees the packs (restic 0.18;
https://eprint.iacr.org/2025/532).
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections import deque
from collections.abc import Sequence

from backupctl.repository.format.pack import BlobKind
from backupctl.repository.format.sealing import Run
from backupctl.storage.drafts import Draft, draft_in
from backupctl.storage.protocol import ObjectStore

OPEN_PACKS = 2
WRITTEN_BYTES = 1 << 20  # at once, of what is written while it grows


class OpenPack:
    """Runs that wait here, after those that stand in its draft already, where it has one: `header` are the entries of the latter,
    `hash` is of their bytes. `size` counts all of it."""

    def __init__(self, kind: BlobKind) -> None:
        self.kind: BlobKind = kind
        self.runs: deque[Run] = deque()
        self.size = 0
        self.header = bytearray()
        self.hash = hashlib.sha256()
        self.draft: Draft | None = None
        self.others: Sequence[OpenPack] = ()  # small ones that shall end in this one
        self._written = 0
        self._is_settled = False
        self._writing = threading.Lock()

    def add(self, run: Run) -> None:
        self.runs.append(run)
        self.size += len(run[0]) + len(run[1])

    @property
    def waiting_bytes(self) -> int:
        return self.size - self._written

    def write(self, store: ObjectStore, *, last: bool = False) -> None:
        """Move what waits into a draft; where `store` has none, or it is little, it goes on waiting. After the `last` time nothing
        is moved. Not for a thread that a signal may interrupt: what was taken from the row would be lost. Raises what the store
        raises; nothing may come of the pack then."""
        with self._writing:
            if self._is_settled:
                return
            self._is_settled = last
            if self.draft is None and self.size >= WRITTEN_BYTES:
                self.draft = draft_in(store)
            while self.draft is not None and self.runs:
                pieces: list[bytes | bytearray] = []
                size = 0
                while self.runs and size < WRITTEN_BYTES:
                    entries, sealed = self.runs.popleft()
                    self.header += entries
                    self._written += len(entries) + len(sealed)
                    pieces.append(sealed)
                    size += len(sealed)
                self._append(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _append(self, data: bytes | bytearray) -> None:
        assert self.draft is not None
        self.draft.write(data)
        self.hash.update(data)

    def end(self, trailer: bytes) -> bytes:
        """The id of the pack that its draft is now, whole."""
        self._append(trailer)
        return self.hash.digest()

    def absorb(self) -> None:
        """Take over what the `others` hold. Raises what the store raises."""
        for other in self.others:
            if other.draft is not None:
                self.add((bytes(other.header), other.draft.read()))
            for run in other.runs:
                self.add(run)
        self.others = ()


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

    def wide(self) -> list[OpenPack]:
        """Packs of content with so much waiting that it should be written."""
        return [pack for pack in self._open["data"] if pack.waiting_bytes >= WRITTEN_BYTES]

    def take(self) -> list[OpenPack]:
        """The packs that are still open, small ones of a kind together; none is open afterwards."""
        leftovers: list[OpenPack] = []
        for packs in self._open.values():
            if sum(pack.size for pack in packs) <= self._target_bytes:
                for pack in packs[:1]:
                    pack.others = packs[1:]
                del packs[1:]
            leftovers.extend(packs)
            packs.clear()
        return leftovers
