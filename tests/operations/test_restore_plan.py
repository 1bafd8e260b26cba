"""What a restore will make, told before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backupctl.hosts.local import LocalHost
from backupctl.operations import restore as operation
from backupctl.operations.context import Context
from backupctl.repository.restore_plan import stated_plan
from tests.operations.test_copies import backed_up, copying

__all__ = ["copying"]


def planned(context: Context, into: Path, **options: Any) -> operation.RestoreOrder:
    return operation.plan(context, "site", into=str(into), **{"at": "latest", "only": None, **options})


def test_a_whole_snapshot_is_counted_as_it_states_itself_and_no_tree_is_opened(
    copying: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(copying)
    exact = planned(copying, tmp_path / "back")
    assert exact.files > 0 and exact.directories

    def opened(*_: object) -> None:
        raise AssertionError("a tree was opened")

    monkeypatch.setattr(operation, "plan_restore", opened)
    stated = planned(copying, tmp_path / "back", exact=False)
    assert stated.files == exact.files + 1, "a hard link is counted"
    assert stated.bytes >= exact.bytes
    assert stated.directories is None
    with pytest.raises(AssertionError, match="a tree was opened"):
        planned(copying, tmp_path / "back", exact=False, only="www")


def test_it_is_counted_exactly_where_there_seems_to_be_too_little_room_or_nothing_is_stated(
    copying: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backed_up(copying)
    exact = planned(copying, tmp_path / "back")
    for found in ({}, {"total_files_processed": "7", "total_bytes_processed": 7}, {"total_files_processed": 7}):
        exact.snapshot.summary = found
        assert stated_plan(exact.snapshot) is None
    exact.snapshot.summary = {"total_files_processed": 7, "total_bytes_processed": -1}
    assert stated_plan(exact.snapshot) is None
    monkeypatch.setattr(LocalHost, "free_bytes", lambda host, path: 1)
    full = planned(copying, tmp_path / "back", exact=False)
    assert (full.files, full.bytes, full.directories) == (exact.files, exact.bytes, exact.directories)
