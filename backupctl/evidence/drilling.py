"""The drills of a quarter: judged again from their own checks, and set against each job's objectives."""

from __future__ import annotations

from datetime import timedelta
from statistics import median
from typing import TYPE_CHECKING, Any

from backupctl.catalog.models import LIVE_STATES, VERDICTS, Drill, Run
from backupctl.clock import iso
from backupctl.evidence.bounds import rate
from backupctl.evidence.records import Records, firings, one_line
from backupctl.evidence.rehearsing import STEPS, control_names, is_control, measures
from backupctl.sources.protocol import was_performed

if TYPE_CHECKING:
    from backupctl.config.models import Settings

ORDER = {"fail": 0, "inconclusive": 1, "stale": 2, "skipped": 3, "pass": 4}  # failures first
DECISIVE = ("pass", "fail")  # the others say nothing about the backup
RECOVERED = ("pass", "stale")  # only these came to a valid service: the times of others measure no recovery


def drill_log(records: Records, settings: Settings) -> list[dict[str, Any]]:
    """Every drill of the quarter, failed first; a drill that ended before it could record anything is in it too. Negative
    controls say nothing about a backup and stand elsewhere."""
    recorded, testers = {row.id for row in records.quarter_drills}, control_names(settings)
    entries = [_entry(records, row) for row in records.quarter_drills if not is_control(row)]
    entries += [
        _unrecorded(run)
        for run in records.drill_runs
        if run.id not in recorded and run.state not in LIVE_STATES and run.name not in testers
    ]
    return sorted(entries, key=lambda entry: (ORDER[entry["verdict"]], entry["declared"], entry["id"]))


def _entry(records: Records, row: Drill) -> dict[str, Any]:
    checks = records.drill_checks[row.id]
    verdict, reasons = row.verdict, one_line(row.reasons)
    if verdict == "pass" and not all(check.ok for check in checks):
        verdict, reasons = "fail", ["recorded as pass although a check failed", *reasons]
    elif verdict == "pass" and not checks:
        verdict, reasons = "fail", ["recorded as pass without a single check", *reasons]
    elif verdict not in VERDICTS:
        verdict, reasons = "inconclusive", [f"recorded with the unknown verdict {row.verdict!r}", *reasons]
    recovered = verdict in RECOVERED
    older = _tested_an_older_point(records, row)
    rpo = times(row.rpo_seconds if recovered else None, row.rpo_objective)
    return {
        "id": row.id,
        "job": row.job,
        "drill": row.drill,
        "scenario": row.scenario,
        "host": row.host,
        "repository": row.repository,
        "snapshot": row.snapshot,
        "snapshot_time": iso(row.snapshot_time) if row.snapshot_time else None,
        "snapshot_age_seconds": _seconds((row.declared - row.snapshot_time).total_seconds())
        if row.snapshot_time
        else None,
        "declared": iso(row.declared),
        "finished": iso(row.finished),
        "verdict": verdict,
        "level": row.level,
        "rto": times(row.rto_seconds if recovered else None, row.rto_objective),
        "rpo": {**rpo, "ratio": None} if older else rpo,
        "older_point": older,
        **measures(row),
        "draw": (row.facts or {}).get("draw"),
        "interlocks": one_line((row.facts or {}).get("interlocks")),
        "restored_bytes": row.restored_bytes,
        "phases": [
            {"name": str(phase["name"]), "seconds": _seconds(phase["seconds"])}
            for phase in row.phases or []
            if isinstance(phase.get("seconds"), int | float)
        ],
        "checks": [
            {
                "number": check.number,
                "name": check.name,
                "expected": check.expected,
                "actual": check.actual,
                "ok": check.ok,
                "level": check.level,
                "seconds": _seconds(check.seconds),
                "detail": check.detail,
                "performed": was_performed(check.actual),
                "evidence": check.evidence,
            }
            for check in sorted(checks, key=lambda check: check.number)
        ],
        "reasons": reasons,
        "cleanup": {
            "proved": bool((row.cleanup or {}).get("proved", False)),
            "facts": one_line((row.cleanup or {}).get("facts", [])),
        },
        "record": row.record,
    }


def _tested_an_older_point(records: Records, row: Drill) -> bool:
    """Whether a newer complete snapshot was there: then the age of the data says nothing about the objective."""
    return row.snapshot_time is not None and any(
        one.job == row.job and one.status == "complete" and row.snapshot_time < one.time < row.declared
        for one in records.snapshots
    )


def _unrecorded(run: Run) -> dict[str, Any]:
    """A drill that left a run and no result counts against the rate: it proved nothing."""
    skipped = run.state == "skipped"
    return {
        "id": run.id,
        "job": run.name.split("/")[0],
        "drill": run.name,
        "scenario": "",
        "host": "",
        "repository": run.repository,
        "snapshot": "",
        "snapshot_time": None,
        "snapshot_age_seconds": None,
        "declared": iso(run.started or run.scheduled),
        "finished": iso(run.finished) if run.finished else None,
        "verdict": "skipped" if skipped else "inconclusive",
        "level": 0,
        "rto": times(None, None),
        "rpo": times(None, None),
        "older_point": False,
        "instants": dict.fromkeys(STEPS),
        "key_seconds": None,
        "heartbeat": None,
        "estimate": None,
        "draw": None,
        "interlocks": [],
        "restored_bytes": 0,
        "phases": [],
        "checks": [],
        "reasons": [run.message or f"the run ended {run.state} and recorded no result"],
        "cleanup": {"proved": False, "facts": []},
        "record": "",
    }


