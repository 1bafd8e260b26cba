"""A destructive statement on PostgreSQL, found in its write-ahead log. See `destructive_statement`."""

from __future__ import annotations

import os
from dataclasses import replace
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
from backupctl.errors import CouldNotRunError, NoSuchError
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.reader import SnapshotReader
from backupctl.sources.postgresql import PostgresqlSource
from backupctl.sources.postgresql_client import PostgresClient
from backupctl.sources.postgresql_instance import client_of
from backupctl.sources.postgresql_load import read_all
from backupctl.sources.protocol import CheckResult, Fingerprint, Instance
from backupctl.sources.wal_archive import LogIndex, Target, roll_forward
from backupctl.sources.wal_format import describe_segment, format_lsn, is_segment_name, parse_lsn
from backupctl.sources.wal_index import history_name
from backupctl.sources.wal_losses import Loss, read_losses

STATEMENTS = {
    "DROP TABLE": "DROP TABLE goods",
    "TRUNCATE": "TRUNCATE goods",
    "DELETE without WHERE": "DELETE FROM goods",
    "UPDATE of all rows": "UPDATE goods SET note = ''",
}
PREPARED = """
CREATE TABLE beats (number int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE goods (id int PRIMARY KEY, note text);
INSERT INTO goods SELECT n, md5(n::text) FROM generate_series(1, 2500) n;
VACUUM FULL goods;
BEGIN; CREATE TABLE scratch AS TABLE goods; DROP TABLE scratch; COMMIT;
BEGIN; DELETE FROM goods; ROLLBACK;
DELETE FROM goods WHERE id <= 100;
"""
"""With all that looks like a loss and is none."""
CONTENT = "SELECT json_build_object('rows', count(*), 'digest', md5(string_agg(id || ' ' || note, ',' ORDER BY id))) FROM goods;"


def rehearse(stage: Rehearsal, outcome: SourceOutcome, facts: Fingerprint, reader: SnapshotReader) -> None:
    name = outcome.name
    source = cast(PostgresqlSource, stage.request.sources[name])
    archive = LogArchive(own_repository(stage), facts["system_identifier"])
    database = own_database(stage)
    truth = _stage(stage, source, outcome, facts, reader, archive, database)
    if truth is None:
        return
    stage.stopwatch.strike()
    with stage.stopwatch.phase(FIND):
        index = LogIndex.read(archive, facts["segment_bytes"])
        found = [(span.timeline, loss) for span in index.spans() for loss in read_losses(index, span)[0]]
    stage.stopwatch.decided()
    outcome.checks.append(judge_search(name, [_told(loss) for _, loss in found], truth))
    if not outcome.checks[-1].ok:
        return
    ((timeline, loss),) = found
    instance = _recover(stage, source, outcome, facts, reader, index, timeline, loss)
    if instance is not None:
        with stage.step(phases.COMPARE, outcome, native=True):
            outcome.checks += _beats_and_table(source, instance, name, database, truth, loss)
            wanted = {**facts, "target_lsn": instance.connection["target_lsn"]}
            outcome.checks += [replace(one, name=f"{name}: {one.name}") for one in source.compare(instance, wanted)]


def _stage(
    stage: Rehearsal,
    source: PostgresqlSource,
    outcome: SourceOutcome,
    facts: Fingerprint,
    reader: SnapshotReader,
    archive: LogArchive,
    database: str,
) -> Truth | None:
    """The server that will be lost: its log is in `archive` at the end, and nothing else of it is left."""
    truth: Truth | None = None
    with stage.step("stage the server", outcome, native=True):
        instance = source.boot(stage.request.host, stage.sandbox.instance(0), facts)
        stage.instances[outcome.name] = instance
        stage.sandbox.record(instance)
        try:
            source.load(instance, reader.files(outcome.name))
        finally:
            stage.sandbox.record(instance)
        stage.looked += refuse_server(source, instance, stage.sandbox.directory, facts, same=True)
        truth = _destroy(stage, source, instance, database)
        _archive_log(instance, source, archive, facts["timeline"])
        source.stop(instance)
        stage.request.host.remove_tree(instance.directory)
        del stage.instances[outcome.name]
    return truth


