"""A destructive statement on MariaDB, found in its binary logs. See `destructive_statement`.

The server that will be lost writes a binary log that goes on where the backup ends: its first one begins after the transactions of
the last that a physical backup brings along. So the way back is the one that `restore --at FILE:POSITION` goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from typing import Any, cast

from backupctl.clock import iso
from backupctl.drills import stopwatch as phases
from backupctl.drills.interlocks import refuse_server
from backupctl.drills.scenario import Rehearsal
from backupctl.drills.scenarios.destruction import (
    FIND,
    Found,
    Truth,
    draw,
    judge_rows,
    judge_search,
    own_database,
    own_repository,
    recovered,
)
from backupctl.drills.verdict import SourceOutcome
from backupctl.errors import NoSuchError
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.reader import SnapshotReader
from backupctl.sources.binlog_archive import Piece, archive_of, stored_logs_of
from backupctl.sources.binlog_format import MAGIC, BinlogReader
from backupctl.sources.binlog_losses import BinlogLoss, BinlogSearch, search_logs
from backupctl.sources.mariadb import MariadbSource
from backupctl.sources.mariadb_binlog import Position, facts_of, list_logs, read_whole
from backupctl.sources.mariadb_client import MariadbClient
from backupctl.sources.mariadb_instance import client_of
from backupctl.sources.mariadb_recovery import logs_from
from backupctl.sources.postgresql_load import read_all
from backupctl.sources.protocol import CheckResult, Fingerprint, Instance, StoredLogs

STATEMENTS = {
    "DROP TABLE": "DROP TABLE goods;",
    "DROP DATABASE": "DROP DATABASE {goods};",
    "TRUNCATE": "TRUNCATE TABLE goods;",
    "DELETE without WHERE": "DELETE FROM goods;",
    "UPDATE of all rows": "UPDATE goods SET note = '';",
}
PREPARED = """
CREATE DATABASE {beats}; CREATE DATABASE {goods};
CREATE TABLE {beats}.beats (number INT PRIMARY KEY, at TIMESTAMP(6) NOT NULL DEFAULT NOW(6)) ENGINE=InnoDB;
USE {goods};
CREATE TABLE goods (id INT PRIMARY KEY, note VARCHAR(60)) ENGINE=InnoDB;
INSERT INTO goods SELECT seq, MD5(seq) FROM seq_1_to_2500;
ALTER TABLE goods FORCE;
CREATE TEMPORARY TABLE scratch AS SELECT * FROM goods; DROP TEMPORARY TABLE scratch;
BEGIN; DELETE FROM goods; ROLLBACK;
DELETE FROM goods WHERE id <= 100;
UPDATE goods SET note = 'DROP TABLE goods; DELETE FROM goods' WHERE id % 5 = 0;
"""
"""With all that looks like a loss and is none."""
CONTENT = "SELECT COUNT(*), MD5(GROUP_CONCAT(id, ' ', note ORDER BY id)) FROM {goods}.goods;"


def rehearse(stage: Rehearsal, outcome: SourceOutcome, facts: Fingerprint, reader: SnapshotReader) -> None:
    name, physical = outcome.name, facts.get("method") == "physical"
    source = cast(MariadbSource, stage.request.sources[name])
    # sorts behind the source's own logs
    log_bin = f"{facts['base'][0].rpartition('.')[0]}-drill" if physical else "drill"
    first = Position(f"{log_bin}.000001", len(MAGIC))
    begin = {**facts, "server_uid": facts.get("server_uid") or log_bin}
    begin |= {} if physical else {"binary_log": [first.file, first.offset]}
    repository = own_repository(stage)
    archive = archive_of(repository, begin["server_uid"])

    def stored() -> StoredLogs:
        yield from stored_logs_of(repository, begin["server_uid"])
        yield begin, reader.files(name)

    truth = _stage(stage, source, outcome, facts, reader, archive, log_bin)
    if truth is None:
        return
    stage.stopwatch.strike()
    with stage.stopwatch.phase(FIND):
        logs, _ = logs_from(first, begin, stored())
        search = search_logs(logs, first) if first.file in logs.names else BinlogSearch()
    stage.stopwatch.decided()
    outcome.checks.append(judge_search(name, [_told(loss) for loss in search.losses], truth))
    if not outcome.checks[-1].ok:
        return
    (loss,) = search.losses
    instance = _recover(stage, source, outcome, begin, reader, stored(), loss)
    if instance is not None:
        with stage.step(phases.COMPARE, outcome, native=True):
            outcome.checks += _beats_and_table(source, instance, own_database(stage), truth, loss)
            outcome.checks += [replace(one, name=f"{name}: {one.name}") for one in source.compare(instance, facts)]


def _names(database: str) -> dict[str, str]:
    """The numbered rows are not in the database that may be dropped."""
    return {"beats": database, "goods": f"{database}_goods"}


def _boot(stage: Rehearsal, source: MariadbSource, number: int, facts: Fingerprint, log_bin: str = "") -> Instance:
    instance = source.boot(stage.request.host, stage.sandbox.instance(number), facts, log_bin=log_bin)
    stage.instances[source.name] = instance
    stage.sandbox.record(instance)
    if instance.pid > 0:  # nothing to ask where nothing runs yet
        stage.looked += refuse_server(source, instance, stage.sandbox.directory, facts)
    return instance


def _stage(
    stage: Rehearsal,
    source: MariadbSource,
    outcome: SourceOutcome,
    facts: Fingerprint,
    reader: SnapshotReader,
    archive: LogArchive,
    log_bin: str,
) -> Truth | None:
    """The server that will be lost: its log is in `archive` at the end, and nothing else of it is left."""
    truth: Truth | None = None
    with stage.step("stage the server", outcome, native=True):
        instance = _boot(stage, source, 0, facts, log_bin)
        try:
            source.load(instance, reader.files(outcome.name))
        finally:
            stage.sandbox.record(instance)
        stage.looked += refuse_server(source, instance, stage.sandbox.directory, facts, same=True)
        with client_of(instance, source.name) as client:
            _begin_log(client, facts)
            truth = _destroy(stage, client)
            names = list_logs(client)
        source.stop(instance)
        _archive_logs(instance, archive, names)
        stage.request.host.remove_tree(instance.directory)
        del stage.instances[outcome.name]
    return truth


def _begin_log(client: MariadbClient, facts: Mapping[str, Any]) -> None:
    """What was written while the backup was loaded is not what follows it."""
    after = facts["logs"][-1]["end_gtids"] if facts.get("method") == "physical" else {}
    state = ",".join(f"{domain}-1-{number}" for domain, number in after.items())
    client.rows(f"RESET MASTER; SET GLOBAL gtid_binlog_state = '{state}';")


def _destroy(stage: Rehearsal, client: MariadbClient) -> Truth:
    drawn, names = draw(stage, [*STATEMENTS]), _names(own_database(stage))
    client.rows(PREPARED.format(**names))
    half = drawn.before // 2
    early, late = _beats(names, range(half)), _beats(names, range(half, drawn.before))
    (content,) = client.rows(f"{early}FLUSH BINARY LOGS;\n{late}{CONTENT.format(**names)}")
    blow = f"USE {names['goods']}; {STATEMENTS[drawn.statement].format(**names)} SELECT @@last_gtid;\n"
    ((gtid,),) = client.rows(blow + _beats(names, range(drawn.before, drawn.before + drawn.after)))
    return Truth(drawn.statement, gtid, drawn.before, content)


def _beats(names: Mapping[str, str], numbers: range) -> str:
    return "".join(
        f"INSERT INTO {names['beats']}.beats (number) VALUES ({one + 1});\n"  # noqa: S608 - names and numbers of our own
        for one in numbers
    )


def _archive_logs(instance: Instance, archive: LogArchive, names: list[str]) -> None:
    """As what receives a server's logs would have sent them by now."""
    for name in names:
        data = read_all(instance.host.open_read(instance.directory + b"/data/" + name.encode()))
        found = read_whole(BytesIO(data), BinlogReader())
        archive.put(Piece(name, 0, len(data)).name, data, {"log": facts_of(name, found)})


