"""Looking at, and killing, what a command under test has started."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.servers.sshd import descendants

Found = TypeVar("Found")


def wait_until(look: Callable[[], Found], what: str, seconds: float = 60) -> Found:
    """What `look` returns as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.002)
    return found


def words_of(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    return []


def kill_below(parent: int, program: str, option: str) -> None:
    """Kill -9 the first process below `parent` that is `program` and has an argument beginning with `option`."""

    def look() -> list[int]:
        found = [(pid, words_of(pid)) for pid in descendants(parent)]
        return [
            pid
            for pid, words in found
            if words and words[0].endswith(program) and any(one.startswith(option) for one in words)
        ]

    os.kill(wait_until(look, f"{program} to run")[0], signal.SIGKILL)


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has)."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def opened(pid: int, path: Path) -> bool:
    """Whether the process has the file open."""
    try:
        return any(one.readlink() == path for one in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False  # it has ended, or closed one meanwhile
