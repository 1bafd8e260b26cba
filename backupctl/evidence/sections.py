"""The tables, figures and cards of the report, one function per section."""

from __future__ import annotations

from typing import Any

from backupctl.evidence import charts, rehearsed
from backupctl.evidence.document import (
    Block,
    Card,
    Cell,
    Column,
    Facts,
    Figure,
    Paragraph,
    Table,
    Tone,
    cell,
    day,
    duration,
    instant,
    local_days,
    percent,
    shown,
    size,
    times_of,
)
from backupctl.evidence.texts import Words

VERDICT_TONES: dict[str | None, Tone] = {"pass": "good", "fail": "bad", "skipped": "mute", None: "bad"}
SIGNS = {"pass": "v", "fail": "x"}
SEVERITY_TONES: dict[str, Tone] = {"critical": "bad", "major": "warn"}
SHOWN_CHECKS = 40  # of one drill, as expected; all stand in the JSON
SHOWN_FAILED_CHECKS = 200  # a lost pack fails every file in it


def verdict(value: str | None, say: Words) -> Cell:
    return cell(say.known(value) if value else say("never"), VERDICT_TONES.get(value, "warn"))


def rate(value: dict[str, Any]) -> str:
    if value["lower95"] is None:
        return "—"
    return f"{value['successes']}/{value['trials']} (≥ {percent(value['lower95'])})"


def _missed(ratio: float | None) -> Tone:
    return "" if ratio is None else "bad" if ratio > 1 else "good"


def objectives(report: dict[str, Any], say: Words, zone: str) -> list[Block]:
    if not report["jobs"]:
        return [Paragraph(say("no_jobs"))]
    blocks: list[Block] = []
    for kind in ("rto", "rpo"):
        rows = [
            charts.Bar(
                shown(job["job"]),
                job[kind]["worst"],
                duration(job[kind]["worst"]),
                job[kind]["objective"],
                f"{say('objective')} {duration(job[kind]['objective'])}",
            )
            for job in report["jobs"]
            if job[kind]["worst"] is not None
        ]
        if rows:
            title = say(f"figure_{kind}")
            blocks.append(Figure(title, charts.bars(title, rows), charts.WIDTH))
    heads = ["job", "class", "owner", "highest_level", "last_drill", "verdict", "passed"]
    table = [
        [
            cell(job["job"]),
            cell(say.known(job["class"])),
            cell(job["owner"] or "—"),
            cell("—" if job["highest_level"] is None else f"L{job['highest_level']}"),
            cell(day(job["last_drill"], zone) if job["last_drill"] else say("none")),
            verdict(job["verdict"], say),
            cell(rate(job["pass_rate"])),
        ]
        for job in report["jobs"]
    ]
    blocks.append(Table([Column(say(head), wide=head in ("job", "owner")) for head in heads], table))
    heads = [
        "job",
        "rto_objective",
        "rto_median",
        "rto_worst",
        "ratio",
        "rpo_objective",
        "rpo_median",
        "rpo_worst",
        "ratio",
    ]
    numbers = [
        [cell(job["job"]), *_times(job["rto"]), *_times(job["rpo"]), cell(job["rto"]["n"])] for job in report["jobs"]
    ]
    columns = [Column(say(head), right=head != "job", wide=head == "job") for head in [*heads, "count"]]
    return [*blocks, Table(columns, numbers), *rehearsed.estimates(report, say, zone)]


def _times(value: dict[str, Any]) -> list[Cell]:
    return [
        cell(duration(value["objective"])),
        cell(duration(value["median"])),
        cell(duration(value["worst"])),
        cell(times_of(value["ratio"]), _missed(value["ratio"])),
    ]


def drill_log(report: dict[str, Any], say: Words, zone: str) -> list[Block]:
    log = report["drills"]
    if not log:
        return [Paragraph(say("no_drill"), "bad")]
    title = say("figure_trend")
    ordered = sorted(log, key=lambda entry: (entry["declared"], entry["id"]))
    signs = [
        (day(entry["declared"], zone)[5:], SIGNS.get(entry["verdict"], "!"), say.known(entry["verdict"]))
        for entry in ordered
    ]
    heads = ["drill", "when", "verdict", "level", "achieved_rto", "achieved_rpo", "checks_column"]
    table = [
        [
            cell(entry["drill"]),
            cell(instant(entry["declared"], zone)),
            verdict(entry["verdict"], say),
            cell(f"L{entry['level']}"),
            cell(duration(entry["rto"]["achieved"]), _late(entry["rto"])),
            cell(duration(entry["rpo"]["achieved"]), _late(entry["rpo"])),
            cell(f"{sum(check['ok'] for check in entry['checks'])}/{len(entry['checks'])}"),
        ]
        for entry in log
    ]
    right = ("achieved_rto", "achieved_rpo", "checks_column")
    columns = [Column(say(head), right=head in right, wide=head == "drill") for head in heads]
    return [
        Figure(title, charts.trend(title, signs), charts.WIDTH),
        Table(columns, table),
        *rehearsed.steps(log, say, zone),
        *(_card(entry, say, zone) for entry in log),
    ]


