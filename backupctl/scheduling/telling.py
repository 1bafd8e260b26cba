"""Tell what a sweep found: into the log once, and over the job's channels once for each instant, whoever sweeps."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterable

from backupctl.notify.notices import NoticeEvent, notify
from backupctl.operations.context import Context
from backupctl.scheduling.sweep import Lapse

log = logging.getLogger(__name__)

_SPACE = uuid.UUID("6f2d3a52-6e0e-4a0c-9a55-0d1f6a3c9b7e")


class Teller:
    """One per process. What was told is in the catalog, so that another process, or this one after a restart, does not tell
    it again; only the log may repeat it then."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._logged: set[Lapse] = set()
        self._lock = threading.Lock()

    def __call__(self, lapses: Iterable[Lapse]) -> None:
        """`never` is left to `status`: who looks for the first time finds everything never run. `broken` was told by the
        run that ended so."""
        with self._lock:
            now = {lapse for lapse in lapses if lapse.what != "never"}
            for lapse in now - self._logged:
                log.warning("%s %s: %s: %s", lapse.kind, lapse.name, lapse.what, lapse.message)
            self._logged = now
            for lapse in now:
                if lapse.grave:
                    self._notify(lapse)

    def _notify(self, lapse: Lapse) -> None:
        context = self._context
        job = context.settings.jobs.get(lapse.job)
        names = job.notify if job is not None else list(context.settings.notify)
        token = str(uuid.uuid5(_SPACE, f"{lapse.what} {lapse.kind} {lapse.name} {lapse.scheduled.isoformat()}"))
        if not names or context.catalog.notices(run=token, limit=1):
            return
        event = NoticeEvent(
            kind=lapse.kind,
            name=lapse.name,
            outcome=lapse.what,
            verdict="",
            run=token,
            scheduled=lapse.scheduled,
            at=context.clock.now(),
            success=False,
        )
        channels = {name: context.settings.notify[name] for name in names}
        secrets = context.resources.secret
        for notice in notify(channels, event, catalog=context.catalog, secrets=secrets, clock=context.clock):
            if notice.error:
                log.warning("notice over %s (%s) was not delivered: %s", notice.channel, notice.kind, notice.error)
