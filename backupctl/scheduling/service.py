"""`backupctl serve`: APScheduler as a clock in memory, and nothing else of it.

Every tick asks the same question as `run --due`: what is due, according to the configuration and the catalog? So a tick that
came late, twice or never changes nothing: the next one finds the same answer. Runs are child processes; a crash, a leak or a
kill touches one run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Protocol

from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.database import DISPATCH_LOCK
from backupctl.catalog.models import Run
from backupctl.clock import Clock
from backupctl.config.models import Settings
from backupctl.errors import InterruptedRunError
from backupctl.scheduling.calendar import Timetable, next_start
from backupctl.scheduling.dispatch import look, ready
from backupctl.scheduling.sweep import Lapse, sweep
from backupctl.scheduling.timetables import timetables

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60
"""How often the service looks even when no instant is due: finds runs whose worker died and clocks that were moved. These
seconds pass however the clock on the wall is moved."""

Launch = Callable[[Run], int]
"""Execute one queued run in a child process and return its exit code."""

Tell = Callable[[Iterable[Lapse]], None]
"""Say what a sweep found, once each."""


class CronTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler 3 ships no types
    """cronsim instead of APScheduler's own cron, which counts weekdays from Monday and repeats runs in autumn."""

    def __init__(self, timetable: Timetable) -> None:
        self.timetable = timetable

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        # APScheduler asks again and again until the answer lies in its future: it must move on with what it was told last
        after = max(now, previous_fire_time) if previous_fire_time is not None else now
        return next_start(self.timetable, last=None, now=after).starts


class Queue(Protocol):
    """Hands runs to workers elsewhere."""

    def pending(self) -> set[str]:
        """The ids of the runs that were handed out and have not been claimed, or go on."""

    def hand_out(self, settings: Settings, runs: Collection[Run]) -> None: ...


class Service:
    """Starts what is due, at most `parallel` runs at a time, each run once; with a `queue` it starts nothing itself, and
    hands everything that has a place to it. Thread-safe."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        clock: Clock,
        launch: Launch,
        *,
        parallel: int = 2,
        tell: Tell | None = None,
        queue: Queue | None = None,
    ) -> None:
        self.settings = settings
        self.catalog = catalog
        self.clock = clock
        self._launch = launch
        self._parallel = parallel
        self._tell = tell
        self._queue = queue
        self._pool = ThreadPoolExecutor(max_workers=parallel, thread_name_prefix="run")
        self._handed_out: dict[str, tuple[Run, Future[int]]] = {}
        self._lock = threading.Lock()
        self._scheduler: BackgroundScheduler | None = None

    def tick(self) -> list[Future[int]]:
        """Settle dead runs, then start everything that is due and has a place. Returns the futures of what this tick
        started."""
        self._sweep()
        if self._queue is not None:
            self._hand_out(self._queue)
            return []
        with self._lock:
            self._handed_out = {key: one for key, one in self._handed_out.items() if not one[1].done()}
            started = []
            chosen = self._look()
            for run in chosen[: self._parallel - len(self._handed_out)]:
                log.info("starting %s %s scheduled for %s", run.kind, run.name, run.scheduled, extra={"run": run.id})
                future = self._pool.submit(self._launch, run)
                self._handed_out[run.id] = (run, future)
                started.append(future)
        for future in started:
            future.add_done_callback(self._look_again)
        return started

    def _hand_out(self, queue: Queue) -> None:
        """One scheduler at a time: what another is at is left to it."""
        with self._lock, self.catalog.alone(DISPATCH_LOCK) as mine:
            if not mine:
                log.info("another scheduler looks just now")
                return
            waiting = look(self.catalog, self.clock, self.settings)
            pending = queue.pending()
            now = self.clock.now()
            going = self.catalog.runs(states=("running",)) + [run for run in waiting if run.id in pending]
            free = [run for run in waiting if run.id not in pending]
            chosen = ready(self.settings, self.catalog.pauses(at=now), going, free, now)
            for run in chosen:
                log.info("handing out %s %s scheduled for %s", run.kind, run.name, run.scheduled)
            queue.hand_out(self.settings, chosen)

    def _sweep(self) -> None:
        """What was missed is told before it is caught up."""
        if self._tell is not None:
            self._tell(sweep(self.settings, self.catalog, self.clock.now()))

    def _look(self) -> list[Run]:
        """What may begin now, in its order."""
        waiting = [run for run in look(self.catalog, self.clock, self.settings) if run.id not in self._handed_out]
        running = {run.id: run for run in self.catalog.runs(states=("running",))}
        running |= {key: run for key, (run, _) in self._handed_out.items()}
        now = self.clock.now()
        return ready(self.settings, self.catalog.pauses(at=now), list(running.values()), waiting, now)

    def run_due(self) -> list[int]:
        """One look, one run after the other in this thread, and their exit codes: `backupctl run --due`. What a run
        makes due (the steps after a backup) is looked for again until nothing is left that may begin."""
        codes: list[int] = []
        tried: set[str] = set()
        self._sweep()
        while True:
            run = next((one for one in self._look() if one.id not in tried), None)
            if run is None:
                return codes
            tried.add(run.id)
            codes.append(self._launch(run))
            if codes[-1] == InterruptedRunError.exit_code:
                return codes

    def serve(self, stop: threading.Event) -> None:
        """Tick at every due instant, when a run has ended, and every minute, until `stop` is set; then wait for the runs
        that still go on."""
        scheduler = BackgroundScheduler(
            jobstores={"default": MemoryJobStore()},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._scheduler = scheduler
        self._set_clock()
        scheduler.start()
        try:
            self._safe_tick()
            while not stop.wait(self._seconds_between_looks()):
                self._safe_tick()
        finally:
            with self._lock:
                self._scheduler = None
            scheduler.shutdown(wait=False)
            self.close()

    def _seconds_between_looks(self) -> float:
        """In a fleet nobody tells us that a run has ended, and a place is free."""
        fleet = self.settings.fleet
        return SWEEP_SECONDS if fleet is None else min(SWEEP_SECONDS, fleet.heartbeat.total_seconds())

    def reconfigure(self, settings: Settings) -> None:
        """From now on `settings` are in force. What runs goes on as it was started; what is queued and no longer configured
        is skipped at the next look."""
        with self._lock:
            self.settings = settings
            self._set_clock()
        self._safe_tick()

    def _set_clock(self) -> None:
        if self._scheduler is not None:
            self._scheduler.remove_all_jobs()
            for timetable in timetables(self.settings):
                name = f"{timetable.kind} {timetable.name}"
                self._scheduler.add_job(self._safe_tick, CronTrigger(timetable), id=name, name=name)

    def _look_again(self, ended: Future[int]) -> None:
        """A run has ended: its place is free, and what follows it may be due."""
        with self._lock:
            if self._scheduler is not None:
                self._scheduler.add_job(self._safe_tick, id="a run ended", replace_existing=True, max_instances=99)

    def close(self) -> None:
        """Wait for the runs that were handed out."""
        self._pool.shutdown(wait=True)

    def _safe_tick(self) -> None:
        """A tick that fails (the catalog's server is away) is logged and tried again at the next one."""
        try:
            self.tick()
        except Exception:
            log.exception("could not look for due runs; trying again within %d s", SWEEP_SECONDS)