def _late(value: dict[str, Any]) -> Tone:
    return "bad" if value["ratio"] is not None and value["ratio"] > 1 else ""


def _card(entry: dict[str, Any], say: Words, zone: str) -> Card:
    facts: list[tuple[str, Cell]] = [(say("when"), cell(instant(entry["declared"], zone)))]
    if entry["snapshot"]:
        where = say("card_facts", **{**entry, "snapshot": entry["snapshot"][:8]})
        age = say("card_age", time=instant(entry["snapshot_time"], zone), age=duration(entry["snapshot_age_seconds"]))
        facts += [(say("restored_from"), cell(where)), (say("snapshot"), cell(age))]
        facts.append((say("card_restored"), cell(size(entry["restored_bytes"]))))
    for kind in ("rto", "rpo"):
        value = entry[kind]
        if value["achieved"] is not None:
            text = f"{duration(value['achieved'])} / {say('objective')} {duration(value['objective'])} = {times_of(value['ratio'])}"
            if value["ratio"] is None:
                text = duration(value["achieved"])
                text += f" ({say('older_point')})" if kind == "rpo" and entry["older_point"] else ""
            facts.append((say(f"achieved_{kind}"), cell(text, _missed(value["ratio"]))))
    facts.append((say("level"), cell(f"L{entry['level']}")))
    facts += rehearsed.facts(entry, say, zone)
    cleanup = entry["cleanup"]
    proved = say("cleanup_proved") if cleanup["proved"] else say("cleanup_unproven")
    facts.append(
        (say("cleanup"), cell("; ".join([proved, *cleanup["facts"]]), "good" if cleanup["proved"] else "warn"))
    )
    blocks: list[Block] = []
    if entry["reasons"]:
        blocks.append(
            Paragraph(
                f"{say('reasons')}: " + shown("; ".join(entry["reasons"])),
                "bad" if entry["verdict"] == "fail" else "warn",
            )
        )
    blocks.append(Facts(facts))
    if (figure := rehearsed.steps_figure(entry, say)) is not None:
        blocks.append(figure)
    if entry["phases"]:
        title = say("figure_phases")
        bars = [(shown(phase["name"]), phase["seconds"], duration(phase["seconds"])) for phase in entry["phases"]]
        blocks.append(Figure(title, charts.phases(title, bars), charts.WIDTH))
    blocks += _checks(entry["checks"], say)
    tone = VERDICT_TONES.get(entry["verdict"], "warn")
    return Card(shown(entry["drill"]), say.known(entry["verdict"]), tone, blocks)


def _checks(checks: list[dict[str, Any]], say: Words) -> list[Block]:
    if not checks:
        return [Paragraph(say("no_checks"), "bad")]
    failed = [check for check in checks if not check["ok"]]
    passed = [check for check in checks if check["ok"]]
    passed.sort(key=lambda check: bool(check["performed"]))
    rows = [
        [
            cell(check["name"]),
            cell(f"L{check['level']}"),
            cell(check["expected"]),
            cell(check["actual"] + (f" · {check['detail']}" if check["detail"] and not check["ok"] else "")),
            _result(check, say),
        ]
        for check in [*failed[:SHOWN_FAILED_CHECKS], *passed[:SHOWN_CHECKS]]
    ]
    wide = ("check", "expected", "actual")
    columns = [Column(say(head), wide=head in wide) for head in ("check", "level", "expected", "actual", "result")]
    blocks: list[Block] = [
        Paragraph(say("checks_made", ok=len(passed), count=len(checks)), "good" if not failed else "bad"),
        Table(columns, rows),
    ]
    if len(failed) > SHOWN_FAILED_CHECKS:
        blocks.append(Paragraph(say("checks_not_as_expected", count=len(failed) - SHOWN_FAILED_CHECKS), "bad"))
    if len(passed) > SHOWN_CHECKS:
        blocks.append(Paragraph(say("checks_as_expected", count=len(passed) - SHOWN_CHECKS)))
    return blocks


