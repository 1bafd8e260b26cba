"""`backupctl serve`: APScheduler as a clock in memory, and nothing else of it.

Every tick asks the same question as `run --due`: what is due, according to the configuration and the catalog? So a tick that
came late, twice or never changes nothing: the next one finds the same answer. Runs are child processes; a crash, a leak or a
kill touches one run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime

from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Run
from backupctl.clock import Clock
from backupctl.config.models import Settings
from backupctl.errors import InterruptedRunError
from backupctl.scheduling.calendar import Timetable, next_start
from backupctl.scheduling.dispatch import fire, settle
from backupctl.scheduling.timetables import timetables

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60
"""How often the service looks even when no instant is due: finds runs whose worker died and clocks that were moved."""

Launch = Callable[[Run], int]
"""Execute one queued run in a child process and return its exit code."""


class CronTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler 3 ships no types
    """cronsim instead of APScheduler's own cron, which counts weekdays from Monday and repeats runs in autumn."""

    def __init__(self, timetable: Timetable) -> None:
        self.timetable = timetable

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        # APScheduler asks again and again until the answer lies in its future: it must move on with what it was told last
        after = max(now, previous_fire_time) if previous_fire_time is not None else now
        return next_start(self.timetable, last=None, now=after).starts


class Service:
    """Starts what is due, at most `parallel` runs at a time, each run once. Thread-safe."""

    def __init__(
        self, settings: Settings, catalog: Catalog, clock: Clock, launch: Launch, *, parallel: int = 2
    ) -> None:
        self.settings = settings
        self.catalog = catalog
        self.clock = clock
        self._launch = launch
        self._pool = ThreadPoolExecutor(max_workers=parallel, thread_name_prefix="run")
        self._handed_out: dict[str, Future[int]] = {}
        self._lock = threading.Lock()

    def tick(self) -> list[Future[int]]:
        """Settle dead runs, then start everything that is due. Returns the futures of what this tick started."""
        with self._lock:
            settle(self.catalog, self.clock)
            started = []
            for run in fire(self.catalog, self.clock, timetables(self.settings)):
                if run.id not in self._handed_out:
                    log.info("starting %s %s scheduled for %s", run.kind, run.name, run.scheduled)
                    self._handed_out[run.id] = self._pool.submit(self._launch, run)
                    started.append(self._handed_out[run.id])
            self._handed_out = {key: future for key, future in self._handed_out.items() if not future.done()}
            return started

    def run_due(self) -> list[int]:
        """One look, one run after the other in this thread, and their exit codes: `backupctl run --due`. What a run
        makes due (a drill after a long backup) is looked for again until nothing is left."""
        codes: list[int] = []
        tried: set[str] = set()
        while True:
            settle(self.catalog, self.clock)
            waiting = [run for run in fire(self.catalog, self.clock, timetables(self.settings)) if run.id not in tried]
            if not waiting:
                return codes
            for run in waiting:
                tried.add(run.id)
                code = self._launch(run)
                codes.append(code)
                if code == InterruptedRunError.exit_code:
                    return codes

    def serve(self, stop: threading.Event) -> None:
        """Tick at every due instant and every minute until `stop` is set; then wait for the runs that still go on."""
        scheduler = BackgroundScheduler(
            jobstores={"default": MemoryJobStore()},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        for timetable in timetables(self.settings):
            name = f"{timetable.kind} {timetable.name}"
            scheduler.add_job(self._safe_tick, CronTrigger(timetable), id=name, name=name)
        scheduler.add_job(self._safe_tick, "interval", seconds=SWEEP_SECONDS, id="sweep", name="sweep")
        scheduler.start()
        try:
            self._safe_tick()
            stop.wait()
        finally:
            scheduler.shutdown(wait=False)
            self.close()

    def close(self) -> None:
        """Wait for the runs that were handed out."""
        self._pool.shutdown(wait=True)

    def _safe_tick(self) -> None:
        """A tick that fails (the catalog's server is away) is logged and tried again at the next one."""
        try:
            self.tick()
        except Exception:
            log.exception("could not look for due runs; trying again within %d s", SWEEP_SECONDS)
