"""What a run or a drill says about every kind of damage to every kind of source. Declared once, in `rows/`; held true by the
`test_*.py` beside this file; a table for people in `docs/reference/database-damage.md`.

python -m tests.damage.matrix > docs/reference/database-damage.md

To add a kind: a module in `rows` with `ROWS`, and a test module that plants each of its damages.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Literal

from tests.damage import rows

VERDICTS = {
    "run": ("incomplete", "failed"),
    "drill": ("fail", "inconclusive", "stale"),
    "check": ("fail", "failed"),
    "check --read-data": ("fail",),
    "status": ("stale",),
    "wal-push": ("refused", "stored"),
    "binlog receive": ("refused",),
}
"""Of each command that may have to tell a damage."""


@dataclass(frozen=True)
class Case:
    """One planted damage. `told_by` is the first command that has to tell it; a drill follows a run that saw nothing wrong.
    `verdict`: the run's or status's state, or the verdict of a drill or check. `level`: the proof level that the drill reached.
    `names`: what its words must hold. `together`: it can be planted with others of its kind for one drill, which has to name each
    of them; with BACKUPCTL_SOAK=1 it is planted alone as well. `in_a_soak`: it is planted only then, because another kind's row of
    that name runs the same code."""

    damage: str
    told_by: Literal["run", "drill", "check", "check --read-data", "status", "wal-push", "binlog receive"]
    verdict: Literal["incomplete", "failed", "fail", "inconclusive", "stale", "refused", "stored"]
    code: int
    names: str
    level: int | None = None
    together: bool = False
    also: tuple[str, ...] = ()  # what else is rightly said of it
    in_a_soak: bool = False

    def __post_init__(self) -> None:
        assert self.verdict in VERDICTS[self.told_by] and (self.level is not None) == (self.told_by == "drill"), self

    @property
    def all_names(self) -> tuple[str, ...]:
        return (self.names, *self.also)


def failed(damage: str, names: str, *, code: int = 1) -> Case:
    """The run tells it, and stores nothing of that source."""
    return Case(damage, "run", "failed", code, names)


def incomplete(damage: str, names: str) -> Case:
    """The run tells it, and keeps what it could read."""
    return Case(damage, "run", "incomplete", 3, names)


def differs(damage: str, names: str, *, level: int = 3, together: bool = True, also: tuple[str, ...] = ()) -> Case:
    """The restored copy is not what the source held."""
    return Case(damage, "drill", "fail", 4, names, level, together, also)


def untried(damage: str, names: str) -> Case:
    """The staging host cannot try."""
    return Case(damage, "drill", "inconclusive", 5, names, 0)


def found(damage: str, *names: str) -> Case:
    """`check` finds it by the structure alone."""
    return Case(damage, "check", "fail", 4, names[0], also=names[1:])


def read(damage: str, *names: str) -> Case:
    """`check --read-data` finds it, and `check` cannot."""
    return Case(damage, "check --read-data", "fail", 4, names[0], also=names[1:])


def refused(damage: str, told_by: Literal["wal-push", "binlog receive"], names: str) -> Case:
    """Nothing is stored."""
    return Case(damage, told_by, "refused", 1, names)


def in_a_soak(case: Case) -> Case:
    return replace(case, in_a_soak=True)


WRONG_KEY = failed("wrong key", "repository", code=12)
FULL_DISK = untried("full disk on staging", "4096 free")
NO_START = untried("server that will not start", "disk is on strike")
STALE = Case("stale backup", "drill", "stale", 6, "nothing recent to test", 4)


@dataclass(frozen=True)
class Rows:
    """One kind of source: its damages, and in how many healthy rounds in every test run nothing may be told."""

    source: str
    cases: Sequence[Case]
    healthy_rounds: int = 1


def all_rows() -> list[Rows]:
    modules = sorted(one.name for one in pkgutil.iter_modules(rows.__path__))
    return [import_module(f"{rows.__name__}.{module}").ROWS for module in modules]


HEALTHY_ROUNDS_OF_A_SOAK = 50

NOTES = f"""\
Each row is tested: the damage is planted, the command runs, and its verdict, proof level, exit code and the object that it names
are compared with the row. A row of which anything is otherwise fails the build, so every row that stands here is told. Those marked
"together" are planted at once for one drill, which has to name each of them and nothing besides; with `BACKUPCTL_SOAK=1` each is
planted alone, too. Those marked "in a soak" run the code of another kind's row of the same name, and are planted with
`BACKUPCTL_SOAK=1` only.

- **run**: the damage happened while the backup was made. What could be read is kept as `incomplete` (exit code 3), or nothing was
  (`failed`, 1). Neither counts as a backup.
- **drill**: the run could see nothing wrong: a program lied with exit status 0, or the damage came later. The restored copy is not
  what the source held (`fail`, 4), the staging host could not try (`inconclusive`, 5), or there was nothing recent to try
  (`stale`, 6).
- **check**, **check --read-data**: an archived log is read in no run and only in some drills, so the check of the repository has
  to tell (`fail`, 4): by the structure, or, where only the content says it, by reading every byte. A row of the second kind is
  one that the structure does not tell.
- **wal-push**, **binlog receive**: what comes to the archive is another file than it must be, and is not stored (1). A segment
  with a broken record is `stored` (0), since a server that cannot archive stops; it is marked, and told by `status` and `check`.
- **status**: nothing comes any more, and what is there is older than the RPO (`stale`, 6).

A healthy source that is written to all the time is backed up, and that backup drilled, its log archived and checked: as often as
the table says in every test run, {HEALTHY_ROUNDS_OF_A_SOAK} times with `BACKUPCTL_SOAK=1`. Any verdict but `pass` is a false alarm
and fails it.
"""


def markdown() -> str:
    lines = ["# Damage to databases", "", "<!-- written by tests/damage/matrix.py -->", "", NOTES]
    lines += [
        "| source | damages planted | reported | missed | healthy rounds in every test run | false alarms |",
        "|---|---|---|---|---|---|",
    ]
    for one in all_rows():
        lines.append(f"| {one.source} | {len(one.cases)} | {len(one.cases)} | 0 | {one.healthy_rounds} | 0 |")
    for one in all_rows():
        lines += [
            "",
            f"## {one.source}",
            "",
            "| damage | told by | verdict | level | exit code | names |",
            "|---|---|---|---|---|---|",
        ]
        for case in one.cases:
            level = "" if case.level is None else f"L{case.level}"
            told_by = case.told_by + ", together" * case.together + ", in a soak" * case.in_a_soak
            facts = f"{told_by} | {case.verdict} | {level} | {case.code}"
            lines.append(f"| {case.damage} | {facts} | `{case.names}` |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
