"""Method `ordered`: each table by itself, in the order of its primary key, so that tomorrow's rows lie where today's lay.

pg_dump writes rows in heap order: after an update and a vacuum, rows of today fill yesterday's holes, and 67 to 100 % of a
dump is new the day after 2 % were appended. In key order it is those 2 %. What a database holds beside the rows of its tables
(definitions, sequences, large objects, data of extensions) is one dump by pg_dump in the same snapshot.

    DATABASE/schema.dump                  pg_dump's custom format, without the rows of ordinary tables
    DATABASE/tables/SCHEMA/TABLE.sql      one COPY statement with its rows, for psql
"""

# ruff: noqa: S608 - names of tables and columns cannot be parameters: `identifier` quotes them

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, NoReturn

from backupctl.errors import SourceError
from backupctl.hosts.protocol import ByteSource, Process
from backupctl.repository.entry import Chunking, Entry
from backupctl.sources import copy_program, digest_program, tee_program
from backupctl.sources.postgresql_client import DUMP_OPTIONS, PostgresClient, identifier, view_script
from backupctl.sources.postgresql_fingerprint import USER_SCHEMAS, full_name, is_ordered, list_relations, select_rows
from backupctl.sources.reading_ahead import Lane, ReadingAhead
from backupctl.sources.streams import (
    ProcessStream,
    directory_node,
    path_component,
    program_text,
    programs_text,
    start_program,
    stream_node,
)

TABLES = b"tables"
SCHEMA_DUMP = b"schema.dump"
TABLE_END = b"\\.\n"
LOCK_WAIT = "30s"
LOCKS_PER_STATEMENT = 200
PIECE_BYTES = 1 << 18
SMALL_DATABASE_BYTES = 20 << 30
SMALL_CUT_BYTES, LARGE_CUT_BYTES = 8 << 10, 32 << 10
ARGUMENT_BYTES = 1_500_000  # Linux takes 2 MiB for arguments and environment together
REWRITTEN = f"""
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relfilenode <> 0 AND c.relfilenode <> pg_relation_filenode(c.oid) AND {USER_SCHEMAS} ORDER BY 1
"""
"""The catalog's row is as old as the snapshot, the function's answer is of now. A table that was truncated or rewritten in
between looks empty in the snapshot: PostgreSQL keeps no older version of it."""


@dataclass(frozen=True)
class TableStream:
    name: str  # schema.table, as in the fingerprint
    quoted: str
    schema: bytes  # as a directory of the snapshot
    file: bytes
    head: bytes  # what psql must have read before the rows
    copy: str
    ordered: bool
    columns: tuple[str, ...]


def list_tables(client: PostgresClient, database: str, snapshot: str, encoding: str) -> list[TableStream]:
    """Ordinary tables and partitions in the order of their paths; those of extensions are in pg_dump's part."""
    streams = []
    for relation in list_relations(client, database, snapshot):
        if relation["kind"] == "r" and not relation["of_extension"]:
            relation["columns"] = relation["stored"]  # generated ones cannot be loaded
            streams.append(_table_stream(relation, encoding))
    return sorted(streams, key=lambda one: (one.schema, one.file))


def _table_stream(relation: dict[str, Any], encoding: str) -> TableStream:
    columns = ", ".join(map(identifier, relation["columns"]))
    table = f"{identifier(relation['schema'])}.{identifier(relation['name'])}"
    head = [
        f"SET client_encoding = '{encoding}';",
        "SET datestyle = 'ISO, YMD';",
        "SET intervalstyle = 'postgres';",
        "SET lc_monetary = 'C';",
        "SET search_path = pg_catalog;",
        f"COPY {table} ({columns}) FROM stdin;" if columns else f"COPY {table} FROM stdin;",
    ]
    return TableStream(
        name=full_name(relation),
        quoted=table,
        schema=path_component(relation["schema"]),
        file=path_component(relation["name"]) + b".sql",
        head="\n".join([*head, ""]).encode("utf-8", "surrogateescape"),
        copy=f"COPY ({select_rows(relation, stored_order=True)}) TO STDOUT;",
        ordered=is_ordered(relation),
        columns=tuple(relation["columns"]),
    )


