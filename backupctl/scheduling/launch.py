"""Child processes for runs: in the foreground for one person, or many at once for `serve`."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import LIVE_STATES, Run
from backupctl.config.handover import to_text
from backupctl.config.models import Settings
from backupctl.errors import InterruptedRunError
from backupctl.hosts import child as processes
from backupctl.hosts.child import Child, ForkedChild, FreshChild, PassSignals

log = logging.getLogger(__name__)


class Launcher:
    """Starts `backupctl worker --run ID` and waits for it. Thread-safe; `stop` asks every child to end. With `main`, the
    program's own entry, a foreground run is forked where that is safe. With `settings`, a run gets the configuration in
    force from us, and does not read the files again: they may be broken by then."""

    def __init__(
        self,
        config: Path,
        catalog: Catalog,
        *,
        arguments: tuple[str, ...] = (),
        main: Callable[[list[str]], object] | None = None,
        settings: Callable[[], Settings] | None = None,
    ) -> None:
        self._config = config
        self._catalog = catalog
        self._arguments = arguments
        self._main = main
        self._settings = settings
        self._children: set[Child] = set()
        self._lock = threading.Lock()
        self._stopping = False

    def __call__(self, run: Run) -> int:
        """Execute one queued run; its exit code. A child that died without closing its run (kill -9, out of memory) is
        closed here, so that the failure is seen now and not at the next sweep."""
        given = () if self._settings is None else ("--settings-from-stdin",)
        text = "" if self._settings is None else to_text(self._settings())
        with self._lock:
            if self._stopping:
                return InterruptedRunError.exit_code
            child = FreshChild([*self._command(run), *given], text=text)
            self._children.add(child)
        try:
            return settled(self._catalog, run.id, child.wait())
        finally:
            with self._lock:
                self._children.discard(child)

    def foreground(self, run: Run) -> int:
        """The same in the main thread: Ctrl-C and SIGTERM go to the child, and we wait for it."""
        if self._main is not None and processes.may_fork():
            self._catalog.close()  # no connection may be in two processes; it opens again by itself
            child: Child = ForkedChild(self._main, self._command(run))
        else:
            child = FreshChild(self._command(run))
        with PassSignals(child):
            return settled(self._catalog, run.id, child.wait())

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            for child in self._children:
                child.terminate()

    def _command(self, run: Run) -> list[str]:
        return ["--config", str(self._config), *self._arguments, "worker", "--run", run.id]


def settled(catalog: Catalog, run_id: str, code: int) -> int:
    """What `code`, with which the process of this run ended, means. A run that it left open is closed."""
    now = catalog.run(run_id)
    if now is not None and now.state in LIVE_STATES and code != 75:
        what = f"by signal {code - 128}" if code > 128 else f"with exit code {code}"
        # before it could see to that itself, or had heard that somebody cancels it
        stopped = code - 128 in (signal.SIGINT, signal.SIGTERM) or now.stopping is not None
        state = "cancelled" if stopped else "failed"
        message = f"the worker process ended {what} without finishing the run"
        if code == 128 + signal.SIGKILL and not stopped:
            message += "; the kernel does so when memory is used up, see `dmesg`"
        catalog.cancel(run_id, message=message, state=state)
        log.error("run %s of %s %s: its process ended %s", run_id, now.kind, now.name, what)
        return InterruptedRunError.exit_code if stopped else 1
    return code
