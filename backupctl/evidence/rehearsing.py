"""What a quarter's drills show about themselves: negative controls, draws, steps from declaration to service, the trend."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from backupctl.catalog.models import Drill
from backupctl.catalog.selection import COMMITTED, DRAWN
from backupctl.clock import iso, parse_iso
from backupctl.evidence.bounds import rate
from backupctl.evidence.draws import read_draws
from backupctl.evidence.quarter import Quarter
from backupctl.evidence.records import Records, one_line

if TYPE_CHECKING:
    from backupctl.catalog.catalog import Catalog
    from backupctl.config.models import Settings

QUARTERS = 8
STEPS = ("t1", "t2", "t3", "t4", "t5")


def is_control(row: Drill) -> bool:
    return bool((row.facts or {}).get("control"))


def control_names(settings: Settings) -> set[str]:
    return {f"{job.job}/{name}" for job in settings.jobs.values() for name, one in job.drills.items() if one.control}


def controls(records: Records) -> list[dict[str, Any]]:
    """Every negative control of the quarter, those that were not seen first."""
    found = []
    for row in records.quarter_drills:
        if not is_control(row):
            continue
        control = row.facts["control"]
        found.append(
            {
                "id": row.id,
                "drill": row.drill,
                "declared": iso(row.declared),
                "verdict": row.verdict,
                "damage": str(control.get("damage", "")),
                "object": str(control.get("object", "")),
                "said": str(control.get("said", "")),
                "reasons": one_line(control.get("reasons", [])),
            }
        )
    return sorted(found, key=lambda one: (one["verdict"] == "pass", one["declared"]))


def selection(catalog: Catalog, records: Records) -> list[dict[str, Any]]:
    """Every draw of the quarter, computed again. Earlier ones are read too: whose turn it was follows from them."""
    verdicts = {row.id: row.verdict for row in records.drills}
    every = read_draws(catalog.events_of([COMMITTED, DRAWN]), verdicts)
    return [one for one in every if parse_iso(one["time"]) in records.quarter]


def measures(row: Drill) -> dict[str, Any]:
    """When each step was reached, in seconds since the declaration; what an earlier version recorded has none of it."""
    found = (row.facts or {}).get("measures") or {}
    instants = found.get("instants") or {}
    return {
        "instants": {name: _seconds(instants.get(name)) for name in STEPS},
        "key_seconds": _seconds(found.get("key_seconds")),
        "heartbeat": found.get("heartbeat"),
        "estimate": found.get("estimate"),
    }


def trend(records: Records) -> list[dict[str, Any]]:
    """The last quarters up to this one, oldest first; of quarters before the first drill nothing is said."""
    rows = []
    quarter = records.quarter
    for _ in range(QUARTERS):
        mine = [row for row in records.drills if row.declared in quarter and not is_control(row)]
        ratios = [
            row.rto_seconds / row.rto_objective
            for row in mine
            if row.verdict in ("pass", "stale") and row.rto_seconds is not None and row.rto_objective
        ]
        rows.append(
            {
                "quarter": quarter.name,
                "run": len(mine),
                "pass_rate": rate(sum(row.verdict == "pass" for row in mine), len(mine)),
                "rto_ratio_median": round(median(ratios), 4) if ratios else None,
                "rto_ratio_worst": round(max(ratios), 4) if ratios else None,
            }
        )
        quarter = _before(quarter)
    rows.reverse()
    first = next((number for number, row in enumerate(rows) if row["run"]), len(rows))
    return rows[first:]


def _before(quarter: Quarter) -> Quarter:
    year, number = (quarter.year - 1, 4) if quarter.number == 1 else (quarter.year, quarter.number - 1)
    return Quarter(year, number, quarter.zone)


def _seconds(value: Any) -> float | None:
    return round(float(value), 3) if isinstance(value, int | float) else None
