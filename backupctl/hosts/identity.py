"""One process of this machine, told from every other that ever had its pid: by boot, pid namespace and start time (proc(5)).

What these facts cannot decide is never called dead: somebody else's lock or run hangs on it.
"""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")


def boot_id() -> str:
    """Of this boot of this machine; "" where the system does not tell. Containers share it with their host."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def pid_namespace() -> str:
    """Ours, in which our pids mean something; "" where the system does not tell."""
    try:
        return str((PROC / "self/ns/pid").readlink())
    except OSError:
        return ""


def start_time(pid: int) -> int:
    """Clock ticks since boot when process `pid` started; 0 when there is none that we can see, or only its zombie."""
    try:
        # the program's name, in parentheses, may hold anything: count fields from the last one
        fields = (PROC / f"{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


def has_ended(pid: int, started: int) -> bool:
    """True only when the process that got `pid` at `started`, in this boot and namespace, certainly runs no more."""
    now = start_time(pid)
    if now:
        return now != started
    if (PROC / f"{pid}/stat").exists():  # a zombie
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # it is there, and /proc is mounted with hidepid
        return False
    return False


def is_at_work(pid: int, started: int) -> bool:
    """True only when the process that got `pid` at `started`, in this boot and namespace, is there and is not stopped."""
    try:
        state = (PROC / f"{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZXTt" and start_time(pid) == started
