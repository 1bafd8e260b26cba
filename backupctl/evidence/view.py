"""From the report's JSON to the document a person reads, in one language: cover, summary, limits, sign-off."""

from __future__ import annotations

from typing import Any

from backupctl.evidence import rehearsed, sections, suspicions
from backupctl.evidence.canonical import digest
from backupctl.evidence.document import (
    Block,
    Cell,
    Document,
    Items,
    Paragraph,
    Section,
    Signatures,
    Tile,
    Tiles,
    Tone,
    cell,
    day,
    duration,
    instant,
    local_days,
    percent,
    shown,
    times_of,
)
from backupctl.evidence.texts import Words

CONCLUSION_TONES: dict[str, Tone] = {"pass": "good", "attention": "warn", "none": "bad", "fail": "bad"}
GRAVE = (
    "controls_missed",
    "draws_faulty",
    "no_drill",
    "drills_failed",
    "nothing_decided",
    "checks_failed",
    "audit_broken",
    "suspicious_open",
    "rto_missed",
    "rpo_missed",
)


def document(report: dict[str, Any], language: str) -> Document:
    """The whole report in words. UsageError for a language there is none in."""
    say = Words(language)
    zone = report["quarter"]["zone"]
    conclusion = report["summary"]["conclusion"]
    return Document(
        language=language,
        title=say("title"),
        cover=_cover(report, say),
        conclusion=cell(say(f"conclusion_{conclusion}"), CONCLUSION_TONES[conclusion]),
        conclusion_label=say("conclusion"),
        hash=digest(report),
        hash_label=say("hash_footer"),
        page=say("page", page="{page}", pages="{pages}"),
        generated=report["generated"]["utc"],
        sections=[
            Section(say("summary"), _summary(report, say, zone)),
            Section(say("objectives"), sections.objectives(report, say, zone)),
            Section(say("drill_log"), sections.drill_log(report, say, zone)),
            Section(say("controls"), rehearsed.controls(report, say, zone)),
            Section(say("selection"), rehearsed.selection(report, say, zone)),
            Section(say("trend"), rehearsed.trend(report, say)),
            Section(say("not_drilled"), sections.not_drilled(report, say, zone)),
            Section(say("integrity"), sections.integrity(report, say, zone)),
            Section(say("operation"), sections.operation(report, say, zone)),
            Section(say("suspicious"), suspicions.section(report, say, zone)),
            Section(say("findings"), sections.findings(report, say, zone)),
            Section(say("holds"), sections.holds(report, say, zone)),
            Section(say("limits"), [Items([limit_words(entry, say, zone) for entry in report["limits"]])]),
            Section(say("sign_off"), [_signatures(say)]),
            Section(say("evidence"), sections.evidence(report, say, zone)),
            Section(say("definitions"), [_definitions(report, say)]),
        ],
    )


def _cover(report: dict[str, Any], say: Words) -> list[tuple[str, Cell]]:
    quarter = report["quarter"]
    zone = quarter["zone"]
    name = say(
        "quarter_name",
        year=quarter["name"][:4],
        number=quarter["name"][-1],
        first=quarter["first_day"],
        last=local_days(quarter["first_day"], len_of_quarter(report))[-1].isoformat(),
        zone=zone,
    )
    generated = f"{report['generated']['local']} ({zone}) · {report['generated']['utc']}"
    return [
        (say("organisation"), cell(report["organisation"] or say("no_organisation"))),
        (say("quarter"), cell(name)),
        (say("report_id"), cell(report["report_id"])),
        (say("generated"), cell(generated)),
        (say("tool"), cell(f"{report['tool']['name']} {report['tool']['version']}")),
        (say("hash"), cell(digest(report), mono=True)),
    ]


def len_of_quarter(report: dict[str, Any]) -> int:
    year, number = int(report["quarter"]["name"][:4]), int(report["quarter"]["name"][-1])
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return (90 + leap, 91, 92, 92)[number - 1]


