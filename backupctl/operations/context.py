"""What every operation needs, opened once: configuration, catalog, the resources the configuration names, a clock."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from types import TracebackType

from backupctl.catalog.catalog import Catalog
from backupctl.clock import Clock, SystemClock
from backupctl.config.models import Job, Settings
from backupctl.config.resources import Resources
from backupctl.errors import NoSuchError, UsageError
from backupctl.operations.reporter import Reporter, SilentReporter


@dataclass(slots=True)
class Context:
    settings: Settings
    catalog: Catalog
    resources: Resources
    clock: Clock
    reporter: Reporter

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        clock: Clock | None = None,
        reporter: Reporter | None = None,
        read_only: bool = False,
    ) -> Context:
        """With `read_only`: nothing of this machine's catalog, and stores that are only read. The catalog is an empty one
        in memory, which `learn` fills from the repositories."""
        clock = clock or SystemClock()
        return cls(
            settings,
            Catalog.in_memory(clock=clock) if read_only else Catalog.open(settings.catalog, clock=clock),
            Resources(settings, clock, read_only=read_only),
            clock,
            reporter or SilentReporter(),
        )

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
        self.catalog.close()

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
