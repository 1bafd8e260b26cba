"""Where damage to archived logs is planted: a site with a backup and a whole log behind it, and the commands that have to tell."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from backupctl.repository.log_archive import LogArchive
from tests.damage.matrix import Case
from tests.damage.stage import Stage
from tests.end_to_end.processes import wait_until
from tests.end_to_end.site import Said, Site
from tests.faults.inside import opened
from tests.repository.helpers import new_repository

Damage = Callable[["LogStage"], object]


@dataclass
class LogStage:
    """`server`: as archives are called. `segments`: names in the archive. `command`: what a damage on the way to the archive
    runs instead of what its row says."""

    stage: Stage
    server: str
    segments: list[str] = field(default_factory=list)
    command: tuple[str, ...] = ()

    @property
    def repository(self) -> Path:
        return self.stage.site.repository

    @contextmanager
    def archive(self) -> Iterator[LogArchive]:
        with opened(self.stage.site) as repository:
            yield LogArchive(repository, self.server)

    def path(self, segment: str) -> Path:
        (found,) = (self.repository / "backupctl" / "log").rglob(segment)
        return found

    def edit(self, segment: str, change: Callable[[bytes], bytes]) -> None:
        """Of its object in the store."""
        file = self.path(segment)
        file.write_bytes(change(file.read_bytes()))

    def swap(self, one: str, other: str) -> None:
        first, second = self.path(one), self.path(other)
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)

    def replace(self, segment: str, change: Callable[[bytes], bytes], *, under: str = "") -> None:
        """Another content in a sound object, with the facts of the right one: it was damaged before it was stored."""
        with self.archive() as archive:
            content, facts = archive.get(segment), archive.look(segment).facts
            if not under:
                archive.delete(segment)
            archive.put(under or segment, change(content), facts)

    def seal_otherwise(self, segment: str) -> None:
        """As another repository, whose key nobody has here, would have."""
        other = LogArchive(new_repository(), self.server)
        other.put(segment, b"x" * 1000, {})
        self.path(segment).write_bytes(other._fetch(segment, None))

    def tells(self, case: Case, damage: Damage) -> None:
        """The command has to say what the row declares; and what reading alone finds, the structure does not tell."""
        site = self.stage.site
        saved, catalog = site.root / "saved", (site.root / "catalog.db").read_bytes()
        shutil.copytree(self.repository, saved)
        try:
            with self.stage.prepared():
                damage(self)
                if case.told_by == "check --read-data":
                    self._run(("check", "--json"), 0)
                self._told(case)
        finally:
            self.command = ()
            shutil.rmtree(self.repository)
            saved.rename(self.repository)
            (site.root / "catalog.db").write_bytes(catalog)  # it remembers what checks said

    def _told(self, case: Case) -> None:
        command = self.command or (*case.told_by.split(), "--json")
        said = self._run(command, case.code)
        if case.told_by == "status":
            assert said.line("status")["state"] == case.verdict, said.text
        elif case.told_by.startswith("check"):
            done = said.line("finished")
            assert done.get("verdict", done["state"]) == case.verdict, said.text
        missed = [one for one in case.all_names if one not in said.text]
        assert not missed, f"{missed} not in {said.text}"

    def _run(self, command: tuple[str, ...], code: int) -> Said:
        if "receive" in command:  # it would not end by itself if it saw nothing wrong
            return Site(self.stage.site.root).run(*command, expect=code)
        return self.stage.site.run(*command, expect=code)


def grow_old(log: LogStage) -> None:
    """Nothing comes any more, and the objective is one second."""
    log.stage.configure(log.stage.options, job="rpo: 24h => rpo: 1s")
    since = time.monotonic()
    wait_until(lambda: time.monotonic() - since > 2.0, "the log to become stale")
