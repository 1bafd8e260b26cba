"""A tree of many files on a machine behind SSH: how often one has to ask, and for which files."""

from __future__ import annotations

import resource
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from backupctl.clock import SystemClock
from backupctl.hosts import agent, far
from backupctl.hosts.ssh import SshHost
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.manifest import read_manifest
from backupctl.repository.repository import Repository
from backupctl.repository.writer import SnapshotWriter
from backupctl.sources.files import FilesOptions, FilesSource
from tests.repository.helpers import new_repository
from tests.soak import rounds

FILES = rounds(2_000, 100_000)
CHANGED = 7


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the agent was asked, by request."""
    counted: Counter[str] = Counter()
    submit = far.AgentClient.submit

    def counting(self: far.AgentClient, do: str, payload: bytes = b"", **arguments: Any) -> object:
        counted[do] += 1
        return submit(self, do, payload, **arguments)

    monkeypatch.setattr(far.AgentClient, "submit", counting)
    return counted


def tree(root: Path) -> None:
    for number in range(FILES):
        directory = root / f"{number // 500:04}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number:06}").write_bytes(b"%d" % number)


def backup(host: SshHost, root: Path, repository: Repository, parent: tuple[Snapshot, str] | None) -> tuple[Any, Any]:
    source = FilesSource("www", FilesOptions(paths=[str(root)]))
    manifest = read_manifest(repository, parent[1]) if parent else None
    with (
        SnapshotWriter(repository, parent=parent[0] if parent else None, parent_manifest=manifest) as writer,
        source.open(host, SystemClock()) as session,
    ):
        assert writer.add_source("www", session.entries()) == []
        written = writer.finish()
    snapshot = Snapshot(time=SystemClock().now(), tree=written.tree, paths=["/www"], hostname="many")
    snapshot.id = repository.save_snapshot(snapshot)
    return (snapshot, written.manifest), written.stats


def test_a_scan_asks_once_for_many_files_and_reads_the_changed_ones_alone(
    ssh_host: SshHost, asked: Counter[str], tmp_path: Path
) -> None:
    tree(tmp_path / "tree")
    repository = new_repository()
    before = time.monotonic()
    first, stats = backup(ssh_host, tmp_path / "tree", repository, None)
    assert stats.files_new == FILES
    assert asked["open"] == FILES
    for number in range(CHANGED):
        (tmp_path / "tree" / "0000" / f"{number:06}").write_bytes(b"changed")
    asked.clear()
    between = time.monotonic()
    _, stats = backup(ssh_host, tmp_path / "tree", repository, first)
    seconds = time.monotonic() - between
    assert (stats.files_changed, stats.files_unmodified, stats.files_new) == (CHANGED, FILES - CHANGED, 0)
    assert asked["open"] == CHANGED
    assert asked["read"] == 0  # what is small comes along with its opening
    objects = FILES + FILES // 500 + 1
    assert asked["scan"] + asked["next"] <= objects / agent.BATCH_RECORDS + 2
    assert asked.total() < CHANGED + objects / agent.BATCH_RECORDS + 20
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{FILES} files: first {between - before:.1f} s, again {seconds:.1f} s, {asked.total()} requests, {memory:.0f} MiB"
    )
