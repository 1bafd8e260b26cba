"""How long a test goes on: short by default, long with BACKUPCTL_SOAK=1."""

from __future__ import annotations

import os


def rounds(short: int, long: int) -> int:
    return long if os.environ.get("BACKUPCTL_SOAK") else short
