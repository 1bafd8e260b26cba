"""The events of MySQL's binary log that MariaDB's has not: GTIDs, the sets of them at a file's beginning, compressed transactions.
Pure.

Formats: class `Gtid_event`, `Previous_gtids_event` and `Transaction_payload_event` of MySQL's documentation (libbinlogevents).
"""

from __future__ import annotations

import struct
from uuid import UUID

from backupctl.sources.gtids import SourceGtids

GTID, ANONYMOUS_GTID, PREVIOUS_GTIDS, TRANSACTION_PAYLOAD, TAGGED_GTID = 33, 34, 35, 40, 42
OPENING = (b"BEGIN", b"XA START ")
"""Statements after which a group goes on; any other is a whole one, as a definition is."""


def read_gtid(body: memoryview) -> tuple[str, int]:
    """UUID of the server, and its number; the number of an anonymous one is 0."""
    (number,) = struct.unpack_from("<q", body, 17)
    return str(UUID(bytes=bytes(body[1:17]))), number


def read_previous(body: memoryview) -> SourceGtids | None:
    """None for a set with tags (MySQL 8.3 and later), whose form is another."""
    (count,) = struct.unpack_from("<Q", body)
    if count >> 56:
        return None
    found, at = SourceGtids(), 8
    for _ in range(count):
        server = str(UUID(bytes=bytes(body[at : at + 16])))
        (spans,) = struct.unpack_from("<Q", body, at + 16)
        at += 24
        pairs = (struct.unpack_from("<qq", body, at + 16 * number) for number in range(spans))
        found[server] = tuple((first, behind - 1) for first, behind in pairs)
        at += 16 * spans
    return found
