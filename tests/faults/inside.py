"""The commands of a `Site` inside this process: real command line, real worker, real files, without a second to start
Python for each. The process that a run gets is played by a call, or by a fork that can be killed."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Run
from backupctl.cli.main import main
from backupctl.clock import Clock, SystemClock
from backupctl.repository.repository import Repository
from backupctl.storage.local import LocalStore
from backupctl.storage.protocol import ObjectStore
from backupctl.storage.retry import RetryingStore
from tests.end_to_end.site import Said, Site
from tests.faults.faulty_store import FaultyStore

Sabotage = Callable[[FaultyStore], None]


class InsideChild:
    """Stands where `backupctl worker --run ID` would be started."""

    pid = 0

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = list(arguments)

    def wait(self) -> int:
        return call(self._arguments)

    def terminate(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def call(arguments: Sequence[str]) -> int:
    """`backupctl ARGUMENTS` here; its exit code. What would be a traceback is raised."""
    try:
        main(list(arguments))
    except SystemExit as exit:
        assert isinstance(exit.code, int)
        return exit.code


@dataclass
class InsideSite(Site):
    """`sabotage` gets the store of every run, check, drill and restore before it is used."""

    sabotage: Sabotage | None = None
    stores: list[FaultyStore] = field(default_factory=list)

    @classmethod
    def start(cls, root: Path, monkeypatch: pytest.MonkeyPatch) -> InsideSite:
        """A site with an empty repository (cheap key: its cost is not what is tested here) and a staging directory."""
        site = cls.create(root)
        assert isinstance(site, InsideSite)
        monkeypatch.setattr("backupctl.scheduling.launch.FreshChild", InsideChild)
        monkeypatch.setattr("backupctl.hosts.child.may_fork", lambda: False)
        monkeypatch.setattr("backupctl.repository.locks.SETTLE_SECONDS", 0.0)
        monkeypatch.setattr("backupctl.config.resources.open_store", site.open_store)
        monkeypatch.chdir(root)
        site.create_repository()
        site.run("host", "register", "staging")
        return site

    def create_repository(self) -> None:
        password = secrets.token_urlsafe(16)
        key = self.root / "repository.key"
        key.touch(0o600)
        key.write_text(password)
        store = LocalStore(self.repository, create=True)
        Repository.create(store, password, clock=SystemClock(), scrypt_n=1024)
        store.close()

    def open_store(
        self,
        options: Any,
        *,
        secrets: Any,
        base: Path,
        clock: Clock,
        create: bool = False,
        read_only: bool = False,
        throttle: None = None,
    ) -> ObjectStore:
        assert not read_only, "nothing here asks for one"
        faulty = FaultyStore(LocalStore(base / options.local.path, create=create))
        self.stores.append(faulty)
        if self.sabotage is not None:
            self.sabotage(faulty)
        return RetryingStore(faulty, clock, attempts=2, first_delay_seconds=0.001)

    def run(self, *arguments: str, expect: int | Sequence[int] | None = 0, timeout: float = 120) -> Said:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = call(["--config", str(self.root / "backupctl.yaml"), *arguments])
        said = Said(code, out.getvalue(), err.getvalue())
        if expect is not None:
            allowed = (expect,) if isinstance(expect, int) else tuple(expect)
            assert said.code in allowed, f"{arguments}: exit code {said.code}, expected {expect}\n{said.text}"
        assert "Traceback" not in said.text, said.text
        return said

    def catalog_runs(self, state: str) -> list[Run]:
        catalog = Catalog.open(f"sqlite:///{self.root / 'catalog.db'}", clock=SystemClock())
        try:
            return catalog.runs(states=(state,))
        finally:
            catalog.close()

    def forked(self, *arguments: str, sabotage: Sabotage) -> Said:
        """The command in a process of its own, which may be killed: its exit code is then minus the signal's number."""
        path = self.root / "forked.txt"
        child = os.fork()
        if child == 0:
            code = 99
            try:
                with (
                    path.open("w", buffering=1) as output,
                    contextlib.redirect_stdout(output),
                    contextlib.redirect_stderr(output),
                ):
                    self.sabotage = sabotage
                    code = call(["--config", str(self.root / "backupctl.yaml"), *arguments])
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        said = Said(os.waitstatus_to_exitcode(status), path.read_text(), "")
        assert said.code != 99, said.text
        assert "Traceback" not in said.text, said.text
        return said


@contextlib.contextmanager
def opened(site: Site) -> Iterator[Repository]:
    """The site's repository, without any fault."""
    store = LocalStore(site.repository)
    try:
        yield Repository.open(store, (site.root / "repository.key").read_text().strip(), clock=SystemClock())
    finally:
        store.close()
