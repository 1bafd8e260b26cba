"""What writing a snapshot came to: the counts, and what the rest of the commit needs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from backupctl.repository.manifest_facts import SourceTotals


@dataclass(slots=True)
class SnapshotStats:
    """The counts of restic's snapshot `summary`, by its names. `data_added` is plain, `data_added_packed` as stored.
    The totals are those of the tree, every hard link counted: `restic rewrite` compares them."""

    files_new: int = 0
    files_changed: int = 0
    files_unmodified: int = 0
    dirs_new: int = 0
    dirs_changed: int = 0
    dirs_unmodified: int = 0
    data_blobs: int = 0
    tree_blobs: int = 0
    data_added: int = 0
    data_added_packed: int = 0
    total_files_processed: int = 0
    total_bytes_processed: int = 0

    def add(self, files: list[int], dirs: list[int]) -> None:
        """Counts of new, changed and unmodified ones."""
        self.files_new += files[0]
        self.files_changed += files[1]
        self.files_unmodified += files[2]
        self.dirs_new += dirs[0]
        self.dirs_changed += dirs[1]
        self.dirs_unmodified += dirs[2]

    def merge(self, other: SnapshotStats) -> None:
        """Add what another writer did."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


@dataclass(frozen=True, slots=True)
class WrittenSnapshot:
    """What the rest of the commit needs: the root tree's id, the manifest's record id, the counts. `resumed_files` were
    not read, and would have been without what an interrupted run left."""

    tree: bytes
    manifest: str
    stats: SnapshotStats
    resumed_files: int = 0
    resumed_bytes: int = 0
    sources: dict[str, SourceTotals] = field(default_factory=dict)
