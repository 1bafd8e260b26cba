"""From what a drill saw to what it may say. Pure.

`pass` needs every planned source restored, every check ok and a content check for every source that held anything; a
drill that compared nothing never passes. `fail` says the backup is bad and outranks everything. `inconclusive` says
nothing about the backup. `stale`: content is good, or absent, but nothing recent enough exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from backupctl.clock import iso
from backupctl.drills.model import ObjectiveSeconds, Verdict
from backupctl.errors import (
    CouldNotRunError,
    DamageError,
    Denied,
    Full,
    LockedError,
    NoSuchError,
    SourceError,
    StorageError,
    Transient,
    UnreachableError,
    UserError,
    WrongKeyError,
)
from backupctl.sources.protocol import CheckResult

SHOWN_REASONS = 20
NO_OBJECTIVES = ObjectiveSeconds()
EXIT_CODES: dict[Verdict, int] = {"pass": 0, "fail": 4, "inconclusive": 5, "stale": 6, "skipped": 75}

_STAGING = (CouldNotRunError, UnreachableError, Denied, Full, Transient, LockedError, WrongKeyError)
_BACKUP = (DamageError, StorageError, NoSuchError, SourceError)


def exit_code(verdict: Verdict) -> int:
    return EXIT_CODES[verdict]


def blames_backup(error: UserError | OSError, *, native: bool) -> bool:
    """Whether `error` says that the backup is bad, rather than that the drill could not run. `native`: it came out of
    the native restore or the comparison, where an error that names no other cause speaks about what was restored."""
    if isinstance(error, _STAGING):
        return False
    if isinstance(error, _BACKUP):
        return True
    return native and isinstance(error, UserError)


def explain(error: UserError | OSError) -> str:
    """The error in one line, with the next step."""
    if isinstance(error, UserError) and error.next_step:
        return f"{error.message}; next: {error.next_step}"
    return str(error)


@dataclass(slots=True)
class SourceOutcome:
    """What became of one planned source. `held`: the source held something at backup time. `level`: reached by what
    was seen to succeed, checks aside. `bad` and `trouble`: why it failed, why it could not be tried."""

    name: str
    held: bool = True
    level: int = 0
    data_time: datetime | None = None
    checks: list[CheckResult] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    @property
    def reached(self) -> int:
        """Highest proof level reached without a gap: 4 needs a content check, and all of them ok."""
        content = [check for check in self.checks if check.level == 4]
        failed = min((check.level for check in self.checks if not check.ok), default=9)
        level = self.level
        if level == 3 and not self.bad and not self.trouble and (content or not self.held):
            level = 4
        return max(min(level, failed - 1), 0)


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    level: int
    reasons: list[str]


def judge(
    outcomes: Sequence[SourceOutcome],
    *,
    probes_planned: int = 0,
    probes: Sequence[CheckResult] = (),
    bad: Iterable[str] = (),
    trouble: Iterable[str] = (),
    age: timedelta | None = None,
    objectives: ObjectiveSeconds = NO_OBJECTIVES,
    rto_seconds: float | None = None,
    rpo_seconds: float | None = None,
) -> Judgement:
    """`bad`, `trouble`: what went wrong outside any source. `age`: of the newest complete snapshot at the disaster.
    Times count only for a recovery that succeeded."""
    bad = [*bad, *(f"{one.name}: {text}" for one in outcomes for text in one.bad)]
    bad += [_difference(check) for one in outcomes for check in one.checks if not check.ok]
    bad += [_difference(check) for check in probes if not check.ok]
    doubts = [*trouble, *(f"{one.name}: {text}" for one in outcomes for text in one.trouble)]
    for one in outcomes:
        failed = one.bad or one.trouble or not all(check.ok for check in one.checks)
        if one.held and not failed and not any(check.level == 4 for check in one.checks):
            doubts.append(f"{one.name}: nothing was compared with what the source held")
    content = [check for one in outcomes for check in one.checks if check.level >= 4]
    if not content and not bad and not doubts:
        doubts.append("nothing was checked, so nothing was proven")
    if len(probes) < probes_planned and not bad and not doubts:
        doubts.append(f"{probes_planned - len(probes)} of {probes_planned} probes did not run")

    level = min((one.reached for one in outcomes), default=0)
    if level == 4 and probes and len(probes) >= probes_planned and all(one.ok and one.performed for one in probes):
        level = 5
    if bad:
        return Judgement("fail", level, [*_first(bad), *_first(doubts)])
    if doubts:
        return Judgement("inconclusive", level, _first(doubts))
    missed = [f"{check.name}: {check.actual}" for check in probes if not check.performed]
    missed += _missed(objectives, rto_seconds, rpo_seconds)
    if age is not None and objectives.rpo is not None and age.total_seconds() > objectives.rpo:
        old = f"nothing recent to test: the newest complete snapshot was {_span(age.total_seconds())} old"
        return Judgement("stale", level, [f"{old}, the objective is {_span(objectives.rpo)}", *missed])
    return Judgement("pass", level, missed)


def nothing_to_test(disaster: datetime) -> Judgement:
    return Judgement("stale", 0, [f"no complete snapshot exists from before {iso(disaster)}: nothing to test"])


def _difference(check: CheckResult) -> str:
    text = f"{check.name}: expected {check.expected}, found {check.actual}"
    return f"{text} ({check.detail})" if check.detail else text


def _first(texts: list[str]) -> list[str]:
    more = len(texts) - SHOWN_REASONS
    return texts if more <= 0 else [*texts[:SHOWN_REASONS], f"and {more} more"]


def _missed(objectives: ObjectiveSeconds, rto: float | None, rpo: float | None) -> list[str]:
    missed = []
    if objectives.rto is not None and rto is not None and rto > objectives.rto:
        missed.append(f"objective missed: recovery took {_span(rto)}, the RTO is {_span(objectives.rto)}")
    if objectives.rpo is not None and rpo is not None and rpo > objectives.rpo:
        missed.append(
            f"objective missed: the newest {_span(rpo)} of changes are lost, the RPO is {_span(objectives.rpo)}"
        )
    return missed


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return str(timedelta(seconds=round(seconds)))
