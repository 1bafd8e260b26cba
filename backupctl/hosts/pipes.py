"""Pipes between processes."""

from __future__ import annotations

import fcntl
from contextlib import suppress
from typing import IO

PIPE_BYTES = 1 << 20  # Linux's limit for everybody; a pipe has 64 KiB otherwise

BUFFER_BYTES = 128 << 10  # of either side: what is larger goes past it, and each one is memory for good


def widen(pipe: IO[bytes]) -> None:
    """A larger pipe, where the kernel lets us (`/proc/sys/fs/pipe-user-pages-soft`): who writes into it works on while who reads is
    busy."""
    with suppress(OSError):
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
