"""What the repositories tell of checks and drills, taken into the catalog: so that every machine knows what any of them did."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from backupctl.catalog.models import Check, Drill, DrillCheck, Hold
from backupctl.clock import parse_iso
from backupctl.drills.model import DrillResult
from backupctl.errors import DamageError, UserError
from backupctl.operations.context import Context
from backupctl.operations.records import load_json
from backupctl.repository.repository import Repository
from backupctl.sources.protocol import CheckResult

AT_ONCE = 8  # small objects far away: the time is all waiting

DrillFacts = tuple[Drill, list[DrillCheck]]


def learn(context: Context, repositories: Iterable[str]) -> list[str]:
    """Take over what the catalog does not know yet; each record is read once in a catalog's life. What cannot be read is
    told, one line each, and tried again the next time. A repository that cannot be opened is passed over: whoever asks for
    its snapshots says so."""
    catalog, problems = context.catalog, []
    known = {row.record for row in catalog.checks()} | {row.record for row in catalog.drills()}
    for name in repositories:
        try:
            repository = context.resources.repository(name)
            new = [(kind, one) for kind in ("check", "drill") for one in repository.records(kind) if one not in known]
        except UserError:
            continue
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = pool.map(lambda what, at=repository: _tried(at, *what), new)
            for (kind, record), answer in zip(new, found, strict=True):
                if isinstance(answer, str):
                    problems.append(f"{name}: backupctl/{kind}/{record}: {answer}")
                elif isinstance(answer, Check):
                    answer.repository = name  # other machines may call it otherwise
                    catalog.add_check(answer)
                else:
                    drill, checks = answer
                    drill.repository = name
                    catalog.add_drill(drill, checks)
    return problems


def _tried(repository: Repository, kind: str, record: str) -> Check | DrillFacts | str:
    try:
        return check_of(repository, record) if kind == "check" else drill_of(repository, record)
    except UserError as error:
        return error.message


def check_of(repository: Repository, record: str) -> Check:
    """Raises NoSuchError, and DamageError for what is no check of ours."""
    facts = load_json(repository, "check", record)
    try:
        return check_row(facts, record)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DamageError(f"this is no check record: {str(error)[:200]}", name=f"backupctl/check/{record}") from None


def drill_of(repository: Repository, record: str) -> DrillFacts:
    """Raises NoSuchError, DamageError."""
    result = DrillResult.from_record(load_json(repository, "drill", record))
    return drill_row(result, record), check_rows(result.id, result.checks)


def check_row(facts: dict[str, Any], record_id: str) -> Check:
    del facts["schema"]
    words = [facts[key] for key in ("id", "repository", "mode", "verdict")]
    counts = [facts[key] for key in ("snapshots", "packs", "pack_bytes", "bytes_read")]
    if not all(isinstance(one, str) for one in words) or not all(type(one) is int for one in counts):
        raise ValueError("a field is of another type than we write")
    facts |= {"started": parse_iso(facts["started"]), "finished": parse_iso(facts["finished"]), "record": record_id}
    return Check(**facts)


def hold_row(name: str, facts: dict[str, Any], record_id: str) -> Hold:
    return Hold(
        id=record_id,
        repository=name,
        snapshot=facts["snapshot"],
        reason=facts["reason"],
        owner=facts["owner"],
        created=parse_iso(facts["created"]),
        expires=parse_iso(facts["expires"]) if facts["expires"] else None,
    )


def drill_row(result: DrillResult, record: str) -> Drill:
    return Drill(
        id=result.id,
        job=result.job,
        drill=result.name,
        scenario=result.scenario,
        host=result.host,
        repository=result.repository,
        snapshot=result.snapshot,
        snapshot_time=result.snapshot_time,
        declared=result.declared,
        finished=result.finished,
        verdict=result.verdict,
        level=result.level,
        rto_seconds=result.rto_seconds,
        rpo_seconds=result.rpo_seconds,
        rto_objective=result.objectives.rto,
        rpo_objective=result.objectives.rpo,
        restored_bytes=result.restored_bytes,
        phases=[{"name": phase.name, "seconds": phase.seconds} for phase in result.phases],
        reasons=list(result.reasons),
        cleanup={"proved": result.cleanup.proved, "facts": list(result.cleanup.facts)},
        facts={
            "measures": result.measures.to_json(),
            "interlocks": list(result.interlocks),
            "draw": result.draw,
            "control": result.control,
        },
        record=record,
    )


def check_rows(drill: str, checks: list[CheckResult]) -> list[DrillCheck]:
    return [
        DrillCheck(
            drill=drill,
            number=number,
            name=check.name,
            expected=check.expected,
            actual=check.actual,
            ok=check.ok,
            level=check.level,
            seconds=check.seconds,
            detail=check.detail,
            evidence=check.evidence,
        )
        for number, check in enumerate(checks, 1)
    ]
