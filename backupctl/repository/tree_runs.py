"""Old trees for the workers: sealed, with their neighbours in the pack, where the trees below them lie.

A writer stores a directory's tree right after those of its subdirectories, so a stretch of the pack that ends with a tree
has, mostly, what the walk below it needs next. Here nothing is opened: a stretch costs one look at the index and one read.
"""

from __future__ import annotations

from collections import OrderedDict

from backupctl.errors import Corrupt, NotFound
from backupctl.repository.repository import Repository
from backupctl.repository.segment import RECORD
from backupctl.repository.walk_messages import TreeRun

RUN_BYTES = 16 << 10
_MOST_BYTES = 8 * RUN_BYTES  # a longer one has a tree that would go to everybody for nothing
_RUNS = 32  # remembered

Key = tuple[bytes, int]


class TreeRuns:
    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._runs: OrderedDict[Key, TreeRun | None] = OrderedDict()

    def near(self, tree: bytes) -> dict[Key, TreeRun]:
        """The stretch with the first copy of a tree and the one before it; nothing when it has to be read by itself."""
        index = self._repository.index
        place = index.first("tree", tree)
        if place is None:
            return {}
        number, offset, _, _ = place
        pack, window = index.pack(number), offset // RUN_BYTES
        found: dict[Key, TreeRun] = {}
        for key in ((pack, window), (pack, window - 1)):
            run = self._run(number, key)
            if run is None:
                break
            found[key] = run
        return found

    def _run(self, number: int, key: Key) -> TreeRun | None:
        if key in self._runs:
            self._runs.move_to_end(key)
        else:
            self._runs[key] = self._read(number, *key)
            while len(self._runs) > _RUNS:
                self._runs.popitem(last=False)
        return self._runs[key]

    def _read(self, number: int, pack: bytes, window: int) -> TreeRun | None:
        rows = self._repository.index.rows_between(number, window * RUN_BYTES, (window + 1) * RUN_BYTES)
        if not rows:
            return None
        start = RECORD.unpack_from(rows)[2]
        _, _, offset, length, _ = RECORD.unpack_from(rows, len(rows) - RECORD.size)
        size = offset + length - start
        if not 0 < size <= _MOST_BYTES:
            return None
        try:
            return TreeRun(rows, start, self._repository.read_sealed(pack, start, size))
        except (NotFound, Corrupt):
            return None  # whoever reads the tree by itself finds the same and names it
