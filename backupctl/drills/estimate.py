"""What a recovery in production might take: no measurement, and never set against an objective."""

from __future__ import annotations

from backupctl.drills.model import Estimate, Instants


def estimate(instants: Instants, measured_bytes: int, whole_bytes: int, scale: float) -> Estimate | None:
    """From a drill that restored `measured_bytes` to a recovery of `whole_bytes`, on a machine `1 / scale` times as fast as the
    staging host: the time to decide and prepare as it was, restoring and checking by size. None for a
    drill that did not come to the end, or restored nothing."""
    t2, t3, t5 = instants.t2, instants.t3, instants.t5
    if t2 is None or t3 is None or t5 is None or measured_bytes <= 0 or whole_bytes <= 0:
        return None
    seconds = t2 + (t5 - t2) * (whole_bytes / measured_bytes) * scale
    return Estimate(round(seconds, 3), whole_bytes, measured_bytes, scale)
