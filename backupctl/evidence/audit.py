"""Verify the audit trail: every event sealed to the one before it, from the first to the newest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backupctl.catalog.events import GENESIS, verify_events

if TYPE_CHECKING:
    from backupctl.catalog.catalog import Catalog

_PAGE = 5000


@dataclass(frozen=True)
class AuditReport:
    """`faults` is one line per broken place, in order; `first_broken` is the number of the first broken event.

    A chain that was cut at its end is whole: only a `head` that was printed or stored elsewhere shows that it was longer.
    """

    events: int
    head: str
    faults: list[str]
    first_broken: int | None

    @property
    def intact(self) -> bool:
        return not self.faults


def verify(catalog: Catalog) -> AuditReport:
    """Read the whole trail, a page at a time, and compute every hash again."""
    number, count, head = 0, 0, GENESIS
    faults: list[str] = []
    while page := catalog.events(after=number, limit=_PAGE):
        faults += verify_events(page, previous=head, number=number)
        number, head, count = page[-1].number, page[-1].hash, count + len(page)
    return AuditReport(count, head, faults, _number(faults[0]) if faults else None)


def _number(fault: str) -> int | None:
    match = re.match(r"event (\d+)", fault)
    return int(match[1]) if match else None
