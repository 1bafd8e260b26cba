"""Somebody ran a destructive statement on a database server, nobody knows when: the drill finds it in the log, and goes back to
just before it.

Production is never touched. The backup is brought to life in the sandbox, somebody writes numbered rows into a database of the
drill's own there, and at a moment that is drawn a statement that is drawn takes a table away. Then that server is gone, and what is
left is what a real disaster leaves: the backup and the log. The search is told nothing; what happened is known only to the judge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backupctl.clock import parse_iso
from backupctl.drills.scenario import Rehearsal
from backupctl.drills.scenarios import destructive_mariadb, destructive_postgresql
from backupctl.drills.scenarios.protocol import Record, Scenario
from backupctl.drills.verdict import SourceOutcome
from backupctl.errors import CouldNotRunError
from backupctl.repository.reader import SnapshotReader
from backupctl.sources.mariadb import MariadbSource
from backupctl.sources.postgresql import PostgresqlSource
from backupctl.sources.protocol import Fingerprint, Source

Rehearse = Callable[[Rehearsal, SourceOutcome, Fingerprint, SnapshotReader], None]


def rehearsal_of(source: Source | None, facts: Fingerprint) -> Rehearse | None:
    """How it is done for a source as it was backed up; None where a log does not lead on from that."""
    method = facts.get("method")
    if isinstance(source, PostgresqlSource) and method == "physical":
        return destructive_postgresql.rehearse
    if (
        isinstance(source, MariadbSource)
        and source.kind == "mariadb"
        and method != "binlog"
        and source.holds_all(facts)
    ):
        return destructive_mariadb.rehearse
    return None


def run(stage: Rehearsal, reader: SnapshotReader, record: Record) -> None:
    held: dict[str, Any] = {name: facts["fingerprint"] for name, facts in record["sources"].items()}
    fitting = {
        name: rehearse
        for name in sorted(held)
        if (rehearse := rehearsal_of(stage.request.sources.get(name), held[name])) is not None
    }
    if not fitting:
        raise CouldNotRunError(
            "the snapshot holds no physical backup of PostgreSQL, nor one of a whole MariaDB server",
            next_step="choose the scenario `full` for this job",
        )
    name = stage.chance().choice([*fitting])
    outcome = SourceOutcome(name, data_time=parse_iso(record["sources"][name]["data_time"]))
    stage.outcomes.append(outcome)
    fitting[name](stage, outcome, held[name], reader)
    if outcome.level == 3:
        stage.probe(record)


SCENARIO = Scenario(
    name="destructive-statement",
    proves="a destructive statement is found in the database's log without being told when it was, and undone to just before it",
    steps=(
        "bring the backup to life in the sandbox, write numbered rows there, and some things that only look like a loss",
        "run a statement that is drawn, at a moment that is drawn: DROP TABLE, TRUNCATE, DELETE or UPDATE of all rows; write on",
        "lose that server; of what it did only its log is left",
        "find the transaction in the log",
        "restore the backup, and follow the log to what stands before it",
    ),
    criteria=(
        "that transaction is found, and no other is taken for a loss",
        "the log leads to just before it; PostgreSQL's server says that it stopped there",
        "every numbered row that was committed before is there and none that came after, and the table is whole",
        "every table of the source equals what the snapshot says",
    ),
    needs=(
        "a PostgreSQL source with `method: physical`, or a MariaDB source with `method: physical` or `databases: all`",
    ),
    run=run,
)
