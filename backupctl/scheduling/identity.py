"""Which process claimed a run, in words that stay true after the pid is used again: host, boot, pid and its start time."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def worker_identity() -> str:
    """`host boot pid start`, where start is the process's own start time in clock ticks since boot (proc(5))."""
    return f"{socket.gethostname()} {_boot_id()} {os.getpid()} {_start_time(os.getpid())}"


def is_certainly_dead(worker: str) -> bool:
    """True only when `worker` was a process of this machine that no longer runs. Another machine's is never certain."""
    parts = worker.split(" ")
    if len(parts) != 4 or parts[0] != socket.gethostname() or not _boot_id():
        return False
    _, boot, pid, start = parts
    if boot != _boot_id():
        return True
    return _start_time(int(pid)) != start


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_time(pid: int) -> str:
    try:
        # the command name, in parentheses, may hold spaces: count fields from the last one
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
