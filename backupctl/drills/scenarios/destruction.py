"""What the two sides of the scenario `destructive-statement` have in common: what is staged, and the judge."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backupctl.drills.scenario import Rehearsal
from backupctl.repository.repository import Repository
from backupctl.sources.protocol import CheckResult
from backupctl.storage.memory import MemoryStore

SCRYPT_N = 1 << 10  # of a repository that lives for minutes, in memory
FEWEST, MOST = 5, 40  # numbered rows before and after the statement
FIND = "find the statement"


@dataclass(frozen=True, slots=True)
class Truth:
    """What really happened, for the judge alone."""

    statement: str
    transaction: str
    beats: int  # numbered rows that were committed before it
    content: Any  # of the table, just before


@dataclass(frozen=True, slots=True)
class Found:
    """A loss, as the search tells of it. `at`: when and where."""

    transaction: str
    words: str
    at: str


@dataclass(frozen=True, slots=True)
class Draw:
    statement: str
    before: int
    after: int


def draw(stage: Rehearsal, statements: Sequence[str]) -> Draw:
    chance = stage.chance()
    return Draw(chance.choice(sorted(statements)), chance.randint(FEWEST, MOST), chance.randint(FEWEST, MOST))


def own_repository(stage: Rehearsal) -> Repository:
    """Where the log of the drill's server is archived."""
    return Repository.create(MemoryStore(), os.urandom(16).hex(), clock=stage.deadline.clock, scrypt_n=SCRYPT_N)


def own_database(stage: Rehearsal) -> str:
    return f"backupctl_{stage.request.id[:8]}"


def judge_search(source: str, found: Sequence[Found], truth: Truth) -> CheckResult:
    expected = f"one loss, in transaction {truth.transaction} ({truth.statement})"
    told = "; ".join(f"in transaction {one.transaction} {one.words}" for one in found) or "nothing"
    ok = [one.transaction for one in found] == [truth.transaction]
    detail = found[0].at if found else ""
    return CheckResult(f"{source}: the statement is found in the log", expected, told, ok, 3, detail=detail)


def judge_rows(
    source: str, beats: Sequence[int], content: Any, names: Sequence[str], truth: Truth
) -> list[CheckResult]:
    """`beats`: how many, first, last; `names`: of what the search says that was hit."""
    wanted = [truth.beats, 1, truth.beats]
    return [
        CheckResult(
            f"{source}: what was committed before it", f"rows {wanted}", f"rows {beats}", list(beats) == wanted, 4,
            detail="numbered rows: how many, first, last",
        ),
        CheckResult(f"{source}: what it took is there", str(truth.content), str(content), content == truth.content, 4),
        CheckResult(f"{source}: the name of what it took", "goods", ", ".join(names), "goods" in names, 3),
    ]  # fmt: skip


def recovered(source: str, note: str) -> CheckResult:
    return CheckResult(f"{source}: recovery to just before it", "no error", "no error", True, 3, detail=note)
