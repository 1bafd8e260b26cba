"""What every operation needs, opened once: configuration, catalog, the resources the configuration names, a clock."""

from __future__ import annotations

import getpass
import os
from types import TracebackType
from typing import TYPE_CHECKING

from backupctl.clock import Clock, SystemClock
from backupctl.config.models import Job, Settings
from backupctl.config.resources import Resources
from backupctl.errors import NoSuchError, UsageError
from backupctl.operations.reporter import Reporter, SilentReporter

if TYPE_CHECKING:  # importing it takes half a second
    from backupctl.catalog.catalog import Catalog


class Context:
    """The catalog is opened when it is first asked for: looking into a repository needs none."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog | None,
        resources: Resources,
        clock: Clock,
        reporter: Reporter,
        *,
        upgrade: bool = True,
    ) -> None:
        self.settings, self.resources, self.clock, self.reporter = settings, resources, clock, reporter
        self._catalog, self._upgrade = catalog, upgrade

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        clock: Clock | None = None,
        reporter: Reporter | None = None,
        read_only: bool = False,
        upgrade: bool = True,
    ) -> Context:
        """With `read_only`: nothing of this machine's catalog, and stores that are only read. The catalog is an empty one
        in memory, which `learn` fills from the repositories. `upgrade` as in `Catalog.open`."""
        clock = clock or SystemClock()
        resources = Resources(settings, clock, read_only=read_only)
        return cls(settings, None, resources, clock, reporter or SilentReporter(), upgrade=upgrade)

    @property
    def catalog(self) -> Catalog:
        """Raises what `Catalog.open` does."""
        if self._catalog is None:
            from backupctl.catalog.catalog import Catalog

            clock = self.clock
            self._catalog = (
                Catalog.in_memory(clock=clock)
                if self.resources.read_only
                else Catalog.open(self.settings.catalog, clock=clock, upgrade=self._upgrade)
            )
        return self._catalog

    def job(self, name: str) -> Job:
        try:
            return self.settings.jobs[name]
        except KeyError:
            known = ", ".join(sorted(self.settings.jobs)) or "none"
            raise NoSuchError(
                f"no job named {name!r}; known jobs: {known}", next_step="backupctl config show"
            ) from None

    def one_job(self, name: str | None) -> Job:
        """The named job, or the only one there is."""
        if name is not None:
            return self.job(name)
        if len(self.settings.jobs) == 1:
            return next(iter(self.settings.jobs.values()))
        known = ", ".join(sorted(self.settings.jobs)) or "none"
        raise UsageError("name the job", next_step=f"one of: {known}")

    def audit(self, action: str, subject: str, **detail: object) -> None:
        self.catalog.append_event(actor(), action, subject, detail)

    def close(self) -> None:
        self.resources.close()
        if self._catalog is not None:
            self._catalog.close()

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def actor() -> str:
    """Who acts, for the audit trail: the login behind sudo when there is one."""
    behind = os.environ.get("SUDO_USER", "")
    try:
        own = getpass.getuser()
    except (KeyError, OSError):  # no passwd entry for this uid, as in a minimal container
        own = f"uid {os.getuid()}"
    return f"{behind} as {own}" if behind and behind != own else own
