"""`backupctl worker`: takes runs that `serve` hands out, and executes each in a process of its own, on any machine.

It refuses work from a scheduler of another release or with another configuration, and ends then: a service manager starts it
again, with what is there by then. Asked to drain, it takes nothing new and ends when what it has is done.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from backupctl.catalog.models import Run, Worker
from backupctl.config.fleet import FleetSettings
from backupctl.config.models import Settings
from backupctl.errors import ConfigError, UserError
from backupctl.operations.context import Context
from backupctl.scheduling.identity import is_certainly_dead, worker_identity
from backupctl.scheduling.messages import Message, Messages, receive
from backupctl.scheduling.release import digest, release
from backupctl.scheduling.tags import needs, queue_of, queues_for

log = logging.getLogger(__name__)

MOST_APART = timedelta(seconds=10)
"""Heartbeats are written by one clock and read by another: so far may a machine's clock be from the catalog's."""


def fleet_of(settings: Settings) -> FleetSettings:
    """Raises ConfigError where there is no fleet."""
    if settings.fleet is None:
        raise ConfigError(
            "this configuration has no fleet: `serve` executes its runs itself",
            next_step="add `fleet: {}` and a catalog in PostgreSQL to it; see docs/how-to/fleet.md",
        )
    return settings.fleet


def check_clock(context: Context) -> None:
    """Raises ConfigError when our clock and the catalog server's do not agree."""
    apart = context.catalog.clock_difference()
    if abs(apart) > MOST_APART:
        raise ConfigError(
            f"this machine's clock is {apart.total_seconds():+.0f} s from that of the catalog's server",
            next_step="set both by NTP: timedatectl set-ntp true",
        )


class FleetQueue:
    """The scheduler's hand: gives runs to workers by messages."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    def pending(self) -> set[str]:
        return self._messages.pending()

    def hand_out(self, settings: Settings, runs: Collection[Run]) -> None:
        if not runs:
            return
        mine, configuration = release(), digest(settings)
        self._messages.offer(
            Message(
                run.id,
                mine,
                configuration,
                queue_of(needs(settings, run.kind, run.name)),
                _priority(settings, run),
            )
            for run in runs
        )


def _priority(settings: Settings, run: Run) -> int:
    job = settings.jobs.get(run.name.partition("/")[0])
    return job.schedule.priority if job is not None and job.schedule is not None else 0


class FleetWorker:
    """One `backupctl worker`. `launch` executes one queued run in a child process and returns its exit code."""

    def __init__(
        self,
        context: Context,
        launch: Callable[[Run], int],
        *,
        name: str,
        tags: Collection[str] = (),
        parallel: int = 2,
        load: Callable[[], Settings] | None = None,
    ) -> None:
        self._context = context
        self._fleet = fleet_of(context.settings)
        self._launch = launch
        self._load = load
        self._name = name
        self._tags = sorted(set(tags))
        self._parallel = parallel
        self._digest = digest(context.settings)
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._places = ThreadPoolExecutor(max_workers=parallel, thread_name_prefix="run")
        self.refused = ""
        """Why it does not work with this scheduler; "" when it does."""

    def serve(self) -> None:
        """Work until `drain`, or until somebody says so in the catalog. Raises ConfigError when a scheduler had another
        release or configuration."""
        settings, catalog = self._context.settings, self._context.catalog
        messages = Messages(settings.catalog, self._fleet)
        messages.prepare()
        messages.close()
        catalog.remove_workers(one.name for one in catalog.workers() if is_certainly_dead(one.identity))
        self._register()
        beating = threading.Thread(target=self._beat, name="worker heartbeat", daemon=True)
        beating.start()
        queues = queues_for(settings, self._tags)
        log.info("serving the queues %s", ", ".join(queues) or "(none)")
        try:
            if queues:  # with none, Procrastinate would serve all
                receive(
                    settings.catalog,
                    self._fleet,
                    queues=queues,
                    parallel=self._parallel,
                    take=self._take,
                    stop=self._stop,
                )
            self._stop.wait()
        finally:
            self._stop.set()
            self._places.shutdown(wait=True)  # draining may take hours, and it lives meanwhile
            self._ended.set()
            beating.join()
            catalog.remove_workers([self._name])
        if self.refused:
            raise ConfigError(
                self.refused, next_step="bring this machine to what the scheduler has, then start it again"
            )

    def drain(self) -> None:
        """Take nothing new. Safe in a signal handler."""
        self._stop.set()

    async def _take(self, run: str, released: str, configuration: str) -> None:
        await asyncio.get_running_loop().run_in_executor(self._places, self.take, run, released, configuration)

    def take(self, run_id: str, released: str, configuration: str) -> int | None:
        """Execute the run that a message names; its exit code. None when it is not to be executed here, or any more."""
        reason = self._skew(released, configuration)
        if reason:
            self.refused = reason
            log.error("refused: %s", reason)
            self._stop.set()
        if self._stop.is_set():  # the scheduler finds it without a message, and gives it to another
            return None
        run = self._context.catalog.run(run_id)
        if run is None or run.state != "queued":
            return None
        return self._launch(run)

    def _skew(self, released: str, configuration: str) -> str:
        if released != release():
            return f"the scheduler is backupctl {released}, this worker is {release()}"
        if configuration == self._digest:
            return ""
        if self._load is not None:
            try:
                settings = self._load()  # the files may have changed since, here as there
            except UserError as error:
                return f"the scheduler has another configuration, and the one here is broken: {error.message}"
            if configuration == digest(settings) and queues_for(settings, self._tags) == queues_for(
                self._context.settings, self._tags
            ):
                self._context.settings, self._digest = settings, configuration
                return ""
        return "the scheduler has another configuration than this worker"

    def _register(self) -> None:
        now = self._context.clock.now()
        self._context.catalog.add_worker(
            Worker(
                name=self._name,
                identity=worker_identity(),
                release=release(),
                configuration=self._digest,
                tags=self._tags,
                parallel=self._parallel,
                started=now,
                seen=now,
                reason="",
            )
        )

    def _beat(self) -> None:
        while not self._ended.wait(self._fleet.heartbeat.total_seconds()):
            try:
                row = self._context.catalog.worker_lives(self._name)
                if row is None:
                    self._register()
                elif row.draining is not None and not self._stop.is_set():
                    log.warning("draining: %s", row.reason)
                    self._stop.set()
            except UserError as error:  # the server is away for a while
                log.warning("heartbeat of worker %s failed: %s", self._name, error.message)
