"""What the judge of the scenario says of a search. The scenario itself runs in tests/end_to_end/test_point_in_time.py."""

from __future__ import annotations

from datetime import UTC, datetime

from backupctl.drills.scenarios.destructive_statement import Truth, _found
from backupctl.sources.wal_losses import Loss

TRUTH = Truth("TRUNCATE", 751, 20, {"rows": 2400})
TIME = datetime(2026, 11, 20, 14, 3, tzinfo=UTC)


def test_only_the_very_transaction_counts_as_found() -> None:
    right = Loss(0x600A5C8, 751, TIME, emptied=((1663, 5, 16414),))
    other = Loss(0x600A000, 750, TIME, deleted=(((1663, 5, 16390), 1200),))
    found = _found("db", [right], TRUTH)
    assert found.ok and found.detail == "committed 2026-11-20T14:03:00Z, LSN 0/600A5C8"
    assert not _found("db", [other], TRUTH).ok
    assert not _found("db", [other, right], TRUTH).ok, "something else was taken for a loss, too"
    nothing = _found("db", [], TRUTH)
    assert (nothing.ok, nothing.actual) == (False, "nothing")
