"""Read a repository and say whether it is whole. The verdict is the exit code: pass 0, fail 4; could not read it at all: 5."""

from __future__ import annotations

import re
from typing import Any

from backupctl.catalog.models import Check, Run
from backupctl.errors import CouldNotRunError, NoSuchError, UserError
from backupctl.operations.context import Context
from backupctl.operations.execute import Outcome
from backupctl.operations.records import save_json
from backupctl.repository.check import check

_PACK = re.compile(r"data/[0-9a-f]{2}/[0-9a-f]{64}")


def run_check(context: Context, run: Run) -> Outcome:
    """`run.options`: {"read_data": bool}. Records the check in the catalog and, sealed, in the repository."""
    name = run.name
    if name not in context.settings.repositories:
        known = ", ".join(sorted(context.settings.repositories)) or "none"
        raise NoSuchError(f"no repository named {name!r}; known: {known}", next_step="backupctl config show")
    read_data = bool(run.options.get("read_data"))
    started = context.clock.now()
    repository = context.resources.repository(name)

    def progress(done: int, total: int) -> None:
        context.reporter.progress("checking", done, total)

    with repository.lock(exclusive=False):
        report = check(repository, read_data=read_data, progress=progress)
        pack_bytes = sum(one.size for one in repository.store.list("data/"))
    problems: list[dict[str, Any]] = [
        {"object": one.object_name, "message": one.message, "snapshots": list(one.snapshots)} for one in report.problems
    ]
    verdict = "fail" if problems else "pass"
    if not problems and report.snapshots == 0:
        # an empty repository proves nothing
        raise CouldNotRunError(
            f"repository {name} holds no snapshot: there is nothing to check", next_step="backupctl run"
        )
    for problem in problems:
        hit = f" (hits snapshots {', '.join(one[:8] for one in problem['snapshots'])})" if problem["snapshots"] else ""
        named = "" if problem["object"] in problem["message"] else f"{problem['object']}: "
        facts = {"object": problem["object"], "problem": problem["message"], "snapshots": problem["snapshots"]}
        context.reporter.event("problem", f"{named}{problem['message']}{hit}", verdict=verdict, **facts)
    for hint in report.hints:
        context.reporter.event("hint", hint)
    finished = context.clock.now()
    row = Check(
        id=run.id,
        repository=name,
        mode="read-data" if read_data else "structure",
        started=started,
        finished=finished,
        verdict=verdict,
        snapshots=report.snapshots,
        packs=report.packs,
        pack_bytes=pack_bytes,
        bytes_read=report.bytes_read,
        problems=problems,
    )
    facts = {column.name: getattr(row, column.name) for column in Check.__table__.columns if column.name != "record"}
    facts |= {"started": started.isoformat(), "finished": finished.isoformat()}
    try:
        row.record = save_json(repository, "check", facts)
    except UserError as error:
        # a store that can be read and not written changes nothing in what was found
        context.reporter.event("warning", f"the check's record could not be stored beside the data: {error}")
    context.catalog.add_check(row)
    return Outcome(
        state="complete",
        exit_code=4 if problems else 0,
        verdict=verdict,
        message=f"{len(problems)} problem(s)" if problems else "",
        repository=name,
        summary={
            "mode": row.mode,
            "snapshots": report.snapshots,
            "packs": report.packs,
            "bytes_read": report.bytes_read,
            "problems": len(problems),
        },
    )


def bad_packs(context: Context, repository: str) -> set[bytes]:
    """The packs that the last check of every byte, or a check since then, found damaged."""
    found: set[bytes] = set()
    for check_row in context.catalog.checks(repository=repository, limit=100):
        names = [str(problem["object"]) for problem in check_row.problems]
        found.update(bytes.fromhex(name.rpartition("/")[2]) for name in names if _PACK.fullmatch(name))
        if check_row.mode == "read-data":
            break
    return found
