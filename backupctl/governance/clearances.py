"""What people said of suspicious snapshots: sealed records of kind `clearance` in the job's repository.

`{"schema": 1, "run", "snapshot", "job", "decision": "cleared" | "acknowledged", "reason", "by", "created"}`. By run, so that it
holds for every copy of the snapshot. `cleared`: it was no attack, nothing is protected any longer because of it.
`acknowledged`: somebody deals with it; it stays suspicious and older snapshots stay. Of several, the newest counts.
A record that cannot be read clears nothing.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from backupctl.clock import iso, parse_iso
from backupctl.errors import DamageError, NoSuchError
from backupctl.repository.repository import Repository

log = logging.getLogger(__name__)

KIND = "clearance"
SCHEMA = 1
CLEARED, ACKNOWLEDGED = "cleared", "acknowledged"


@dataclass(frozen=True, slots=True)
class Clearance:
    run: str
    snapshot: str
    job: str
    decision: str
    reason: str
    by: str
    created: datetime


def save(repository: Repository, clearance: Clearance) -> str:
    facts = {"schema": SCHEMA, **asdict(clearance), "created": iso(clearance.created)}
    return repository.save_record(KIND, json.dumps(facts, sort_keys=True, ensure_ascii=False).encode())


def clearances(repository: Repository) -> dict[str, Clearance]:
    """The newest of each run, by run."""
    found: list[Clearance] = []
    for record_id in repository.records(KIND):
        try:
            found.append(_parse(repository.load_record(KIND, record_id)))
        except (NoSuchError, DamageError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("backupctl/%s/%s clears nothing: %s", KIND, record_id, str(error)[:200])
    return {one.run: one for one in sorted(found, key=lambda one: one.created)}


def _parse(data: bytes) -> Clearance:
    facts: dict[str, Any] = json.loads(data)
    if facts["schema"] != SCHEMA or facts["decision"] not in (CLEARED, ACKNOWLEDGED):
        raise ValueError("a clearance of a kind that this version does not know")
    words = {key: str(facts[key]) for key in ("run", "snapshot", "job", "decision", "reason", "by")}
    return Clearance(**words, created=parse_iso(facts["created"]))
