"""Keeping the process small while blobs of many sizes come and go in several threads."""

from __future__ import annotations

import ctypes
from functools import cache

_M_MMAP_THRESHOLD = -3  # malloc.h
_THRESHOLD_BYTES = 256 << 10


@cache
def return_freed_memory() -> None:
    """Have glibc give back blocks above 256 KiB as soon as they are freed. By default the limit grows to 32 MiB and freed
    blobs and packs stay in each thread's arena: saving 1 GiB peaks at 238 MB that way, at 149 MB this way, in equal
    time. Other C libraries are left alone."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
