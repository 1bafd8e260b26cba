"""The operations that a scenario asks for, each on a configuration of the drill's own and with a catalog of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backupctl.config.load import load
from backupctl.config.models import Settings
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

        with Context.open(settings, clock=self._clock) as context:
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

    def rebuild(self, settings: Settings) -> list[str]:
        from backupctl.operations.rebuild import rebuild

        with Context.open(settings, clock=self._clock) as context:
            return rebuild(context).problems