def _result(check: dict[str, Any], say: Words) -> Cell:
    if not check["performed"]:
        return cell(say("was_not_performed"), "warn")
    return cell(say("yes") if check["ok"] else say("no"), "good" if check["ok"] else "bad")


def not_drilled(report: dict[str, Any], say: Words, zone: str) -> list[Block]:
    if not report["jobs"]:
        return [Paragraph(say("no_jobs"))]
    if not report["undrilled"]:
        return [Paragraph(say("all_drilled"), "good")]
    heads = ["job", "class", "owner", "ever_drilled", "first_backup", "days_since", "drill_configured"]
    rows = [
        [
            cell(row["job"]),
            cell(say.known(row["class"])),
            cell(row["owner"] or "—"),
            cell(day(row["last_drilled"], zone)) if row["ever"] else cell(say("never"), "bad"),
            cell(day(row["first_backup"], zone)),
            cell("—" if row["days_since_first_backup"] is None else row["days_since_first_backup"]),
            cell(say("yes")) if row["drill_configured"] else cell(say("no"), "warn"),
        ]
        for row in report["undrilled"]
    ]
    columns = [Column(say(head), right=head == "days_since", wide=head in ("job", "owner")) for head in heads]
    return [Table(columns, rows)]


def integrity(report: dict[str, Any], say: Words, zone: str) -> list[Block]:
    trail = report["audit"]
    if not trail["events"] and trail["intact"]:
        audit = cell(say("audit_empty"), "warn")
    elif trail["intact"]:
        audit = cell(say("audit_intact", events=trail["events"], head=trail["head"]), "good")
    else:
        audit = cell(say("audit_faulty", events=trail["events"], faults="; ".join(trail["faults"][:3])), "bad")
    chain = Facts([(say("audit"), audit)])
    if not report["integrity"]:
        return [Paragraph(say("no_repository")), chain]
    heads = ["repository", "bytes_there", "bytes_read", "share", "checks", "last_check", "verdict", "last_full_read"]
    rows = [
        [
            cell(row["repository"]),
            cell(size(row["bytes_there"])),
            cell(size(row["bytes_read"])),
            cell(percent(row["share"]), "good" if row["share"] == 1 else "warn"),
            cell(row["checks"]),
            cell(instant(row["last_check"], zone) if row["last_check"] else say("never")),
            verdict(row["last_verdict"], say),
            cell(day(row["last_full_read"], zone) if row["last_full_read"] else say("never")),
        ]
        for row in report["integrity"]
    ]
    right = ("bytes_there", "bytes_read", "share", "checks")
    blocks: list[Block] = [
        Table([Column(say(head), right=head in right, wide=head == "repository") for head in heads], rows)
    ]
    blocks.append(Facts([_reading(row, say, zone) for row in report["integrity"]]))
    problems = [
        [cell(row["repository"]), cell(problem["object"]), cell(problem["message"])]
        for row in report["integrity"]
        for problem in row["problems"]
    ]
    if problems:
        columns = [Column(say("repository")), Column(say("object"), wide=True), Column(say("problem"), wide=True)]
        blocks.append(Table(columns, problems))
    elif any(row["checks"] for row in report["integrity"]):
        blocks.append(Paragraph(say("no_problems"), "good"))
    else:
        blocks.append(Paragraph(say("no_check_at_all"), "bad"))
    return [*blocks, chain]


def _reading(row: dict[str, Any], say: Words, zone: str) -> tuple[str, Cell]:
    """Since when every stored byte of a repository was read, or written, and whether the objective for that was met."""
    found = row["reading"]
    since, within = found["read_or_written_since"], found["within_seconds"]
    if since is None:
        words = [say("reading_unknown")]
    else:
        words = [say("reading_since", since=instant(since, zone), as_of=instant(found["as_of"], zone))]
        if found["never_read_bytes"]:
            words.append(say("reading_new", size=size(found["never_read_bytes"])))
    if within is not None:
        age = duration(found["age_seconds"])
        key = "reading_met" if found["met"] else "reading_missed_by" if since else "reading_not_shown"
        words.append(say(key, within=duration(within), age=age))
        tone: Tone = "good" if found["met"] else "bad"
    else:
        tone = "" if since else "warn"
    return shown(say("every_byte", repository=row["repository"])), cell(say.between_sentences.join(words), tone)


