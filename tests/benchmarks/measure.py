"""Running one command and measuring it: wall time, processor time of all its processes, peak memory of all at once."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_SECONDS = 0.02
_SAMPLE_SHARE = 0.05  # of the time at most: a look at a large process takes milliseconds of a processor


@dataclass(frozen=True)
class Measurement:
    """`peak_bytes`: the largest sum of the proportional set sizes of the command's processes; 0 when not sampled."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int = 0


class CommandError(RuntimeError):
    """A program of the comparison failed: its numbers would mean nothing."""


def run(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, memory: bool = False) -> Measurement:
    """Raises CommandError when it ends with anything but 0. Sampling memory costs processor time: do it in a run of its
    own."""
    started = time.perf_counter()
    process = subprocess.Popen(
        argv,
        env={**os.environ, **env},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    sampler = _Sampler(process.pid) if memory else None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if sampler is not None:
        sampler.stop()
    if process.returncode != 0:
        raise CommandError(
            f"{' '.join(argv)} ended with {process.returncode}: {errors[-2000:].decode(errors='replace')}"
        )
    return Measurement(wall, usage.ru_utime + usage.ru_stime, sampler.peak_bytes if sampler else 0)


class _Sampler:
    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.peak_bytes = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        pause = _SAMPLE_SECONDS
        while not self._stopped.wait(pause):
            started = time.thread_time()
            self.peak_bytes = max(self.peak_bytes, sum(map(_proportional_bytes, _family(self._pid))))
            pause = max(_SAMPLE_SECONDS, (time.thread_time() - started) / _SAMPLE_SHARE)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


def _family(pid: int) -> list[int]:
    """The process and everything below it."""
    found = [pid]
    with suppress(OSError):  # it ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    return found


def _proportional_bytes(pid: int) -> int:
    with suppress(OSError):  # it ended
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def warm(directory: Path, size: int) -> None:
    """Write so many bytes to a file and delete it. A virtual machine gets its memory from the host when it first touches it
    and gives it back soon after it was freed: 3 GB written took 5.4 s of system time, and 0.6 s when written again at once.
    Without this whoever has the first turn pays for the second, who finds the memory of the first one's deleted files."""
    path = directory / "warm"
    piece = memoryview(bytearray(1 << 20))
    with path.open("wb", buffering=0) as file:
        for start in range(0, size, len(piece)):
            file.write(piece[: size - start])
    path.unlink()


def stored_bytes(directory: Path) -> int:
    """The bytes of all files below `directory`."""
    return sum(Path(where, name).stat().st_size for where, _, names in os.walk(directory) for name in names)
