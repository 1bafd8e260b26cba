"""Tell what a sweep found: into the log once, and over the job's channels once for each instant, whoever sweeps. Then do what
is due about notices that did not arrive, were held back, or wait to be acknowledged."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterable

from backupctl.catalog.models import Notice
from backupctl.notify.notices import NoticeEvent
from backupctl.operations.context import Context
from backupctl.operations.notices import tell, told_name, work
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
            self._warn(work(self._context))

    def _notify(self, lapse: Lapse) -> None:
        context = self._context
        token = str(uuid.uuid5(_SPACE, f"{lapse.what} {lapse.kind} {lapse.name} {lapse.scheduled.isoformat()}"))
        if context.catalog.notices(run=token, limit=1):
            return
        event = NoticeEvent(
            kind=lapse.kind,
            name=told_name(context, lapse.job, lapse.name),
            outcome=lapse.what,
            verdict="",
            run=token,
            scheduled=lapse.scheduled,
            at=context.clock.now(),
            success=False,
        )
        self._warn(tell(context, lapse.job, event))

    def _warn(self, notices: Iterable[Notice]) -> None:
        for notice in notices:
            if notice.state == "failed":
                log.error("notice over %s (%s) will not be delivered: %s", notice.channel, notice.kind, notice.error)
            elif notice.error:
                log.warning("notice over %s (%s) was not delivered: %s", notice.channel, notice.kind, notice.error)
