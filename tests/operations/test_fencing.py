"""A worker that was taken for dead and wakes up: its commit is refused, and nothing of it is visible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backupctl.catalog.catalog import FencedError
from backupctl.config.load import load
from backupctl.operations.backup import run_backup
from backupctl.operations.context import Context
from backupctl.operations.reporter import SilentReporter
from backupctl.operations.setup import create_repository
from backupctl.scheduling.dispatch import enqueue_now
from backupctl.scheduling.identity import worker_identity

CONFIG = """\
version: 1
repositories: {main: {storage: {local: {path: repository}}, password: {file: key}}}
jobs:
  site:
    sources: {www: {files: {paths: [www]}}}
    repository: main
    objectives: {rpo: 24h, rto: 2h}
"""


class TakenOver(SilentReporter):
    """Another scheduler closes the run while its source is being read."""

    def __init__(self) -> None:
        self.context: Context | None = None
        self.run = ""

    def event(self, kind: str, message: str, /, **fields: Any) -> None:
        if kind == "source":
            assert self.context is not None
            assert self.context.catalog.cancel(self.run, message="taken for dead") is not None


def test_a_zombie_commits_nothing(tmp_path: Path) -> None:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "page.html").write_text("hello")
    (tmp_path / "backupctl.yaml").write_text(CONFIG)
    reporter = TakenOver()
    with Context.open(load(tmp_path / "backupctl.yaml"), reporter=reporter) as context:
        create_repository(context, "main")
        queued = enqueue_now(context.catalog, context.clock, "backup", "site")
        run = context.catalog.claim(queued.id, worker_identity())
        assert run is not None
        reporter.context, reporter.run = context, run.id
        with pytest.raises(FencedError):
            run_backup(context, run)
        repository = context.resources.repository("main")
        assert repository.snapshots() == []
        assert repository.list_locks() == []
        closed = context.catalog.run(run.id)
        assert closed is not None
        assert closed.state == "failed"