def _summary(report: dict[str, Any], say: Words, zone: str) -> list[Block]:
    summary = report["summary"]
    drills, jobs, read, found = summary["drills"], summary["jobs"], summary["integrity"], summary["findings"]
    statements: list[Block] = [
        Paragraph(
            statement_words(entry, say),
            "bad" if entry["code"] in GRAVE else "good" if entry["code"] == "drills_passed" else "warn",
        )
        for entry in summary["statements"]
    ]
    tiles = [
        Tile(
            say("tile_drills"),
            f"{drills['passed']} / {drills['run']}",
            [_bound(drills["pass_rate"], say), say("tile_drills_note", **drills), say("tile_verdicts", **drills)],
            "good" if drills["run"] and drills["passed"] == drills["run"] else "bad",
        ),
        Tile(
            say("tile_jobs"),
            f"{jobs['drilled']} / {jobs['total']}",
            [say("tile_jobs_note", **jobs)],
            "warn" if jobs["undrilled"] or not jobs["total"] else "good",
        ),
        Tile(
            say("tile_controls"),
            f"{summary['controls']['seen']} / {summary['controls']['run']}",
            [say("tile_controls_note", **summary["controls"])],
            "bad" if summary["controls"]["missed"] else "good" if summary["controls"]["seen"] else "warn",
        ),
        _worst_tile(summary["worst_rto"], say("tile_rto"), say),
        _worst_tile(summary["worst_rpo"], say("tile_rpo"), say),
        Tile(
            say("tile_integrity"),
            percent(read["share"]) if read["share"] is not None else say("not_measured"),
            [say("tile_integrity_note", **read), *_since(read["read_or_written_since"], say, zone)],
            "good" if read["repositories"] and read["read_in_full"] == read["repositories"] else "warn",
        ),
        Tile(
            say("tile_backups"),
            f"{summary['backups']['successes']} / {summary['backups']['trials']}",
            [_bound(summary["backups"], say)],
            "good" if summary["backups"]["share"] == 1 else "warn",
        ),
        Tile(
            say("tile_findings"),
            str(sum(found["open"].values())),
            [say("tile_findings_note", **found["open"], overdue=found["overdue"])],
            "bad"
            if found["open"]["critical"] or found["overdue"]
            else "warn"
            if any(found["open"].values())
            else "good",
        ),
        Tile(
            say("tile_audit"),
            say("broken")
            if not report["audit"]["intact"]
            else say("whole")
            if report["audit"]["events"]
            else say("none"),
            [say("tile_audit_note", **report["audit"])],
            "bad" if not report["audit"]["intact"] else "good" if report["audit"]["events"] else "warn",
        ),
    ]
    return [*statements, Tiles(tiles)]


def _bound(rate: dict[str, Any], say: Words) -> str:
    if rate["lower95"] is None:
        return say("not_measured")
    return f"{percent(rate['share'])} · {say('lower', bound=percent(rate['lower95']))}"


def _since(instant: str | None, say: Words, zone: str) -> list[str]:
    return [say("tile_reading_note", date=day(instant, zone))] if instant else []


def _worst_tile(worst: dict[str, Any] | None, label: str, say: Words) -> Tile:
    if worst is None:
        return Tile(label, say("not_measured"), [], "warn")
    note = say(
        "tile_ratio_note",
        ratio=times_of(worst["ratio"]),
        objective=duration(worst["objective"]),
        job=shown(worst["job"]),
    )
    return Tile(label, duration(worst["achieved"]), [note], "bad" if worst["ratio"] > 1 else "good")


def statement_words(entry: dict[str, Any], say: Words) -> str:
    values = dict(entry["values"])
    if entry["code"] in ("rto_missed", "rpo_missed"):
        values.update(achieved=duration(values["achieved"]), objective=duration(values["objective"]))
    if entry["code"] == "drills_passed":
        values["lower95"] = percent(values["lower95"])
    return shown(say(entry["code"], **values))


def limit_words(entry: dict[str, Any], say: Words, zone: str) -> str:
    values: dict[str, Any] = {
        key: say.comma.join(value) if isinstance(value, list) else value for key, value in entry["values"].items()
    }
    if "seconds" in values:
        values["seconds"] = duration(values["seconds"])
    if "until" in values:
        values["until"] = instant(values["until"], zone)
    return shown(say(entry["code"], **values))


def _signatures(say: Words) -> Block:
    return Signatures(
        columns=[say("role"), say("name"), say("date"), say("signature")],
        roles=[say("preparer"), say("system_owner"), say("security_officer")],
        note=say("sign_note"),
    )


def _definitions(report: dict[str, Any], say: Words) -> Block:
    keys = (
        "define_rto",
        "define_steps",
        "define_estimate",
        "define_draw",
        "define_levels",
        "define_verdicts",
        "define_bound",
    )
    file = f"recovery-{report['quarter']['name']}.json"
    return Items([*(say(key) for key in keys), say("define_hash", file=file)])