def _told(loss: BinlogLoss) -> Found:
    return Found(loss.gtid, loss.words, f"committed {iso(loss.time)}, {loss.before}")


def _recover(
    stage: Rehearsal,
    source: MariadbSource,
    outcome: SourceOutcome,
    begin: Fingerprint,
    reader: SnapshotReader,
    stored: StoredLogs,
    loss: BinlogLoss,
) -> Instance | None:
    instance: Instance | None = None
    with stage.step(phases.BOOT, outcome, native=False):
        instance = _boot(stage, source, 1, begin)
    if instance is None or outcome.trouble:
        return None
    with stage.step(phases.LOAD, outcome, native=True):
        try:
            notes = source.load_until(instance, reader.files(outcome.name), begin, stored, loss.before)
        except NoSuchError as error:  # the log that the drill's own server wrote does not lead there
            outcome.bad.append(error.message)
            return None
        finally:
            stage.sandbox.record(instance)
        stage.looked += refuse_server(source, instance, stage.sandbox.directory, begin, same=True)
        outcome.level = 3
        outcome.checks.append(recovered(outcome.name, notes[-1]))
    return instance if outcome.level == 3 else None


def _beats_and_table(
    source: MariadbSource, instance: Instance, database: str, truth: Truth, loss: BinlogLoss
) -> list[CheckResult]:
    names = _names(database)
    with client_of(instance, source.name) as client:
        numbers = f"SELECT COUNT(*), MIN(number), MAX(number) FROM {names['beats']}.beats;"  # noqa: S608 - a name of our own
        (beats,) = client.rows(numbers)
        (content,) = client.rows(CONTENT.format(**names))
    hit = [one.rpartition(" ")[2].replace(names["goods"], "goods").rpartition(".")[2] for one in loss.what]
    return judge_rows(source.name, [int(one) for one in beats], content, hit, truth)
