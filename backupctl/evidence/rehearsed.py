"""Sections and facts about the drills themselves: controls, draws, steps from declaration to service, estimates, the trend."""

from __future__ import annotations

from typing import Any

from backupctl.evidence import charts
from backupctl.evidence.document import (
    Block,
    Cell,
    Column,
    Facts,
    Figure,
    Paragraph,
    Table,
    Tone,
    cell,
    duration,
    instant,
    percent,
    shown,
    size,
    times_of,
)
from backupctl.evidence.rehearsing import STEPS
from backupctl.evidence.texts import Words

TONES: dict[str, Tone] = {"pass": "good", "fail": "bad"}

WORDS = {"pass": "control_pass", "fail": "control_fail"}


def controls(report: dict[str, Any], say: Words, zone: str) -> list[Block]:
    if not report["controls"]:
        return [Paragraph(say("no_controls"), "warn")]
    heads = ["drill", "when", "damaged_object", "damage", "drill_said", "result"]
    rows = [
        [
            cell(one["drill"]),
            cell(instant(one["declared"], zone)),
            cell(one["object"][-16:], mono=True),
            cell(one["damage"]),
            cell(say.known(one["said"])),
            cell(say(WORDS.get(one["verdict"], "control_open")), _tone(one)),
        ]
        for one in report["controls"]
    ]
    return [
        Paragraph(say("controls_are")),
        Table([Column(say(head), wide=head in ("drill", "damage")) for head in heads], rows),
    ]


def _tone(control: dict[str, Any]) -> Tone:
    return TONES.get(control["verdict"], "warn")


def selection(report: dict[str, Any], say: Words, zone: str) -> list[Block]:
    if not report["selection"]:
        return [Paragraph(say("no_draws"))]
    heads = ["drill", "drawn_at", "committed_at", "drawn", "candidates", "verdict", "recomputed"]
    rows = []
    for one in report["selection"]:
        chosen, candidates = one["chosen"] or {}, one["candidates"] or {}
        rows.append(
            [
                cell(one["drill"]),
                cell(f"{instant(one['time'], zone)} (#{one['event']})"),
                cell(
                    f"{instant(one['committed_time'], zone)} (#{one['committed_event']})"
                    if one["committed_time"]
                    else "—"
                ),
                cell(" · ".join(str(chosen.get(key, "")) for key in ("age", "place", "source"))),
                cell(" · ".join(", ".join(map(str, those)) for those in candidates.values())),
                cell(say.known(one["verdict"]), TONES.get(one["verdict"], "warn"))
                if one["verdict"]
                else cell(say("no_result"), "bad"),
                cell("; ".join(one["faults"]), "bad") if one["faults"] else cell(say("as_recorded"), "good"),
            ]
        )
    proofs = [
        (
            shown(f"{one['drill']} #{one['event']}"),
            cell(f"{say('secret')} {one['secret']} · {say('event_hash')} {one['committed_hash']}", mono=True),
        )
        for one in report["selection"]
    ]
    return [
        Paragraph(say("draws_are")),
        Table([Column(say(head), wide=head in ("drill", "drawn", "candidates")) for head in heads], rows),
        Facts(proofs),
    ]


def steps(log: list[dict[str, Any]], say: Words, zone: str) -> list[Block]:
    """When each step was reached, of drills that reached any."""
    known = [entry for entry in log if any(entry["instants"].values())]
    if not known:
        return []
    heads = ["drill", "when", "step_t1", "step_keys", "step_t2", "step_t3", "step_t4", "step_t5"]
    rows = [
        [
            cell(entry["drill"]),
            cell(instant(entry["declared"], zone)),
            cell(duration(entry["instants"]["t1"])),
            cell(duration(entry["key_seconds"])),
            *(cell(duration(entry["instants"][name])) for name in STEPS[1:]),
        ]
        for entry in known
    ]
    return [Table([Column(say(head), right=head.startswith("step_"), wide=head == "drill") for head in heads], rows)]


