"""What MariaDB and MySQL databases hold: the same code on the source, inside the view of its dump, and on what was restored.

Rows are printed column by column: text and bytes as HEX, so that no character set, escape or NULL is in doubt; numbers
and times as text. Nothing is concatenated: `CONCAT` beyond max_allowed_packet gives NULL, on both sides alike.
"""

# ruff: noqa: S608 - names of tables and columns cannot be parameters: `identifier` and `literal` quote them

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backupctl.errors import SourceError
from backupctl.hosts.protocol import Completed, Process
from backupctl.sources import digest_program
from backupctl.sources.mariadb_client import MariadbClient, identifier, literal
from backupctl.sources.streams import program_text

NUMBERS = ("tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "float", "double")
TIMES = ("date", "time", "datetime", "timestamp", "year")
ELSEWHERE = frozenset(("BLACKHOLE", "CONNECT", "FEDERATED", "SPIDER", "MRG_MyISAM", "NULL"))
TRANSACTIONAL = "InnoDB"
GO_ON = "--force"  # after an error, of which the next statement then tells
OPEN_VIEW = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ;\nSTART TRANSACTION WITH CONSISTENT SNAPSHOT;\n"
SCHEMA = (
    *("--no-data", "--routines", "--events", "--triggers", "--skip-comments", "--no-tablespaces"),
    "--skip-lock-tables",
)
COUNTED = {  # table of information_schema → its column that holds the database
    "tables": "table_schema",
    "views": "table_schema",
    "routines": "routine_schema",
    "triggers": "trigger_schema",
    "events": "event_schema",
}
NOISE = re.compile(r" AUTO_INCREMENT=\d+")
BESIDE = re.compile(r"--|DELIMITER |/\*M!999999|/\*M?!\d+ SET .*(?:@OLD_|@saved?_|NAMES )", re.IGNORECASE)
"""What a dump says to the client and to its own session. It differs between programs of one series: 10.11.7 came with
NOTE_VERBOSITY, and 11.x puts DELIMITER elsewhere, which was a difference where staging had another version than production."""


@dataclass(frozen=True)
class Table:
    database: str
    name: str
    engine: str
    columns: tuple[tuple[str, str], ...]  # name, type
    key: tuple[str, ...]

    @property
    def full_name(self) -> str:
        return f"{self.database}.{self.name}"

    def select(self) -> str:
        """Hexadecimal text is an upper bound that every type has; NULL prints as the word NULL, which is no hex."""
        chosen = [
            identifier(name) if kind in NUMBERS + TIMES else f"HEX({identifier(name)})" for name, kind in self.columns
        ]
        query = f"SELECT {', '.join(chosen)} FROM {identifier(self.database)}.{identifier(self.name)}"
        return query + (" ORDER BY " + ", ".join(map(identifier, self.key)) if self.key else "")


def inside(databases: Sequence[str]) -> str:
    return "(" + ", ".join(map(literal, databases)) + ")"


def read_tables(client: MariadbClient, databases: Sequence[str], *, virtual: bool = False) -> list[Table]:
    """Tables with their columns by name; versions of rows and sequences are left out, and columns that are computed when they are
    read unless `virtual`: `AS (NOW())` is another value tomorrow."""
    within = inside(databases)
    stored = "" if virtual else " AND extra NOT LIKE '%VIRTUAL%'"
    found = client.rows(  # in one question: over SSH it takes longer than its answer
        "SELECT 'table', HEX(table_schema), HEX(table_name), IFNULL(engine, 'NULL') FROM information_schema.tables"
        f" WHERE table_schema IN {within} AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY 2, 3;"
        "SELECT 'column', HEX(table_schema), HEX(table_name), HEX(column_name), data_type FROM information_schema.columns"
        f" WHERE table_schema IN {within} AND IFNULL(generation_expression, '') NOT IN ('ROW START', 'ROW END')"
        f"{stored} ORDER BY 2, 3, 4;"
        "SELECT 'key', HEX(table_schema), HEX(table_name), HEX(column_name) FROM information_schema.statistics"
        f" WHERE table_schema IN {within} AND index_name = 'PRIMARY' ORDER BY 2, 3, seq_in_index;"
    )
    tables, columns, keys = ([row for kind, *row in found if kind == wanted] for wanted in ("table", "column", "key"))
    columns_of: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for schema, table, column, kind in columns:
        columns_of.setdefault((schema, table), []).append((text(column), kind.lower()))
    key_of: dict[tuple[str, str], list[str]] = {}
    for schema, table, column in keys:
        key_of.setdefault((schema, table), []).append(text(column))
    return [
        Table(text(schema), text(name), engine, tuple(columns_of[schema, name]), tuple(key_of.get((schema, name), ())))
        for schema, name, engine in tables
    ]


def text(hexadecimal: str) -> str:
    return bytes.fromhex(hexadecimal).decode()


class TableReader:
    """One connection that opens its view, says so, and reads all tables in it. One that cannot be read does not end it."""

    def __init__(self, client: MariadbClient, tables: Sequence[Table], *, opening: str = OPEN_VIEW) -> None:
        self._client = client
        self._tables = [table for table in tables if table.engine not in ELSEWHERE]
        mark = f"backupctl-{secrets.token_hex(16)}"
        script = [client.family.session, opening, f"SELECT '{mark} ready';\n"]
        for number, table in enumerate(self._tables):
            order = "ordered" if table.key else "free"
            script.append(f"SELECT '{mark} {number} {order}', @@error_count;\n{table.select()};\n")
        script.append(f"SELECT '{mark} end', @@error_count;\n")
        request = {"argv": client.argv(GO_ON), "script": "".join(script), "mark": mark}
        self._process: Process = client.start([client.host.python, "-c", program_text(digest_program)])
        self._process.stdin.write(json.dumps(request).encode())
        self._process.stdin.close()
        self._said = b""
        self.unread: dict[Table, SourceError] = {}
        """Why they could not be read; complete after `result`."""

    def wait_until_ready(self) -> None:
        while b"\n" not in self._said:
            data = self._process.stdout.read(65536)
            if not data:
                raise self._client.failure(self._process.finish(), "its fingerprint")
            self._said += data

    def result(self) -> dict[str, dict[str, Any]]:
        """database.table → {rows, digest, order}, of each that could be read in the view."""
        while data := self._process.stdout.read(65536):
            self._said += data
        completed: Completed = self._process.finish()
        reports = {one["index"]: one for one in map(json.loads, self._said.splitlines()) if "index" in one}
        if completed.returncode != 0 and not reports:
            raise self._client.failure(completed, "its fingerprint")
        for number, table in enumerate(self._tables):
            if number not in reports:
                self.unread[table] = self._failure(table, completed)
        return {
            table.full_name: {
                "rows": reports[number]["rows"],
                "digest": reports[number]["digest"],
                "order": "ordered" if table.key else "free",
            }
            for number, table in enumerate(self._tables)
            if number in reports
        }

    def _failure(self, table: Table, completed: Completed) -> SourceError:
        errors = [line for line in completed.stderr.splitlines() if line.startswith("ERROR")]
        own = [line for line in errors if table.name in line] or errors[-1:]
        return self._client.failure(replace(completed, stderr="; ".join(own)), f"reading table {table.full_name}")

    def close(self) -> None:
        self._process.__exit__(None, None, None)


def digest_tables(client: MariadbClient, tables: Sequence[Table]) -> dict[str, dict[str, Any]]:
    """Raises SourceError when one of them cannot be read."""
    found, unread = read_digests(client, tables)
    for error in unread.values():
        raise error
    return found


def read_digests(
    client: MariadbClient, tables: Sequence[Table]
) -> tuple[dict[str, dict[str, Any]], dict[Table, SourceError]]:
    """As they are now: what `TableReader.result` answers, and its `unread`."""
    reader = TableReader(client, tables)
    try:
        return reader.result(), reader.unread
    finally:
        reader.close()


def read_traces(client: MariadbClient, tables: Sequence[Table]) -> dict[str, tuple[str, ...]]:
    """Of tables without transactions: database.table → what an insertion leaves behind even when the row is deleted again, as far
    as the engine says; with a time of change that is too recent to tell two changes apart, something that is never the same."""
    found = {}
    rows = client.rows(
        "SELECT HEX(table_schema), HEX(table_name), IFNULL(auto_increment, ''), IFNULL(data_length, ''), IFNULL(index_length, ''),"
        " IFNULL(data_free, ''), IF(engine = 'MyISAM', IFNULL(UNIX_TIMESTAMP(update_time), ''), ''),"
        " IF(engine = 'MyISAM' AND update_time >= NOW() - INTERVAL 2 SECOND, UUID(), '') FROM information_schema.tables"
        f" WHERE table_schema IN {inside(sorted({table.database for table in tables}))};"
    )
    for schema, name, *traces in rows:
        found[f"{text(schema)}.{text(name)}"] = tuple(traces)
    return {table.full_name: found[table.full_name] for table in tables if table.full_name in found}


def read_sequences(client: MariadbClient, databases: Sequence[str]) -> dict[str, int]:
    """The value each sequence gives next, as a dump carries it."""
    names = client.rows(
        "SELECT HEX(table_schema), HEX(table_name) FROM information_schema.tables"
        f" WHERE table_schema IN {inside(databases)} AND table_type = 'SEQUENCE' ORDER BY 1, 2;"
    )
    full = [(text(schema), text(name)) for schema, name in names]
    script = "".join(
        f"SELECT next_not_cached_value FROM {identifier(schema)}.{identifier(name)};\n" for schema, name in full
    )
    values = client.rows(script) if full else []
    return {f"{schema}.{name}": int(value[0]) for (schema, name), value in zip(full, values, strict=True)}


def read_sizes(client: MariadbClient) -> dict[str, int]:
    """database → bytes of its rows, as the server estimates them."""
    rows = client.rows(
        "SELECT HEX(table_schema), IFNULL(SUM(data_length), 0) FROM information_schema.tables GROUP BY 1;"
    )
    return {text(schema): int(size) for schema, size in rows}


def read_schema(client: MariadbClient, database: str, counts: Mapping[str, int]) -> dict[str, Any]:
    """Digest of the definitions as the dump program writes them, without counters; and what they are, by kind (`read_counts`)."""
    completed = client.host.run(client.dump_argv(*SCHEMA, "--databases", database))
    if completed.returncode != 0:
        raise client.failure(completed, f"schema of database {database}")
    return {"schema": sha256("\n".join(defining_lines(completed.stdout))), "counts": counts}


def defining_lines(dump: bytes) -> list[str]:
    """The lines of a dump without rows that define something: the same whatever version of the program wrote them."""
    lines = dump.decode("utf-8", "surrogateescape").splitlines()
    kept = (NOISE.sub("", line).rstrip(" ;") for line in lines if "SETVAL(" not in line and not BESIDE.match(line))
    return [line for line in kept if line]


def read_counts(client: MariadbClient, databases: Sequence[str]) -> dict[str, dict[str, int]]:
    """database → how many things of each kind it has; asked at once, since a question over SSH takes longer than its answer."""
    found = {database: dict.fromkeys(COUNTED, 0) for database in databases}
    queries = (
        f"SELECT '{kind}', HEX({schema}), COUNT(*) FROM information_schema.{kind} WHERE {schema} IN {inside(databases)}"
        f"{' AND table_type <> ' + literal('VIEW') if kind == 'tables' else ''} GROUP BY 2;"
        for kind, schema in COUNTED.items()
    )
    for kind, database, number in client.rows("\n".join(queries)):
        if (name := text(database)) in found:  # names that differ in case only are one to this query
            found[name][kind] = int(number)
    return found


def read_accounts(dump: str, databases: Sequence[str] | None) -> dict[str, list[str]]:
    """account → digests of the statements that make it and its grants, from what `dump_accounts` gave. Grants on tables of
    databases that are not backed up cannot be restored and are left out; `databases` None keeps all."""
    accounts: dict[str, set[str]] = {}
    for line in dump.splitlines():
        made = re.match(r"CREATE (?:USER|ROLE) IF NOT EXISTS (\S+?)(?:;| |$)", line)
        granted = re.match(
            r"GRANT .* TO (\S+?)(?:;| |$)|REVOKE .* FROM (\S+?)(?:;| |$)|ALTER USER (\S+) DEFAULT ROLE ", line
        )
        found = made or granted
        if not found or "mariadb_dump_import_role" in line:
            continue
        on = re.search(r" ON (?:PROCEDURE |FUNCTION |PACKAGE |PACKAGE BODY )?`((?:[^`]|``)+)`\.`", line)
        if on and databases is not None and on.group(1).replace("``", "`") not in databases:
            continue
        accounts.setdefault(found[found.lastindex or 1].replace("`", "'"), set()).add(sha256(line.replace("`", "'")))
    return {account: sorted(lines) for account, lines in sorted(accounts.items())}


def lossy_columns(tables: Sequence[Table]) -> dict[str, list[str]]:
    """FLOAT columns: a dump carries six digits of them, and the fingerprint compares what a dump carries."""
    found: Mapping[str, list[str]] = {
        table.full_name: [name for name, kind in table.columns if kind == "float"] for table in tables
    }
    return {table: columns for table, columns in found.items() if columns}


def sha256(content: str) -> str:
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()
