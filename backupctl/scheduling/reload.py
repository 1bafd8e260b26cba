"""A new configuration for a `serve` that runs: taken when it is valid, refused and said so when it is not.

`serve` writes itself into the catalog when it starts; `config reload` finds it there, sends it SIGHUP, and reads there what
came of it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Scheduler
from backupctl.clock import Clock
from backupctl.config.models import Settings
from backupctl.config.resources import Resources
from backupctl.errors import ConfigError, NoSuchError, UserError
from backupctl.operations.context import Context
from backupctl.scheduling.identity import is_certainly_dead, pid_here, worker_identity
from backupctl.scheduling.service import Service

log = logging.getLogger(__name__)

PATIENCE = timedelta(seconds=60)
_LOOK_SECONDS = 0.2


class Registration:
    """This `serve` in the catalog, from `begin` to `end`. What others left behind when they were killed is removed."""

    def __init__(self, context: Context, service: Service, load: Callable[[], Settings]) -> None:
        self._context = context
        self._service = service
        self._load = load
        self._worker = worker_identity()
        self._lock = threading.Lock()

    def begin(self) -> None:
        catalog, now = self._context.catalog, self._context.clock.now()
        catalog.remove_schedulers(one.worker for one in catalog.schedulers() if is_certainly_dead(one.worker))
        catalog.add_scheduler(
            Scheduler(worker=self._worker, config=str(self._context.settings.path), started=now, loaded=now, refused="")
        )

    def end(self) -> None:
        self._context.catalog.remove_schedulers([self._worker])

    def reload(self) -> bool:
        """Read the configuration again. A valid one is in force at once, for what starts from now on; a broken one changes
        nothing and is told. Never raises what a person can act on."""
        with self._lock:
            try:
                settings = self._load()
                if settings.catalog != self._context.settings.catalog:
                    raise ConfigError(
                        "the catalog has moved, which a running service cannot follow",
                        next_step="restart it: systemctl restart backupctl",
                    )
            except UserError as error:
                self._answer(refused=error.message)
                self._context.reporter.event(
                    "error", f"the new configuration is REFUSED, the old one stays in force: {error}"
                )
                return False
            self._context.settings = settings
            self._context.resources = Resources(settings, self._context.clock)
            self._service.reconfigure(settings)
            self._answer()
            self._context.reporter.event(
                "serve",
                f"new configuration in force; jobs: {', '.join(settings.jobs) or 'none'}",
                jobs=len(settings.jobs),
            )
            return True

    def _answer(self, refused: str = "") -> None:
        try:
            self._context.catalog.answer(self._worker, refused=refused)
        except UserError as error:  # the catalog's server is away: the log has said it
            log.warning("could not note what came of the new configuration: %s", error.message)


def ask_to_reload(catalog: Catalog, clock: Clock, settings: Settings) -> list[Scheduler]:
    """Send every `serve` of this machine that uses this configuration SIGHUP, and wait for what it says. Raises NoSuchError
    when there is none, ConfigError when one refuses."""
    mine = {one.worker: pid_here(one.worker) for one in catalog.schedulers() if one.config == str(settings.path)}
    asked = {worker: pid for worker, pid in mine.items() if pid is not None}
    if not asked:
        raise NoSuchError(
            f"no `serve` with {settings.path} runs on this machine",
            next_step="nothing is to be done: `run --due` and the next `serve` read the files anyway",
        )
    since = {one.worker: one.asked for one in catalog.schedulers()}
    for pid in asked.values():
        os.kill(pid, signal.SIGHUP)
    start = clock.monotonic()
    while True:
        answered = [one for one in catalog.schedulers() if one.worker in asked and one.asked != since[one.worker]]
        if len(answered) == len(asked):
            break
        if clock.monotonic() - start > PATIENCE.total_seconds():
            raise ConfigError(
                f"the service did not answer within {PATIENCE.total_seconds():.0f} seconds",
                next_step="look into its log: journalctl -u backupctl",
            )
        clock.sleep(_LOOK_SECONDS)
    for one in answered:
        if one.refused:
            raise ConfigError(
                f"the running service refused it and keeps the old one: {one.refused}",
                next_step="correct the file, then: backupctl config reload",
            )
    return answered
