"""Which process claimed a run, in words that stay true after the pid is used again: host, boot, pid and its start time."""

from __future__ import annotations

import os
import socket

from backupctl.hosts import identity


def worker_identity() -> str:
    """`host boot/namespace pid start`, see `hosts.identity`."""
    return f"{socket.gethostname()} {_boot()} {os.getpid()} {identity.start_time(os.getpid())}"


def is_certainly_dead(worker: str) -> bool:
    """True only when `worker` was a process of this machine that no longer runs. Another machine's, or another
    container's, is never certain."""
    parts = worker.split(" ")
    if len(parts) != 4 or parts[0] != socket.gethostname() or not identity.boot_id():
        return False
    _, boot, pid, start = parts
    if boot.partition("/")[0] != identity.boot_id():
        return True
    return boot == _boot() and identity.has_ended(int(pid), int(start))


def is_certainly_alive(worker: str) -> bool:
    """True only when `worker` is a process of this machine that is there and not stopped."""
    parts = worker.split(" ")
    if len(parts) != 4 or parts[0] != socket.gethostname() or not identity.boot_id() or parts[1] != _boot():
        return False
    return identity.is_at_work(int(parts[2]), int(parts[3]))


def pid_here(worker: str) -> int | None:
    """Its process id, when it certainly runs on this machine."""
    return int(worker.split(" ")[2]) if is_certainly_alive(worker) else None


def _boot() -> str:
    return f"{identity.boot_id()}/{identity.pid_namespace()}"