def _destroy(stage: Rehearsal, source: PostgresqlSource, instance: Instance, database: str) -> Truth:
    client, drawn = client_of(instance, source.name), draw(stage, [*STATEMENTS])
    before, after = drawn.before, drawn.after
    client.documents("template1", "ALTER SYSTEM SET wal_keep_size = '4GB';")  # a checkpoint must not take the log away
    client.documents("template1", "SELECT to_json(pg_reload_conf());")
    client.documents("template1", f"CREATE DATABASE {database} TEMPLATE template0;")
    _ask(client, database, PREPARED)
    (content,) = _ask(client, database, "".join(map(_beat, range(1, before + 1))) + CONTENT)
    blow = f"BEGIN; SELECT pg_current_xact_id()::text; {STATEMENTS[drawn.statement]}; COMMIT;"
    (xid,) = _ask(client, database, blow + "".join(map(_beat, range(before + 1, before + after + 1))))
    return Truth(drawn.statement, str(int(xid) & 0xFFFFFFFF), before, content)


def _ask(client: PostgresClient, database: str, script: str) -> list[Any]:
    return client.documents(database, "SET search_path = public;\n" + script)


def _beat(number: int) -> str:
    return f"INSERT INTO beats VALUES ({number});\n"  # noqa: S608 - a number of our own


def _archive_log(instance: Instance, source: PostgresqlSource, archive: LogArchive, timeline: int) -> None:
    """What an archiver would have sent by now: all of the server's own timeline."""
    client, host = client_of(instance, source.name), instance.host
    (newest,) = client.documents("template1", "SELECT to_json(pg_walfile_name(pg_switch_wal()));")
    log = instance.directory + b"/data/pg_wal/"
    own = int(newest[:8], 16)
    if own == timeline:
        raise CouldNotRunError("the restored server is still on the timeline of the one that was saved")
    for info in host.scan(log.rstrip(b"/")):
        name = os.fsdecode(info.path.rpartition(b"/")[2])
        if name == history_name(own) or (is_segment_name(name) and int(name[:8], 16) == own and name <= newest):
            data = read_all(host.open_read(log + name.encode()))
            archive.put(name, data, describe_segment(data) if is_segment_name(name) else {})


def _told(loss: Loss) -> Found:
    committed = f"committed {iso(loss.time)}, " if loss.time else ""
    return Found(str(loss.xid), loss.words, f"{committed}LSN {format_lsn(loss.lsn)}")


def _recover(
    stage: Rehearsal,
    source: PostgresqlSource,
    outcome: SourceOutcome,
    facts: Fingerprint,
    reader: SnapshotReader,
    index: LogIndex,
    timeline: int,
    loss: Loss,
) -> Instance | None:
    instance: Instance | None = None
    with stage.step(phases.BOOT, outcome, native=False):
        instance = source.boot(stage.request.host, stage.sandbox.instance(1), facts)
        stage.instances[outcome.name] = instance
        stage.sandbox.record(instance)
    if instance is None or outcome.trouble:
        return None
    left = next(one.end for one in index.histories[timeline] if one.timeline == facts["timeline"])
    begin = {**facts, "log_end": format_lsn(min(left, parse_lsn(facts["log_end"])))}  # its own log goes on behind that
    target = Target("lsn", lsn=loss.lsn, timeline=timeline, inclusive=False)
    with stage.step(phases.LOAD, outcome, native=True):
        try:
            notes = source.recover(
                instance,
                reader.files(outcome.name),
                lambda place, own: roll_forward(index, begin, target, place, own),
            )
        except NoSuchError as error:  # the log that the drill's own server wrote does not lead there
            outcome.bad.append(error.message)
            return None
        finally:
            stage.sandbox.record(instance)
        stage.looked += refuse_server(source, instance, stage.sandbox.directory, facts, same=True)
        outcome.level = 3
        outcome.checks.append(recovered(outcome.name, notes[0]))
    return instance if outcome.level == 3 else None


def _beats_and_table(
    source: PostgresqlSource, instance: Instance, name: str, database: str, truth: Truth, loss: Loss
) -> list[CheckResult]:
    client = client_of(instance, source.name)
    numbers = "SELECT json_build_array(count(*), min(number), max(number)) FROM beats;"
    (beats,) = _ask(client, database, numbers)
    (content,) = _ask(client, database, CONTENT)
    files = ", ".join(f"pg_filenode_relation({space}, {file})::text" for space, _, file in loss.relations)
    (names,) = _ask(client, database, f"SELECT json_build_array({files});")
    return judge_rows(name, beats, content, [str(one) for one in names], truth)
