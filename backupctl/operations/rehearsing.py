"""The operations that a scenario asks for, each on a configuration of the drill's own and with a catalog of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

from backupctl.clock import FakeClock
from backupctl.config.load import load
from backupctl.config.models import Job, Settings
from backupctl.drills.interlocks import refuse_places
from backupctl.drills.surroundings import Warm
from backupctl.errors import CouldNotRunError
from backupctl.operations.context import Context
from backupctl.operations.records import fingerprint_of, of_job
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.repository import Repository


class RehearsedVerbs:
    """`drills.surroundings.Verbs`."""

    def __init__(self, context: Context) -> None:
        self._context, self._clock = context, context.clock

    def back_up(self, settings: Settings, job: str) -> str:
        from backupctl.operations.backup import run_backup

        refuse_places(settings, self._context.settings)
        (host,) = {source.host for source in settings.jobs[job].sources.values()}
        with (
            Context.open(settings, clock=self._clock) as context,
            context.resources.confined(settings.repositories, host),
        ):
            queued = context.catalog.enqueue("backup", job, self._clock.now(), trigger="manual")
            run = context.catalog.claim(queued.id, "drill") if queued is not None else None
            if run is None:
                raise CouldNotRunError(
                    f"a backup of {job} at this very instant exists already", next_step="run it again"
                )
            outcome = run_backup(context, run)
            context.catalog.finish(run.id, run.epoch, outcome.state, exit_code=outcome.exit_code)
        if outcome.state != "complete":
            raise CouldNotRunError(
                f"the drill's own backup of {job} is {outcome.state}: {outcome.message}",
                next_step="see that nothing else uses the staging host's scratch directory",
            )
        return outcome.snapshot

    def record(self, repository: Repository, snapshot: Snapshot) -> Mapping[str, Any]:
        return fingerprint_of(repository, snapshot)

    def complete(self, repository: Repository, job: str) -> list[Snapshot]:
        return of_job(repository.snapshots(), job, complete_only=True)

    def kit(self, repository: str) -> str:
        from backupctl.operations.starter import recovery_kit

        return recovery_kit(self._context, repository)

    def bootstrap(self, kits: Sequence[str], directory: Path) -> Settings:
        from backupctl.operations.bootstrap import Kit, write_bootstrap

        path = write_bootstrap([Kit.read(text) for text in kits], directory)
        return load(path).model_copy(update={"cache": None})

    def tell(self, settings: Settings, job: str, outcome: str) -> list[tuple[str, str, str]]:
        from backupctl.notify.notices import NoticeEvent, notify

        now, test = self._clock.now(), outcome == "test"
        event = NoticeEvent(
            kind="test" if test else "backup",
            name=job,
            outcome=outcome,
            verdict="",
            run="drill",
            scheduled=now,
            at=now,
            success=outcome == "complete",
        )
        with Context.open(settings, clock=self._clock) as context:
            secrets = context.resources.secret
            sent = notify(settings.notify, event, catalog=context.catalog, secrets=secrets, clock=self._clock)
            return [(one.channel, one.kind, one.error) for one in sent]

    def state_at(self, settings: Settings, job: str, instant: datetime) -> str:
        from backupctl.operations.status import status

        with Context.open(settings, clock=FakeClock(instant)) as context:
            (found,) = status(context, [context.job(job)])
            return found.state

    def kept_warm(self, job: Job) -> list[str]:
        from backupctl.operations.standby_servers import followed

        return followed(self._context.settings.jobs, job)

    def standby(
        self, settings: Settings, job: str, *, on: str, directory: bytes, local: Mapping[str, str]
    ) -> AbstractContextManager[Warm]:
        from backupctl.operations.rehearsing_standby import rehearsed_standby

        return rehearsed_standby(settings, job, self._clock, on=on, directory=directory, local=local)

    def rebuild(self, settings: Settings) -> list[str]:
        from backupctl.operations.rebuild import rebuild

        with Context.open(settings, clock=self._clock) as context:
            return rebuild(context).problems