def operation(report: dict[str, Any], say: Words, zone: str) -> list[Block]:
    data = report["operation"]
    runs = data["runs"]
    line = say("runs_line", **{key: runs[key] for key in runs}, live=runs["queued"] + runs["running"])
    facts = Facts(
        [
            (say("runs"), cell(line)),
            (say("first_attempt"), cell(rate(data["first_attempt"]))),
            (say("notices"), cell(say("notices_line", **data["notices"]), "warn" if data["notices"]["failed"] else "")),
        ]
    )
    if not data["jobs"]:
        return [facts]
    title = say("figure_calendar")
    days = local_days(report["quarter"]["first_day"], len(data["jobs"][0]["calendar"]))
    used = {letter for job in data["jobs"] for letter in job["calendar"]}
    legend = [(letter, say(f"cell_{letter}")) for letter in "cifnr-u." if letter in used]
    drawing = charts.calendar(title, days, [(shown(job["job"]), job["calendar"]) for job in data["jobs"]], legend)
    heads = ["job", "days", "first_attempt", "missed", "last_complete", "age", "size"]
    rows = [
        [
            cell(job["job"]),
            cell(
                f"{job['days_complete']}/{job['days_due']}", "" if job["days_complete"] == job["days_due"] else "warn"
            ),
            cell(rate(job["first_attempt"])),
            cell(job["missed"], "warn" if job["missed"] else ""),
            *_last(job["last_complete"], say, zone),
        ]
        for job in data["jobs"]
    ]
    columns = [Column(say(head), right=head not in ("job", "last_complete"), wide=head == "job") for head in heads]
    return [facts, Figure(title, drawing, charts.WIDTH), Table(columns, rows)]


def _last(last: dict[str, Any] | None, say: Words, zone: str) -> list[Cell]:
    if last is None:
        return [cell(say("none"), "bad"), cell("—"), cell("—")]
    return [cell(instant(last["time"], zone)), cell(duration(last["age_seconds"])), cell(size(last["bytes"]))]


def findings(report: dict[str, Any], say: Words, zone: str) -> list[Block]:
    if not report["findings"]:
        return [Paragraph(say("no_findings"))]
    heads = ["severity", "finding", "job", "owner", "opened", "due", "age_days", "status"]
    rows = [
        [
            cell(say.known(row["severity"]), SEVERITY_TONES.get(row["severity"], "") if row["open"] else ""),
            cell(row["title"] + (f" · {row['closure']}" if row["closure"] else "")),
            cell(row["job"] or "—"),
            cell(row["owner"] or "—"),
            cell(day(row["opened"], zone)),
            cell(day(row["due"], zone)),
            cell(row["age_days"]),
            _status(row, say, zone),
        ]
        for row in report["findings"]
    ]
    return [Table([Column(say(head), right=head == "age_days", wide=head == "finding") for head in heads], rows)]


def _status(row: dict[str, Any], say: Words, zone: str) -> Cell:
    if row["overdue"]:
        return cell(say("overdue"), "bad")
    return cell(say("open"), "warn") if row["open"] else cell(say("closed", date=day(row["closed"], zone)))


def holds(report: dict[str, Any], say: Words, zone: str) -> list[Block]:
    if not report["holds"]:
        return [Paragraph(say("no_holds"))]
    heads = ["snapshot", "repository", "reason", "owner", "opened", "expires", "status"]
    rows = [
        [
            cell(row["snapshot"][:8], mono=True),
            cell(row["repository"]),
            cell(row["reason"]),
            cell(row["owner"]),
            cell(day(row["created"], zone)),
            cell(day(row["expires"], zone) if row["expires"] else say("never")),
            cell(say("expired"), "mute") if row["expired"] else cell(say("active")),
        ]
        for row in report["holds"]
    ]
    return [Table([Column(say(head), wide=head == "reason") for head in heads], rows)]


def evidence(report: dict[str, Any], say: Words, zone: str) -> list[Block]:
    if not report["evidence"]:
        return [Paragraph(say("no_evidence"))]
    rows = [
        [
            cell(say(f"kind_{row['kind']}")),
            cell(row["of"][:8], mono=True),
            cell(row["repository"]),
            cell(instant(row["at"], zone)),
            cell(row["sha256"], mono=True),
        ]
        for row in report["evidence"]
    ]
    return [
        Table(
            [Column(say(head), wide=head == "record") for head in ("kind", "of", "repository", "date", "record")], rows
        )
    ]
