"""The old trees that a task came with: sealed, as they lie in their packs, and opened where they are needed.

Whoever hands out tasks would otherwise open every tree of the last snapshot itself: a fifth of all processor time of a run
that finds nothing changed, and most of what its main thread does (60,000 files in 10,200 directories).
"""

from __future__ import annotations

from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import Keys
from backupctl.repository.format.opening import BlobOpener
from backupctl.repository.format.pack import PackedBlob, require_possible
from backupctl.repository.old_tree import Old
from backupctl.repository.segment import RECORD
from backupctl.repository.walk_messages import Task, TreeRun


class NotHereError(LookupError):
    """The tree did not come with the task."""


class OldTrees:
    """For one thread. A tree is verified against its id each time it is opened."""

    def __init__(self, keys: Keys) -> None:
        self._opener = BlobOpener(keys)
        self._plain: dict[str, bytes] = {}
        self._runs: list[TreeRun] = []
        self.unopened: list[str] = []
        """Trees that came, and are not what they should be: somebody has to look at them with more care."""

    def take(self, task: Task) -> None:
        """What a task came with, and nothing of an earlier one."""
        self._plain, self._runs, self.unopened = task.trees, task.runs, []

    def open(self, tree: str) -> Old | None:
        """None for "" and for a tree that nobody can read. Raises NotHereError."""
        if not tree:
            return None
        text = self._plain.get(tree)
        if text is None:
            text = self._opened(tree)
        return Old(text.decode("utf-8", "replace")) if text else None

    def _opened(self, tree: str) -> bytes:
        blob_id = bytes.fromhex(tree)
        run, row = self._place(blob_id)
        if run is None or tree in self.unopened:
            raise NotHereError(tree)
        _, _, offset, length, plain_length = RECORD.unpack_from(run.rows, row)
        try:
            require_possible(PackedBlob("tree", blob_id, offset, length, plain_length))
            sealed = memoryview(run.sealed)[offset - run.start :][:length]
            found = self._opener.open(sealed, length, plain_length, blob_id)
        except FormatError:
            found = None
        if found is None:
            self.unopened.append(tree)
            raise NotHereError(tree)
        return found

    def _place(self, blob_id: bytes) -> tuple[TreeRun | None, int]:
        """Found by searching: a table of all rows would take longer to make than the few searches that follow."""
        for run in self._runs:
            row = run.rows.find(blob_id)
            while row >= 0:
                if row % RECORD.size == 0:
                    return run, row
                row = run.rows.find(blob_id, row + 1)
        return None, 0
