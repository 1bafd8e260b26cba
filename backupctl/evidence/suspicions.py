"""Suspicious snapshots of a quarter: what was seen, and what people said of it. From findings and the audit trail; what is in the
repositories of other decisions is not asked."""

from __future__ import annotations

from typing import Any

from backupctl.catalog.models import ANOMALY, Event, Finding
from backupctl.clock import iso
from backupctl.evidence.document import Block, Cell, Column, Paragraph, Table, Tone, cell, day, instant
from backupctl.evidence.records import Records
from backupctl.evidence.texts import Words

_TONES: dict[str, Tone] = {"unseen": "bad", "acknowledged": "warn", "cleared": "good"}


def suspicions(records: Records) -> list[dict[str, Any]]:
    """Those that were open at any time of the quarter, what nobody has looked at first, then oldest first."""
    rows = [
        _row(records, row)
        for row in records.findings
        if row.source == ANOMALY and (row.closed is None or row.closed >= records.quarter.start)
    ]
    return sorted(rows, key=lambda row: ([*_TONES].index(row["state"]), row["opened"], row["run"]))


def _row(records: Records, finding: Finding) -> dict[str, Any]:
    said: Event | None = next(
        (one for one in reversed(records.decisions) if one.detail.get("run") == finding.run), None
    )
    snapshot = next((one for one in records.snapshots if one.run == finding.run), None)  # the first is the primary's
    state = "unseen" if said is None else said.action.partition(".")[2]
    return {
        "job": finding.job,
        "run": finding.run,
        "snapshot": snapshot.id if snapshot is not None else None,
        "opened": iso(finding.opened),
        "signals": finding.detail,
        "state": "cleared" if finding.closed is not None else state,
        "by": said.actor if said is not None else None,
        "decided": iso(said.time) if said is not None else iso(finding.closed) if finding.closed is not None else None,
        "reason": str(said.detail.get("reason", "")) if said is not None else finding.closure,
    }


def counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {"total": len(rows), **{state: sum(row["state"] == state for row in rows) for state in _TONES}}


def section(report: dict[str, Any], say: Words, zone: str) -> list[Block]:
    rows = report["suspicious"]
    if not rows:
        return [Paragraph(say("no_suspicious"))]
    found = counts(rows)
    tone: Tone = "bad" if found["unseen"] else "warn" if found["acknowledged"] else "good"
    heads = ["job", "when", "snapshot", "signals", "status", "reason"]
    table = [
        [
            cell(row["job"]),
            cell(instant(row["opened"], zone)),
            cell((row["snapshot"] or "—")[:8], mono=True),
            cell(row["signals"]),
            _state(row, say, zone),
            cell(row["reason"] or "—"),
        ]
        for row in rows
    ]
    columns = [Column(say(head), wide=head in ("signals", "reason")) for head in heads]
    return [Paragraph(say("suspicious_line", **found), tone), Table(columns, table)]


def _state(row: dict[str, Any], say: Words, zone: str) -> Cell:
    words = [say(f"suspicion_{row['state']}"), row["by"] or "", day(row["decided"], zone) if row["decided"] else ""]
    return cell(" · ".join(filter(None, words)), _TONES[row["state"]])
