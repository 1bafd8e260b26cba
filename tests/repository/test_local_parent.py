"""A directory of this machine, backed up by worker processes on top of the last time: what comes and goes between two runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from backupctl.clock import FakeClock
from backupctl.hosts.local import LocalHost
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.sources.files import FilesOptions, FilesSource
from tests.repository.helpers import backup, new_repository

Change = Callable[[Path], object]
CHANGES: dict[str, Change] = {
    "a file in what was empty": lambda top: (top / "empty" / "new").write_text("new"),
    "a directory in what was empty": lambda top: (top / "empty" / "inner").mkdir(),
    "a link in what was empty": lambda top: (top / "empty" / "link").symlink_to("nowhere"),
    "nothing left": lambda top: (top / "full" / "file").unlink(),
    "another file": lambda top: (top / "full" / "another").write_text("another"),
    "a file for a directory": lambda top: ((top / "empty").rmdir(), (top / "empty").write_text("a file")),
    "a directory for a file": lambda top: ((top / "full" / "file").unlink(), (top / "full" / "file").mkdir()),
    "all gone": lambda top: (shutil.rmtree(top / "full"), (top / "empty").rmdir()),
    "all new": lambda top: ((top / "more").mkdir(), (top / "more" / "x").write_text("x")),
}


def held(repository: Repository, snapshot_id: str, top: Path) -> dict[str, bytes]:
    """Every path below `top` in the snapshot; a file's content, the type of anything else."""
    above = b"www" + bytes(top)
    with SnapshotReader(repository, repository.load_snapshot(snapshot_id)) as reader:
        return {
            path.removeprefix(above).decode(): reader.open_node(path, node).read()
            if node.type == "file"
            else node.type.encode()
            for path, node in reader.walk(above)
        }


def present(top: Path) -> dict[str, bytes]:
    return {
        str(path).removeprefix(str(top)): b"symlink"
        if path.is_symlink()
        else b"dir"
        if path.is_dir()
        else path.read_bytes()
        for path in top.rglob("*")
    }


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_next_run_holds_what_is_there_now(change: Change, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "empty").mkdir(parents=True)
    (top / "full").mkdir()
    (top / "full" / "file").write_text("a file")
    repository = new_repository()
    assert isinstance(repository.clock, FakeClock)
    source = FilesSource("www", FilesOptions(paths=[str(top)]))
    parent = None
    for act in (lambda _: None, change, lambda _: None):
        act(top)
        with source.open(LocalHost("local"), repository.clock) as session:
            parent = backup(repository, {"www": session.trees()}, parent=parent)[2]
        repository.clock.advance(timedelta(days=1).total_seconds())
        found = held(repository, parent[0].id, top)
        assert {path: one for path, one in found.items() if path} == present(top)