def drill_counts(records: Records, settings: Settings, log: list[dict[str, Any]]) -> dict[str, Any]:
    planned = due = not_run = 0
    for name, job in settings.jobs.items():
        start = max(records.quarter.start, records.first_record(name) or records.quarter.start)
        for drill_name, drill in job.drills.items():
            if not drill.cron or drill.control:
                continue
            instants = list(firings(drill.cron, job.timezone, start, records.quarter.end))
            past = sum(instant < records.until for instant in instants)
            planned, due = planned + len(instants), due + past
            not_run += max(0, past - sum(entry["drill"] == f"{name}/{drill_name}" for entry in log))
    counts = {verdict: sum(entry["verdict"] == verdict for entry in log) for verdict in VERDICTS}
    return {
        "planned": planned,
        "due": due,
        "not_run": not_run,
        "run": len(log),
        "passed": counts["pass"],
        "failed": counts["fail"],
        "inconclusive": counts["inconclusive"],
        "stale": counts["stale"],
        "skipped": counts["skipped"],
        "checks": sum(len(entry["checks"]) for entry in log),
        "pass_rate": rate(counts["pass"], len(log)),
    }


def job_rows(records: Records, settings: Settings, log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per configured job, drilled or not: class, objectives, what was achieved, and the newest verdict."""
    rows = []
    for name, job in sorted(settings.jobs.items()):
        mine = [entry for entry in log if entry["job"] == name]
        newest = max(mine, key=lambda entry: entry["declared"], default=None)
        rto, rpo = job.objectives.rto.total_seconds(), job.objectives.rpo.total_seconds()
        rows.append(
            {
                "job": name,
                "class": job.rating,
                "owner": job.owner,
                "sources": [
                    {"name": key, "kind": source.kind, "host": source.host} for key, source in job.sources.items()
                ],
                "repository": job.repository,
                "rto": achieved([entry["rto"]["achieved"] for entry in mine], rto),
                "rpo": achieved([entry["rpo"]["achieved"] for entry in mine if not entry["older_point"]], rpo),
                "highest_level": max((e["level"] for e in mine if e["verdict"] == "pass"), default=None),
                "last_drill": newest["declared"] if newest else None,
                "verdict": newest["verdict"] if newest else None,
                "pass_rate": rate(sum(entry["verdict"] == "pass" for entry in mine), len(mine)),
            }
        )
    return rows


def undrilled(records: Records, settings: Settings, log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Jobs that no drill of the quarter decided, those never drilled at all first."""
    rows = []
    for name, job in settings.jobs.items():
        if any(entry["job"] == name and entry["verdict"] in DECISIVE for entry in log):
            continue
        ever = [
            row.declared
            for row in records.drills
            if row.job == name and row.verdict in DECISIVE and not is_control(row)
        ]
        first = min((row.time for row in records.snapshots if row.job == name), default=None)
        rows.append(
            {
                "job": name,
                "class": job.rating,
                "owner": job.owner,
                "ever": bool(ever),
                "last_drilled": iso(max(ever)) if ever else None,
                "first_backup": iso(first) if first else None,
                "days_since_first_backup": (records.until - first) // timedelta(days=1) if first else None,
                "drill_configured": any(not drill.control for drill in job.drills.values()),
            }
        )
    return sorted(rows, key=lambda row: (row["ever"], row["job"]))


def worst(log: list[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    """The drill that came off worst against its objective (`kind` is rto or rpo); None when none has both numbers."""
    measured = [entry for entry in log if entry[kind]["ratio"] is not None]
    if not measured:
        return None
    entry = max(measured, key=lambda entry: float(entry[kind]["ratio"]))
    return {"job": entry["job"], "drill": entry["id"], **entry[kind]}


def times(achieved_seconds: float | None, objective_seconds: float | None) -> dict[str, Any]:
    return {
        "achieved": _seconds(achieved_seconds),
        "objective": _seconds(objective_seconds),
        "ratio": ratio(achieved_seconds, objective_seconds),
    }


def achieved(measured: list[float | None], objective_seconds: float | None) -> dict[str, Any]:
    values = [value for value in measured if value is not None]
    slowest = max(values, default=None)
    return {
        "objective": objective_seconds,
        "n": len(values),
        "median": _seconds(median(values)) if values else None,
        "worst": slowest,
        "ratio": ratio(slowest, objective_seconds),
    }


def ratio(value: float | None, limit: float | None) -> float | None:
    return round(value / limit, 4) if value is not None and limit else None


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(float(value), 3)
