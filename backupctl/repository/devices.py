"""Numbers that stand for file systems in nodes, where st_dev would be another one after the next boot."""

from __future__ import annotations

import os
from hashlib import sha256

from backupctl.repository.walk_messages import Piece


def device_number(piece: Piece, status: os.stat_result, source: str) -> int:
    """The number for a file's st_dev. An overlay may show another one for a file than for its directory."""
    if status.st_dev == piece.device:
        return piece.device_id
    return mount_number(b"%d/%d" % (status.st_dev, piece.device_id), source)


def mount_number(what: bytes, source: str) -> int:
    """For a file system that is mounted below, from its path; for one that a source begins on, from its ordinal. Survives a
    reboot, and never equals one of another source (another host)."""
    return int.from_bytes(sha256(what + b"/" + source.encode()).digest()[:6], "big")