class TableReader:
    """A client in the database's snapshot, with all tables locked against DROP, TRUNCATE and rewriting. The locks are all taken
    at the start: one that is asked for later could wait behind somebody who waits for ours."""

    def __init__(
        self, client: PostgresClient, database: str, snapshot: str, tables: list[TableStream], reports: dict[str, Any]
    ) -> None:
        self._client, self._database, self._reports = client, database, reports
        self._mark = f"backupctl-{secrets.token_hex(16)}".encode()
        program = programs_text(copy_program, digest_program)
        self._process: Process = client.start([client.host.python, "-c", program])
        self._report: dict[str, Any] = {}
        opening = [view_script(snapshot), "SET synchronize_seqscans = off;", f"SET lock_timeout = '{LOCK_WAIT}';"]
        names = [table.quoted for table in tables]
        for start in range(0, len(names), LOCKS_PER_STATEMENT):
            some = ", ".join(f"ONLY {name}" for name in names[start : start + LOCKS_PER_STATEMENT])
            opening.append(f"LOCK TABLE {some} IN ACCESS SHARE MODE;")
        opening.append(REWRITTEN + ";")
        request = {"argv": client.psql(database), "mark": self._mark.decode(), "script": "\n".join(opening)}
        try:
            self._ask(request)
            rewritten = b"".join(self._answer()).decode("utf-8", "replace").split("\n")[:-1]
            if rewritten:
                raise rewritten_error(client, database, rewritten)
        except BaseException:
            self.close()
            raise

    def read(self, table: TableStream) -> Iterator[bytes]:
        self._ask({"script": table.copy, "ordered": table.ordered})
        yield table.head
        yield from self._answer()
        yield TABLE_END
        self._reports[table.name] = {
            **self._report,
            "order": "ordered" if table.ordered else "free",
            "columns": list(table.columns),
        }

    def _ask(self, request: Mapping[str, Any]) -> None:
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except OSError:
            self._fail()

    def _answer(self) -> Iterator[bytes]:
        """What the client prints, up to the mark, which no row can hold."""
        held = b""
        while True:
            at = held.find(self._mark)
            if at >= 0 and held.endswith(b"\n"):
                self._report = json.loads(held[at + len(self._mark) :])
                self._report.pop("index")
                if at:
                    yield held[:at]
                return
            if at < 0 and len(held) > len(self._mark):
                yield held[: -len(self._mark)]
                held = held[-len(self._mark) :]
            data = self._process.stdout.read(PIECE_BYTES)
            if not data:
                self._fail()
            held += data

    def _fail(self) -> NoReturn:
        completed = self._process.finish()
        raise self._client.failure(self._database, completed)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.__exit__(None, None, None)


def rewritten_error(client: PostgresClient, database: str, tables: list[str]) -> SourceError:
    error = SourceError(
        f"source {client.source}: {', '.join(tables[:5])} in database {database} truncated or rewritten while the "
        "backup read it; what it held when the backup began cannot be read any more",
        source=client.source,
        item=database,
        next_step="run the job again, at a time when nobody truncates or alters tables",
    )
    error.transient = True
    return error


def _lane(lane: Lane) -> ByteSource:
    return lane


class OrderedDatabase:
    """One database's entries. `reports` holds, for each table that was read to its end: rows, digest, order, columns."""

    def __init__(self, client: PostgresClient, database: str, snapshot: str, *, parallel: int, at: datetime) -> None:
        self._client, self.database, self._snapshot, self._at = client, database, snapshot, at
        query = "SELECT pg_encoding_to_char(encoding) AS encoding, pg_database_size(oid) AS size FROM pg_database"
        (row,) = client.records(database, f"{query} WHERE datname = current_database()", snapshot=snapshot)
        self.client_encoding = "SQL_ASCII" if row["encoding"] == "SQL_ASCII" else "UTF8"
        self._cut = SMALL_CUT_BYTES if row["size"] <= SMALL_DATABASE_BYTES else LARGE_CUT_BYTES
        self.client = replace(client, env={**client.env, "PGCLIENTENCODING": self.client_encoding})
        self.tables = list_tables(client, database, snapshot, self.client_encoding)
        self.reports: dict[str, Any] = {}
        readers: list[TableReader] = []
        try:
            for _ in range(min(parallel, len(self.tables))):
                readers.append(self._reader())
        except BaseException:
            for reader in readers:
                reader.close()
            raise
        self._ahead = ReadingAhead(self.tables, readers, self._reader)

    def _reader(self) -> TableReader:
        return TableReader(self.client, self.database, self._snapshot, self.tables, self.reports)

    def entries(self, component: bytes) -> Iterator[Entry]:
        schema = stream_node(SCHEMA_DUMP, self._at)
        yield Entry(component + b"/" + SCHEMA_DUMP, schema, open=self._open_schema)
        directory = component + b"/" + TABLES
        chunking = Chunking("content", self._cut)
        below = b""
        for table, lane in zip(self.tables, self._ahead.lanes, strict=True):
            if not below:
                yield Entry(directory, directory_node(TABLES, self._at))
            if below != directory + b"/" + table.schema:
                below = directory + b"/" + table.schema
                yield Entry(below, directory_node(table.schema, self._at))
            node = stream_node(table.file, self._at)
            yield Entry(below + b"/" + table.file, node, open=partial(_lane, lane), chunking=chunking)
            lane.close()

    def _open_schema(self) -> ByteSource:
        client = self.client
        dump = [client.program("pg_dump"), *DUMP_OPTIONS, f"--snapshot={self._snapshot}"]
        dump += [f"--lock-wait-timeout={LOCK_WAIT}"]
        dump += [f"--exclude-table-data={table.quoted}" for table in self.tables]
        if sum(len(part.encode()) + 9 for part in dump) > ARGUMENT_BYTES:
            raise SourceError(
                f"source {client.source}: database {self.database} has {len(self.tables)} tables, too many for `method: ordered`",
                source=client.source,
                item=self.database,
                next_step=f"set `method: dump` for source {client.source}",
            )
        request = {
            "dump": [*dump, "-d", client.database(self.database)],
            "read": [client.program("pg_restore"), "-f", "/dev/null"],
        }
        process = start_program(client.start, client.host.python, program_text(tee_program), request)
        return ProcessStream(process, source=client.source, item=f"schema of PostgreSQL database {self.database}")

    def close(self) -> None:
        self._ahead.close()
