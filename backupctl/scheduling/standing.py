"""Where everything stands: jobs, repositories, what was never started, what nobody protects, in one judgement that each face
shows in its own way, and one exit code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from backupctl.catalog.models import Pause, Scheduler
from backupctl.clock import iso
from backupctl.config.models import Job
from backupctl.errors import IncompleteError, StaleError, UnreachableError, VerdictError
from backupctl.operations.context import Context
from backupctl.operations.coverage import Coverage, look_around
from backupctl.operations.learn import learn
from backupctl.operations.repository_status import RepositoryStatus, repositories_of
from backupctl.operations.status import CopyStatus, DrillStatus, JobStatus, status
from backupctl.scheduling.sweep import Lapse, first_start, sweep

if TYPE_CHECKING:
    from backupctl.operations.standby_status import StandbyStatus


@dataclass(slots=True)
class Standing:
    """`judged` is when; `missed` and `warnings` are (subject, sentence) for people, the first of them objectives."""

    judged: datetime
    jobs: list[JobStatus]
    repositories: list[RepositoryStatus]
    lapses: list[Lapse] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)
    refused: list[Scheduler] = field(default_factory=list)
    standbys: list[StandbyStatus] = field(default_factory=list)
    coverage: Coverage | None = None  # None: nobody looked
    unreadable: list[str] = field(default_factory=list)  # records that tell nothing

    @property
    def copies(self) -> list[CopyStatus]:
        return [copy for job in self.jobs for copy in job.copies]

    @property
    def places(self) -> list[JobStatus | CopyStatus]:
        """Every job in its repository, then every copy."""
        return [*self.jobs, *self.copies]

    @property
    def drills(self) -> list[DrillStatus]:
        return [drill for job in self.jobs for drill in job.drills]

    @property
    def code(self) -> int:
        """4 when the last check or drill of something says that it is bad, else 6 when an objective is missed, else 14 when
        something could not be asked, else 3 when nobody has looked at a suspicious snapshot, else 0."""
        if next(self.bad(), None) is not None:
            return VerdictError.exit_code
        if next(self.missed(), None) is not None:
            return StaleError.exit_code
        if next(self.unknown(), None) is not None:
            return UnreachableError.exit_code
        return IncompleteError.exit_code if next(self.suspicious(), None) is not None else 0

    def bad(self) -> Iterator[str]:
        for one in self.repositories:
            if one.verdict == "fail":
                yield f"{one.repository}: the last check says fail"
        for job in self.jobs:
            failed = [drill.drill for drill in job.drills if drill.verdict == "fail"]
            if failed or job.last_drill == "fail":
                yield f"{job.job}: the last drill{' ' + ', '.join(failed) if failed else ''} says fail"

    def missed(self) -> Iterator[str]:
        """Every objective that is missed, in a few words."""
        for one in self.places:
            if one.state == "stale":
                where = f"{one.job}: {one.repository}" if isinstance(one, CopyStatus) else one.job
                yield f"{where}: " + ("no complete snapshot" if one.newest is None else "older than its RPO")
        for drill in self.drills:
            yield from (f"{drill.job}/{drill.drill}: {one}" for one in drill.missed)
        for repository in self.repositories:
            if repository.unread:
                yield f"{repository.repository}: not read back in time"
            if repository.unlocked:
                yield f"{repository.repository}: not locked"
        yield from filter(None, (one.missed for one in self.standbys))
        yield from (f"{one.kind} {one.name}: {one.what}" for one in self.lapses if one.grave)
        if self.coverage is not None:
            yield from (f"{one.host}: {one.kind} {one.name} unprotected" for one in self.coverage.unprotected)

    def suspicious(self) -> Iterator[str]:
        """What nobody has looked at yet; who acknowledges it deals with it."""
        for job in self.jobs:
            if job.suspicious:
                yield f"{job.job}: {job.suspicious} suspicious snapshot(s) that nobody has looked at"

    def unknown(self) -> Iterator[str]:
        """What could not be asked."""
        for one in self.places:
            if one.state == "unreachable":
                yield f"{one.job}: {one.repository} unreachable"
        if self.coverage is not None:
            yield from (f"{host}: {why}" for host, why in self.coverage.unknown)

    def notes(self) -> Iterator[tuple[str, str]]:
        """(subject, sentence) of everything that somebody should look at, beyond lapses and pauses."""
        for job in self.jobs:
            yield from ((job.job, note) for note in job.notes)
        for copy in self.copies:
            yield from ((copy.repository, note) for note in copy.notes)
        for one in self.repositories:
            yield from ((one.repository, note) for note in one.notes)
        for standby in self.standbys:
            yield from ((f"standby {standby.standby}", f"{standby.job}: {note}") for note in standby.notes)
        for record in self.unreadable:
            name, _, rest = record.partition(": ")
            yield name, rest


def standing(
    context: Context, jobs: list[Job], *, everything: bool = True, ask: bool = True, around: bool = False
) -> Standing:
    """`everything`: these jobs are all there are, so that what belongs to no job counts too. Without `ask`, by the catalog
    alone: no repository is read, no key is needed, and locks and holds are as the catalog remembers them. With `around`, the
    hosts are asked what nobody protects."""
    names = list(dict.fromkeys(name for job in jobs for name in (job.repository, *job.copies)))
    unreadable = learn(context, names) if ask else []
    found = status(context, jobs, ask=ask)
    newest: dict[str, list[str]] = {}
    places: list[JobStatus | CopyStatus] = [*found, *(copy for job in found for copy in job.copies)]
    for one in places:
        if one.newest_id:
            newest.setdefault(one.repository, []).append(one.newest_id)
    checks = repositories_of(context, jobs, newest=newest, ask=ask)
    now = context.clock.now()
    chosen = {job.job for job in jobs}
    pauses = [one for one in context.catalog.pauses(at=now) if one.job in ("", *chosen)]
    lapses = sweep(context.settings, context.catalog, now, {one.job: one.newest_any for one in found})
    told = {one.name for one in lapses if one.kind == "backup"} | {one.job for one in pauses}
    for one in found:
        if one.state == "stale" and one.newest_any is None and not one.last_run and not {"", one.job} & told:
            one.notes.append(first_start(context.settings, one.job, now))
    return Standing(
        judged=now,
        jobs=found,
        repositories=checks,
        lapses=[
            one for one in lapses if everything or one.job in chosen or (one.kind == "check" and one.name in names)
        ],
        pauses=pauses,
        refused=[one for one in context.catalog.schedulers() if one.refused],
        standbys=_standbys(context, ask, chosen),
        coverage=look_around(context) if around else None,
        unreadable=unreadable,
    )


def _standbys(context: Context, ask: bool, chosen: set[str]) -> list[StandbyStatus]:
    if not context.settings.standby:
        return []
    from backupctl.operations.standby_status import standbys  # brings every kind of server

    return [one for one in standbys(context, ask=ask) if one.job.partition("/")[0] in chosen]


def nagios(found: Standing) -> tuple[int, str]:
    """As monitoring plugins answer: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, and one line with numbers behind `|`."""
    critical = [*found.bad(), *found.suspicious(), *found.missed()]
    unknown = list(found.unknown())
    warnings = [f"{subject}: {note}" for subject, note in found.notes()]
    warnings += [f"{one.kind} {one.name}: {one.what}" for one in found.lapses if not one.grave]
    warnings += [f"{one.job or 'everything'}: paused until {iso(one.until)}" for one in found.pauses]
    code = 2 if critical else 3 if unknown else 1 if warnings else 0
    word = ("OK", "WARNING", "CRITICAL", "UNKNOWN")[code]
    told = critical or unknown or warnings
    fresh = sum(one.state == "ok" for one in found.jobs)
    text = "; ".join(told[:5]) + (f"; and {len(told) - 5} more" if told[5:] else "")
    text = text or f"{fresh} of {len(found.jobs)} jobs fresh and proven"
    numbers = [
        f"'{_plain(one.job)}_age'={round(one.age_seconds)}s;;{round(one.rpo_seconds)};0"
        for one in found.jobs
        if one.age_seconds is not None
    ]
    numbers += [
        f"'stale'={len(found.jobs) - fresh};;0;0;{len(found.jobs)}",
        f"'missed'={len(list(found.missed()))};;0;0",
    ]
    return code, f"BACKUPCTL {word} - {_plain(text)} | {' '.join(numbers)}"


def _plain(text: str) -> str:
    """One line, and nothing that would be taken for the numbers."""
    return " ".join(text.split()).replace("|", "/").replace("'", "’")
