"""The quarterly recovery report, as JSON: the source of truth that HTML and PDF only render.

Every number was measured and stands in the catalog; an estimate stands apart, is called so and is set against no objective. What
was not done is stated first.
The report's hash is the SHA-256 of its canonical bytes (`canonical.py`), which are exactly what its `.json` file holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import backupctl
from backupctl.clock import Clock, iso, to_zone
from backupctl.evidence import audit
from backupctl.evidence.bounds import CONFIDENCE, floor
from backupctl.evidence.canonical import cleaned, digest
from backupctl.evidence.drilling import DECISIVE, drill_counts, drill_log, job_rows, undrilled, worst
from backupctl.evidence.operation import findings, holds, integrity, operation
from backupctl.evidence.quarter import Quarter
from backupctl.evidence.records import Records, gather
from backupctl.evidence.rehearsing import controls, selection, trend
from backupctl.evidence.suspicions import counts, suspicions

if TYPE_CHECKING:
    from backupctl.catalog.catalog import Catalog
    from backupctl.config.models import Settings

SCHEMA = 1
SEVERITIES = ("critical", "major", "minor")


def build(catalog: Catalog, settings: Settings, quarter: Quarter, *, clock: Clock) -> dict[str, Any]:
    """The report of one quarter, from the catalog alone. The same catalog at the same instant gives the same bytes."""
    now = clock.now()
    records = gather(catalog, quarter, now)
    trail = audit.verify(catalog)
    log = drill_log(records, settings)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "recovery",
        "report_id": f"recovery-{quarter.name}-{now:%Y%m%dT%H%M%SZ}",
        "organisation": settings.reports.organisation or "",
        "quarter": {
            "name": quarter.name,
            "zone": quarter.zone,
            "start": iso(quarter.start),
            "end": iso(quarter.end),
            "first_day": quarter.first_day.isoformat(),
            "ended": now >= quarter.end,
        },
        "generated": {"utc": iso(now), "local": to_zone(now, quarter.zone).isoformat(timespec="seconds")},
        "tool": {"name": "backupctl", "version": backupctl.__version__},
        "confidence": CONFIDENCE,
        "jobs": job_rows(records, settings, log),
        "drills": log,
        "controls": controls(records),
        "selection": selection(catalog, records),
        "trend": trend(records),
        "undrilled": undrilled(records, settings, log),
        "integrity": integrity(records, settings),
        "operation": operation(records, settings),
        "findings": findings(records),
        "suspicious": suspicions(records),
        "holds": holds(records),
        "audit": {
            "events": trail.events,
            "head": trail.head,
            "intact": trail.intact,
            "first_broken": trail.first_broken,
            "faults": trail.faults,
        },
        "evidence": _evidence(records),
    }
    report["summary"] = _summary(report, drill_counts(records, settings, log))
    report["limits"] = _limits(report, records, settings)
    result: dict[str, Any] = cleaned(report)
    return result


def report_hash(report: dict[str, Any]) -> str:
    return digest(report)


def _summary(report: dict[str, Any], drills: dict[str, Any]) -> dict[str, Any]:
    undone = report["undrilled"]
    open_findings = [row for row in report["findings"] if row["open"]]
    known = [row for row in report["integrity"] if row["bytes_there"] is not None]
    there, read = sum(row["bytes_there"] for row in known), sum(row["bytes_read"] for row in known)
    summary: dict[str, Any] = {
        "drills": drills,
        "jobs": {
            "total": len(report["jobs"]),
            "drilled": len(report["jobs"]) - len(undone),
            "undrilled": len(undone),
            "never_drilled": sum(not row["ever"] for row in undone),
        },
        "worst_rto": worst(report["drills"], "rto"),
        "worst_rpo": worst(report["drills"], "rpo"),
        "integrity": {
            "repositories": len(report["integrity"]),
            "read_in_full": sum(row["share"] == 1 for row in report["integrity"]),
            "never_checked": len(report["integrity"]) - len(known),
            "bytes_there": there,
            "bytes_read": read,
            "share": floor(read / there) if there else None,
            **_reading(report),
        },
        "controls": {
            "run": len(report["controls"]),
            "seen": sum(one["verdict"] == "pass" for one in report["controls"]),
            "missed": sum(one["verdict"] == "fail" for one in report["controls"]),
        },
        "selection": {
            "draws": len(report["selection"]),
            "faulty": sum(bool(one["faults"]) for one in report["selection"]),
            "without_result": sum(one["verdict"] is None for one in report["selection"]),
        },
        "findings": {
            "open": {key: sum(row["severity"] == key for row in open_findings) for key in SEVERITIES},
            "overdue": sum(row["overdue"] for row in open_findings),
        },
        "suspicious": counts(report["suspicious"]),
        "backups": report["operation"]["first_attempt"],
    }
    statements = _statements(report, summary)
    return {**summary, "statements": statements, "conclusion": _conclusion(report, statements)}


def _reading(report: dict[str, Any]) -> dict[str, Any]:
    """Since when every byte of every repository was read or written, None when that of one is not known; objectives."""
    found = [row["reading"] for row in report["integrity"]]
    since = [reading["read_or_written_since"] for reading in found]
    return {
        "read_or_written_since": min(since) if since and None not in since else None,
        "reading_objectives": sum(reading["met"] is not None for reading in found),
        "reading_missed": sum(reading["met"] is False for reading in found),
    }


def _statements(report: dict[str, Any], summary: dict[str, Any]) -> list[dict[str, Any]]:
    """What must be said, gravest first, as codes that `texts` puts into words."""
    drills, jobs, read = summary["drills"], summary["jobs"], summary["integrity"]
    late = [kind for kind in ("rto", "rpo") if (found := summary[f"worst_{kind}"]) and found["ratio"] > 1]
    failed_checks = sum(row["checks_failed"] for row in report["integrity"])
    operation_days = [row for row in report["operation"]["jobs"] if row["scheduled"]]
    bad_days = sum(row["days_due"] - row["days_complete"] for row in operation_days)
    tested, drawn, suspicious = summary["controls"], summary["selection"], summary["suspicious"]
    said = [
        (tested["missed"], "controls_missed", tested),
        (drawn["faulty"], "draws_faulty", drawn),
        (not drills["run"], "no_drill", {}),
        (drills["failed"], "drills_failed", {"failed": drills["failed"], "run": drills["run"]}),
        (drills["run"] and not drills["passed"] + drills["failed"], "nothing_decided", {"run": drills["run"]}),
        (failed_checks, "checks_failed", {"count": failed_checks}),
        (not report["audit"]["intact"], "audit_broken", {"number": report["audit"]["first_broken"]}),
        (
            suspicious["unseen"] + suspicious["acknowledged"],
            "suspicious_open",
            {**suspicious, "count": suspicious["total"] - suspicious["cleared"]},
        ),
        ("rto" in late, "rto_missed", summary["worst_rto"] or {}),
        ("rpo" in late, "rpo_missed", summary["worst_rpo"] or {}),
        (jobs["undrilled"], "jobs_undrilled", jobs),
        (
            drills["inconclusive"] + drills["stale"] + drills["skipped"],
            "drills_undecided",
            {"count": drills["inconclusive"] + drills["stale"] + drills["skipped"], "run": drills["run"]},
        ),
        (drawn["without_result"], "draws_without_result", drawn),
        (drills["not_run"], "drills_not_run", {"not_run": drills["not_run"], "due": drills["due"]}),
        (
            read["read_in_full"] < read["repositories"],
            "not_read",
            {"count": read["repositories"] - read["read_in_full"], "total": read["repositories"]},
        ),
        (
            read["reading_missed"],
            "reading_missed",
            {"count": read["reading_missed"], "total": read["reading_objectives"]},
        ),
        (bad_days, "days_without", {"days": bad_days}),
        (summary["findings"]["overdue"], "findings_overdue", {"count": summary["findings"]["overdue"]}),
        (drills["passed"], "drills_passed", {"passed": drills["passed"], "run": drills["run"], **drills["pass_rate"]}),
    ]
    return [{"code": code, "values": values} for condition, code, values in said if condition]


def _conclusion(report: dict[str, Any], statements: list[dict[str, Any]]) -> str:
    """`fail`: the newest word on some job, repository or the trail is bad. `none`: nothing was proven. `attention`: proven
    with something to explain. `pass`: nothing to explain."""
    newest: dict[str, tuple[str, str]] = {}
    for entry in report["drills"]:
        if entry["verdict"] in DECISIVE:
            newest[entry["drill"]] = max(newest.get(entry["drill"], ("", "")), (entry["declared"], entry["verdict"]))
    if (
        any(verdict == "fail" for _, verdict in newest.values())
        or any(row["last_verdict"] == "fail" for row in report["integrity"])
        or not report["audit"]["intact"]
        or any(one["verdict"] == "fail" for one in report["controls"])
        or any(one["faults"] for one in report["selection"])
    ):
        return "fail"
    if not newest:
        return "none"
    return "pass" if [statement["code"] for statement in statements] == ["drills_passed"] else "attention"


def _limits(report: dict[str, Any], records: Records, settings: Settings) -> list[dict[str, Any]]:
    """What this report does not show, and why: only what follows from the records and the configuration."""
    decided = [entry for entry in report["drills"] if entry["verdict"] in DECISIVE]
    highest = max((entry["level"] for entry in decided if entry["verdict"] == "pass"), default=None)
    ages = [entry["snapshot_age_seconds"] for entry in decided if entry["snapshot_age_seconds"] is not None]
    local_hosts = sorted({entry["host"] for entry in decided if _is_local(settings, entry["host"])})
    local_repositories = sorted(
        name for name in {job.repository for job in settings.jobs.values()} if _is_local_storage(settings, name)
    )
    removed = sorted({run.name for run in records.backups} - set(settings.jobs))
    limits: list[tuple[Any, str, dict[str, Any]]] = [
        (not report["quarter"]["ended"], "quarter_open", {"until": iso(records.until)}),
        (highest is not None and highest < 6, "level_not_reached", {"level": highest}),
        (ages, "oldest_restored", {"seconds": max(ages, default=0), "count": len(ages)}),
        (local_hosts, "staged_here", {"hosts": local_hosts}),
        (local_repositories, "local_repository", {"repositories": local_repositories}),
        (
            undrillable := [row["job"] for row in report["undrilled"] if not row["drill_configured"]],
            "no_drill_configured",
            {"jobs": undrillable},
        ),
        (
            unread := [row["repository"] for row in report["integrity"] if row["share"] != 1],
            "not_read_in_full",
            {"repositories": unread},
        ),
        (
            uncleaned := [e["drill"] for e in decided if not e["cleanup"]["proved"]],
            "cleanup_unproved",
            {"drills": sorted(set(uncleaned))},
        ),
        (
            unrecorded := [row["job"] for row in report["operation"]["jobs"] if row["unrecorded_days"]],
            "days_unrecorded",
            {"jobs": unrecorded},
        ),
        (removed, "removed_jobs", {"jobs": removed}),
        (not any(one["verdict"] == "pass" for one in report["controls"]), "no_control", {}),
        (
            unscanned := [e["drill"] for e in decided if not all(check["performed"] for check in e["checks"])],
            "not_performed",
            {"drills": sorted(set(unscanned))},
        ),
        (True, "audit_end", {"number": report["audit"]["events"]}),
    ]
    return [{"code": code, "values": values} for condition, code, values in limits if condition]


def _is_local(settings: Settings, name: str) -> bool:
    host = settings.hosts.get(name)
    return host is not None and host.local is not None


def _is_local_storage(settings: Settings, name: str) -> bool:
    repository = settings.repositories.get(name)
    return repository is not None and repository.storage.local is not None


def _evidence(records: Records) -> list[dict[str, Any]]:
    """The sealed records behind the numbers: a record's name in the repository is the SHA-256 of its content."""
    drilled = {row.snapshot for row in records.quarter_drills}
    rows = [("drill", r.id, r.repository, r.record, r.finished) for r in records.quarter_drills]
    rows += [("check", r.id, r.repository, r.record, r.finished) for r in records.quarter_checks]
    rows += [("fingerprint", r.id, r.repository, r.fingerprint, r.time) for r in records.snapshots if r.id in drilled]
    rows += [("hold", r.snapshot, r.repository, r.id, r.created) for r in records.holds]
    return [
        {"kind": kind, "of": of, "repository": repository, "sha256": sha256, "at": iso(at)}
        for kind, of, repository, sha256, at in sorted(rows, key=lambda row: (row[0], row[4], row[1]))
        if sha256
    ]
