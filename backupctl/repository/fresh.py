"""When equal times prove nothing: a change within the same tick of the file system's clock as the last one leaves all times
equal (git: "racy" entries)."""

from __future__ import annotations

_COARSE_TICK_NS = 2_000_000_000  # FAT; and whoever keeps whole seconds
_TICK_NS = 20_000_000  # Linux: one jiffy, at most 10 ms


def is_fresh(changed_ns: int, now_ns: int) -> bool:
    """Whether a file that changed then and was read now could change again without showing it."""
    tick_ns = _TICK_NS if changed_ns % 1_000_000_000 else _COARSE_TICK_NS
    return abs(now_ns - changed_ns) < tick_ns