def steps_figure(entry: dict[str, Any], say: Words) -> Figure | None:
    reached = [(name, entry["instants"][name]) for name in STEPS if entry["instants"][name] is not None]
    if len(reached) < 2:
        return None
    bars, before = [], 0.0
    for name, at in reached:
        bars.append((say(f"step_{name}"), max(at - before, 0.0), duration(at)))
        before = max(before, at)
    title = say("figure_steps")
    return Figure(title, charts.phases(title, bars), charts.WIDTH)


def facts(entry: dict[str, Any], say: Words, zone: str) -> list[tuple[str, Cell]]:
    """Of one drill's card."""
    found = []
    if entry["heartbeat"]:
        found.append((say("heartbeat"), cell(instant(entry["heartbeat"], zone))))
    if entry["draw"]:
        drawn = entry["draw"]
        words = " · ".join(str(drawn.get(key, "")) for key in ("age", "place", "source"))
        found.append((say("drawn"), cell(f"{words} (#{drawn.get('event')})")))
    if entry["estimate"]:
        found.append((say("estimate"), cell(_estimate(entry["estimate"], say), "mute")))
    if entry["interlocks"]:
        found.append((say("interlocks"), cell("; ".join(entry["interlocks"]))))
    if evidence := [f"{one['name']}: {one['evidence'][:16]}" for one in entry["checks"] if one["evidence"]]:
        found.append((say("probe_evidence"), cell("; ".join(evidence[:12]), mono=True)))
    return found


def estimates(report: dict[str, Any], say: Words, zone: str) -> list[Block]:
    """The newest estimate of each job, apart from everything that was measured."""
    newest: dict[str, dict[str, Any]] = {}
    for entry in sorted(report["drills"], key=lambda one: str(one["declared"])):
        if entry["estimate"]:
            newest[entry["job"]] = entry
    if not newest:
        return []
    heads = ["job", "estimate", "estimated_bytes", "measured_bytes", "scale", "drill", "when"]
    rows = [
        [
            cell(job),
            cell(duration(entry["estimate"]["seconds"]), "mute"),
            cell(size(entry["estimate"]["bytes"])),
            cell(size(entry["estimate"]["measured_bytes"])),
            cell(times_of(entry["estimate"]["scale"])),
            cell(entry["drill"]),
            cell(instant(entry["declared"], zone)),
        ]
        for job, entry in sorted(newest.items())
    ]
    right = ("estimate", "estimated_bytes", "measured_bytes", "scale")
    columns = [Column(say(head), right=head in right, wide=head in ("job", "drill")) for head in heads]
    return [Paragraph(say("estimates_are")), Table(columns, rows)]


def _estimate(found: dict[str, Any], say: Words) -> str:
    return say("estimate_line", time=duration(found["seconds"]), size=size(found["bytes"]))


def trend(report: dict[str, Any], say: Words) -> list[Block]:
    rows = report["trend"]
    if not rows:
        return [Paragraph(say("no_trend"))]
    title = say("figure_quarters")
    bars = [
        charts.Bar(row["quarter"], row["rto_ratio_worst"], times_of(row["rto_ratio_worst"]), 1.0, say("objective"))
        for row in rows
        if row["rto_ratio_worst"] is not None
    ]
    heads = ["quarter", "drills_run", "passed", "share", "bound", "ratio_median", "ratio_worst"]
    table = [
        [
            cell(row["quarter"]),
            cell(row["run"]),
            cell(row["pass_rate"]["successes"]),
            cell("—" if row["pass_rate"]["share"] is None else percent(row["pass_rate"]["share"])),
            cell("—" if row["pass_rate"]["lower95"] is None else percent(row["pass_rate"]["lower95"])),
            cell(times_of(row["rto_ratio_median"])),
            cell(times_of(row["rto_ratio_worst"]), _late(row["rto_ratio_worst"])),
        ]
        for row in rows
    ]
    blocks: list[Block] = [Figure(title, charts.bars(title, bars), charts.WIDTH)] if bars else []
    return [
        *blocks,
        Table([Column(say(head), right=head != "quarter", wide=head == "quarter") for head in heads], table),
    ]


def _late(ratio: float | None) -> Tone:
    return "" if ratio is None else "bad" if ratio > 1 else "good"
