"""Where in the write-ahead log a snapshot stands, so that a recovery can stop at exactly what the snapshot saw.

A transaction's commit record is in the log a moment before others see the transaction, so no LSN that a server answers is
that place for certain. But snapshot and log together tell: if every commit up to some record is visible in the snapshot, and
none after it, then recovery to that record gives the snapshot's content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SnapshotXids:
    """What `pg_current_snapshot()` prints: `xmin:xmax:in progress`."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> SnapshotXids:
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(one) for one in running.split(",") if one))

    def sees(self, xid: int) -> bool:
        """`xid` as in the log: its lower 32 bits, not further than half of them away."""
        full = (self.xmax & ~0xFFFFFFFF) | xid
        if full - self.xmax > 1 << 31:
            full -= 1 << 32
        elif self.xmax - full > 1 << 31:
            full += 1 << 32
        return full < self.xmin or (full < self.xmax and full not in self.running)


@dataclass(frozen=True, slots=True)
class Commit:
    lsn: int
    xid: int  # 0: not known, of a prepared transaction


def cut(snapshot: SnapshotXids, commits: Sequence[Commit], end: int) -> int | None:
    """The LSN of the last commit record (after `end`, where the base backup's own recovery ends) that the snapshot sees; 0
    when recovery to `end` already gives it; None when there is no such place. `commits` in the order of the log."""
    last_seen = 0
    first_unseen: int | None = None
    for commit in commits:
        if commit.xid == 0:
            if commit.lsn >= end or first_unseen is not None:
                return None
        elif snapshot.sees(commit.xid):
            if first_unseen is not None:
                return None
            last_seen = commit.lsn
        elif first_unseen is None:
            first_unseen = commit.lsn
    if first_unseen is not None and first_unseen < end:
        return None
    return last_seen if last_seen >= end else 0


def common_cut(cuts: Mapping[str, int | None]) -> tuple[int, list[str]]:
    """The place that most databases agree on (the later one of two), and those that do not."""
    known = [one for one in cuts.values() if one is not None]
    if not known:
        return 0, sorted(cuts)
    best = max(known, key=lambda one: (known.count(one), one))
    return best, sorted(name for name, one in cuts.items() if one != best)
