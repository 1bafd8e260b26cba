"""Another copy of this program as a child, for one run. `process.py` spawns everything else."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType


class Child:
    """Runs `backupctl ARGUMENTS`; standard output and error are shared with us, standard input is empty.

    The child is left alone when we die: a run belongs to itself, and the catalog tells who looks after it."""

    def __init__(self, arguments: Sequence[str]) -> None:
        # -P: a directory called backupctl in the current directory must not be taken for the program
        command = [sys.executable, "-P", "-m", "backupctl", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    @property
    def pid(self) -> int:
        return self._process.pid

    def terminate(self) -> None:
        """Ask it to stop; it releases its locks and closes its run."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit code; 128 + n when signal n ended it."""
        code = self._process.wait()
        return 128 - code if code < 0 else code


class PassSignals:
    """While active, SIGINT and SIGTERM are handed on to the child instead of ending us: it is the one with locks.
    A terminal's Ctrl-C reaches the child by itself as well; being told twice changes nothing for it."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.received: int | None = None

    def __enter__(self) -> PassSignals:
        self._before = {one: signal.signal(one, self._handle) for one in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._child.terminate()
