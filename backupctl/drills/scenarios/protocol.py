"""What a scenario is: a disaster with a name, what is done about it, and what must be true at the end.

Each module beside this one holds one, called `SCENARIO`. A new one is such a module and its name in `config/drilling.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backupctl.drills.model import DrillRequest
from backupctl.drills.scenario import Rehearsal, planned_bytes
from backupctl.repository.reader import SnapshotReader

Record = Mapping[str, Any]
"""The snapshot's fingerprint record."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`steps`, `criteria` and `needs` are for people, in order.

    `run` works on the sandbox of a rehearsal and leaves what it saw in the rehearsal's outcomes: each criterion is a check
    there, and one that is not met makes the drill fail. It raises CouldNotRunError for what it needs and lacks, which is
    inconclusive. `room` is how many bytes it will take on the staging host. `reads_there`: the staging host itself reads the
    repository, so it must reach its store."""

    name: str
    proves: str
    steps: tuple[str, ...]
    criteria: tuple[str, ...]
    run: Callable[[Rehearsal, SnapshotReader, Record], None]
    needs: tuple[str, ...] = ()
    room: Callable[[DrillRequest, Record], int] = planned_bytes
    reads_there: bool = False
