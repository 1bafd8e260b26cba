"""A table of blob ids that several processes share, so that no two of them compress the same content.

It holds 8 bytes of each id and may forget or lose a race: it saves work and proves nothing. Whoever relies on a hit asks the
repository.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable

SLOTS = 1 << 20
_PROBES = 16


class KnownBlobs:
    def __init__(self, path: str = "", *, slots: int = SLOTS) -> None:
        """A new table, or the one at `path` that another process made. Raises OSError."""
        if path:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            self.path = path
        else:
            descriptor = os.memfd_create("backupctl-known")
            os.ftruncate(descriptor, slots * 8)
            self.path = f"/proc/{os.getpid()}/fd/{descriptor}"
        self._memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        self._descriptor = -1 if path else descriptor  # kept open: its path is how the others find it
        if path:
            os.close(descriptor)
        self._table = memoryview(self._memory).cast("Q")
        self._mask = len(self._table) - 1

    def add(self, blob_id: bytes) -> bool:
        """False when it was there already. True, without remembering it, where the table is full."""
        short = int.from_bytes(blob_id[:8], "little") or 1
        slot = short & self._mask
        for _ in range(_PROBES):
            found = self._table[slot]
            if found == short:
                return False
            if not found:
                self._table[slot] = short
                return True
            slot = (slot + 1) & self._mask
        return True

    def fill(self, blob_ids: Iterable[bytes]) -> None:
        for blob_id in blob_ids:
            self.add(blob_id)

    def close(self) -> None:
        self._table.release()
        self._memory.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
