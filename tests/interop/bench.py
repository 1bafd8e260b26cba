"""Small repositories with two snapshots of one site, ours and stock restic's, copied for each trial."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from backupctl.clock import SystemClock, iso
from backupctl.hosts.local import LocalHost
from backupctl.repository.check import check
from backupctl.repository.entry import Entry
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.keys import add_key, list_keys
from backupctl.repository.prune import PruneLimits, apply_prune, plan_prune
from backupctl.repository.repository import Repository
from backupctl.repository.writer import SnapshotWriter
from backupctl.sources.files import FilesOptions, FilesSource
from backupctl.storage.local import LocalStore
from tests.golden import content
from tests.interop.stock import Restic

PASSWORD = "correct horse"
CLOCK = SystemClock()
ROOT = "site"
"""Where the site stands in every snapshot, so that a path of ours is one of theirs."""


def _begin(restic: Restic, repository: Path) -> None:
    """Theirs, with a key that opens at once instead of after the quarter of a second that restic's own is made to take; that
    ours and theirs open each other's is tried by `test_restic.py`."""
    slow = restic.with_password("slow to open")
    slow(repository, "init")
    add_key(Repository.open(LocalStore(repository), "slow to open", clock=CLOCK), PASSWORD, scrypt_n=2)
    for key in list_keys(Repository.open(LocalStore(repository), PASSWORD, clock=CLOCK), PASSWORD):
        if not key.opens:
            (repository / "keys" / key.id).unlink()


@dataclass
class Bench:
    """`states`: the site at the first and the second snapshot. The site itself is in the second state."""

    root: Path
    states: list[dict[str, Any]] = field(default_factory=list)
    restic: Restic = field(init=False)

    @property
    def site(self) -> Path:
        return self.root / ROOT

    @classmethod
    def build(cls, root: Path, programs: list[str]) -> Bench:
        bench = cls(root)
        Repository.create(LocalStore(root / "ours", create=True), PASSWORD, clock=CLOCK, scrypt_n=2)
        theirs = []
        for number, program in enumerate(programs):
            (root / f"home-{number}").mkdir()
            theirs.append(Restic(program, root / f"home-{number}", PASSWORD))
            _begin(theirs[-1], root / theirs[-1].short_version)
        bench.site.mkdir()
        for change in (lambda: content.first_state(bench.site, large=False), lambda: content.second_state(bench.site)):
            change()
            bench.states.append(content.facts(bench.site))
            bench.back_up(root / "ours")
            for restic in theirs:
                restic(root / restic.short_version, "backup", "--host", "job", ROOT, directory=root)
        return bench

    # what is tried on

    def ours(self) -> Path:
        return self._copy("ours")

    def theirs(self) -> Path:
        return self._copy(self.restic.short_version)

    def empty(self) -> Path:
        return self.root / f"trial-{len(list(self.root.glob('trial-*')))}"

    def _copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.root / name, self.empty()))

    # what we do

    def open(self, repository: Path) -> Repository:
        return Repository.open(LocalStore(repository), PASSWORD, clock=CLOCK)

    def ids(self, repository: Path) -> list[str]:
        """Oldest first."""
        return [snapshot.id for snapshot in self.open(repository).snapshots()]

    def back_up(self, repository: Path) -> str:
        """A run of ours; the paths as stock restic writes them when it is called in the directory above."""
        repo = self.open(repository)
        source = FilesSource(ROOT, FilesOptions(paths=[str(self.site)]))
        top = os.fsencode(self.site)[1:] + b"/"

        def below(entries: Iterator[Entry]) -> Iterator[Entry]:
            for entry in entries:
                if entry.path.startswith(top):
                    yield replace(entry, path=entry.path.removeprefix(top))

        with repo.lock(), SnapshotWriter(repo) as writer, source.open(LocalHost("local"), CLOCK) as session:
            assert writer.add_source(ROOT, below(session.entries())) == []
            written = writer.finish()
            snapshot = Snapshot(CLOCK.now(), written.tree, [str(self.site)], "job", "backupctl", tags=["backupctl"])
            now = iso(snapshot.time)
            snapshot.summary = {"backup_start": now, "backup_end": now, **asdict(written.stats)}
            return repo.save_snapshot(snapshot)

    def require_whole(self, repository: Path, states: list[dict[str, Any]] | None = None) -> None:
        """By our check of every byte; and every snapshot gives back what it should, by default both states."""
        repo = self.open(repository)
        with repo.lock():
            report = check(repo, read_data=True)
        assert [one.message for one in report.problems] == []
        for snapshot, state in zip(self.ids(repository), self.states if states is None else states, strict=True):
            files, problems = self.restored(repository, snapshot)
            assert problems == []
            assert files == state

    def restored(self, repository: Path, snapshot: str) -> tuple[dict[str, Any], list[str]]:
        return content.restored(self.open(repository), {"id": snapshot, "root": ROOT}, self.empty())

    def prune(self, repository: Path) -> None:
        repo = self.open(repository)
        with repo.lock(exclusive=True):
            apply_prune(repo, plan_prune(repo, PruneLimits(max_unused=0.0)))

    # what they do

    def require_clean(self, repository: Path) -> None:
        assert "no errors were found" in self.restic(repository, "check", "--read-data")

    def lines(self, repository: Path, *arguments: str) -> list[Any]:
        """Of a command with --json."""
        return [json.loads(line) for line in self.restic.ended(repository, *arguments, "--json").out.splitlines()]
