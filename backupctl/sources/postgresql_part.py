"""One schema or some tables of a database, alone in a throw-away server, and compared with the fingerprint there.

First every definition is restored, since a table may need any type, function or extension; then the rows of what is wanted,
and its indexes, constraints and triggers. Every other table is dropped: an empty one would be taken for lost data. A foreign
key to one of those cannot come back, and is named.
"""

# ruff: noqa: S608 - names cannot be parameters: `identifier` and `literal` quote them, the rest are numbers

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import Any

from backupctl.errors import DamageError
from backupctl.hosts.protocol import ByteSource
from backupctl.sources.postgresql_client import PostgresClient, identifier, literal
from backupctl.sources.postgresql_fingerprint import (
    OF_EXTENSION,
    USER_SCHEMAS,
    digest_tables,
    full_name,
    list_relations,
    take_columns,
)
from backupctl.sources.postgresql_instance import MAINTENANCE, client_of, with_encoding
from backupctl.sources.postgresql_load import (
    COPY_BYTES,
    load_database,
    load_dump,
    load_tables,
    prepare,
    refusal,
    run_sql,
)
from backupctl.sources.postgresql_ordered import SCHEMA_DUMP, TABLES
from backupctl.sources.protocol import Instance, Part, SnapshotFiles
from backupctl.sources.streams import compare_tables, path_component

NOT_ALONE = ("FK CONSTRAINT", "MATERIALIZED VIEW DATA", "EVENT TRIGGER", "PUBLICATION", "SUBSCRIPTION")
"""What of `post-data` reaches beyond a table, or would act on what follows."""
DROPS_PER_RUN = 200
ANCESTORS = """
WITH RECURSIVE above(oid) AS (
  SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid IN ({oids})
  UNION SELECT i.inhparent FROM pg_inherits i JOIN above a ON i.inhrelid = a.oid)
SELECT oid::bigint AS oid FROM above
"""
OTHERS = f"""
SELECT n.nspname AS schema, c.relname AS name, c.relkind AS kind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm', 'f') AND {USER_SCHEMAS} AND NOT {OF_EXTENSION} AND c.oid NOT IN ({{oids}})
ORDER BY 1, 2
"""
OWNED_SEQUENCES = """
SELECT n.nspname AS schema, s.relname AS name FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.refclassid = 'pg_class'::regclass
WHERE s.relkind = 'S' AND d.deptype IN ('a', 'i') AND d.refobjid IN ({oids}) ORDER BY 1, 2
"""
NAMED = """
SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname || '.' || c.relname = {name}
"""
KINDS = {"m": "MATERIALIZED VIEW", "f": "FOREIGN TABLE"}


@dataclass(frozen=True)
class _Dump:
    """A database's dump, which is read once for each step."""

    files: SnapshotFiles
    path: bytes

    def open(self) -> ByteSource:
        return self.files.open(self.path)


def load_part(
    name: str, instance: Instance, files: SnapshotFiles, part: Part, fingerprint: Mapping[str, Any]
) -> list[str]:
    """What was restored and what had to be left out, for people. Raises DamageError when a table is not what it was."""
    client, component = client_of(instance, name), path_component(part.database)
    if not part.tables:
        return _load_all(instance, client, files, part)
    ordered = SCHEMA_DUMP in files.names(component)
    dump = _Dump(files, component + b"/" + (SCHEMA_DUMP if ordered else b"database.dump"))
    prepare(instance, client, files, [part.database])
    load_dump(client, part.database, dump.open(), "--section=pre-data", "-C", into=MAINTENANCE)
    expected = {table: fingerprint["tables"][table] for table in part.tables}
    relations = _wanted(client, part.database, expected)
    _load_rows(client, part.database, dump, relations, component if ordered else None)
    notes = _finish(client, part.database, dump, relations)
    _compare(with_encoding(client, fingerprint), part.database, expected)
    held = ", ".join(f"{table}: {facts['rows']} rows" for table, facts in expected.items())
    return [f"restored, and equal to what the backup saw: {held}", *notes, *_rename(client, part)]


def _wanted(client: PostgresClient, database: str, expected: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [one for one in list_relations(client, database, None) if full_name(one) in expected]


def _oids(relations: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(one["oid"]) for one in relations)


def _load_rows(
    client: PostgresClient,
    database: str,
    dump: _Dump,
    relations: list[dict[str, Any]],
    ordered: bytes | None,
) -> None:
    sequences = client.records(database, OWNED_SEQUENCES.format(oids=_oids(relations)))
    chosen: dict[str, list[str]] = defaultdict(list)
    for one in sequences if ordered is not None else [*relations, *sequences]:
        chosen[one["schema"]].append(f"--table={one['name']}")
    for schema, tables in chosen.items():  # for each by itself: options of several would be combined
        load_dump(client, database, dump.open(), "--section=data", f"--schema={schema}", *tables, into=database)
    if ordered is not None:
        below = ordered + b"/" + TABLES + b"/"
        paths = [below + path_component(r["schema"]) + b"/" + path_component(r["name"]) + b".sql" for r in relations]
        load_tables(client, database, dump.files, paths)


def _finish(client: PostgresClient, database: str, dump: _Dump, relations: list[dict[str, Any]]) -> list[str]:
    contents = _contents(client, dump.open())
    alone = [line for line in contents if not re.match(rf"\d+; \d+ \d+ ({'|'.join(NOT_ALONE)})\b", line)]
    with client.host.private_file("\n".join(alone).encode("utf-8", "surrogateescape")) as listed:
        load_dump(client, database, dump.open(), "--section=post-data", f"--use-list={listed}", into=database)
    above = client.records(database, ANCESTORS.format(oids=_oids(relations)))
    others = client.records(database, OTHERS.format(oids=_oids([*relations, *above])))
    for start in range(0, len(others), DROPS_PER_RUN):
        drops = [
            f"DROP {KINDS.get(one['kind'], 'TABLE')} IF EXISTS {identifier(one['schema'])}.{identifier(one['name'])} CASCADE;"
            for one in others[start : start + DROPS_PER_RUN]
        ]
        quiet = "SET client_min_messages = error; SET default_transaction_read_only = off;"
        run_sql(client, "\n".join([quiet, *drops]), "the tables that were not asked for", database)
    ours = [f" FK CONSTRAINT {one['schema']} {one['name']} " for one in relations]
    return _foreign_keys(client, database, dump, [line for line in contents if any(key in line for key in ours)])


def _foreign_keys(client: PostgresClient, database: str, dump: _Dump, lines: list[str]) -> list[str]:
    """One by one, each line of the table of contents: what refers to a table that is not here is told."""
    left_out = []
    for line in lines:
        with client.host.private_file(line.encode("utf-8", "surrogateescape")) as listed:
            try:
                load_dump(client, database, dump.open(), "--section=post-data", f"--use-list={listed}", into=database)
            except DamageError as error:
                if "does not exist" not in error.message:
                    raise
                left_out.append(line.split(" FK CONSTRAINT ", 1)[1].rsplit(" ", 1)[0])
    return [f"foreign keys left out, whose other table is not here: {', '.join(left_out)}"] if left_out else []


def _contents(client: PostgresClient, stream: ByteSource) -> list[str]:
    """The lines of the archive's table of contents, which stands at its head."""

    def feed() -> None:
        with suppress(OSError):  # it has read enough
            while data := stream.read(COPY_BYTES):
                process.stdin.write(data)

    with client.start([client.program("pg_restore"), "-l"]) as process:
        feeder = Thread(target=feed, daemon=True)
        feeder.start()
        text = b""
        while data := process.stdout.read(COPY_BYTES):
            text += data
        completed = process.finish()
        feeder.join()
    stream.close()
    if completed.returncode != 0:
        raise refusal("the table of contents of the dump", client, completed)
    lines = text.decode("utf-8", "surrogateescape").splitlines()
    return [line for line in lines if line and not line.startswith(";")]


def _compare(client: PostgresClient, database: str, expected: Mapping[str, Any]) -> None:
    relations = _wanted(client, database, expected)  # once more: only now they have their keys
    take_columns(relations, expected)
    found = digest_tables(client, database, None, relations)
    found.pop("")
    for result in compare_tables("", expected, found):
        if not result.ok:
            raise DamageError(
                f"{result.name}: restored {result.actual}, the backup saw {result.expected}",
                name=result.name,
                next_step="restore an older snapshot, and run `backupctl check --read-data`",
            )


def _load_all(instance: Instance, client: PostgresClient, files: SnapshotFiles, part: Part) -> list[str]:
    prepare(instance, client, files, [part.database])
    load_database(client, part.database, files)
    if not part.rename:
        return [f"database {part.database} restored"]
    statement = f"ALTER DATABASE {identifier(part.database)} RENAME TO {identifier(part.rename)};"
    run_sql(client, statement, f"the name {part.rename}")
    return [f"database {part.database} restored; it is called {part.rename} here"]


def _rename(client: PostgresClient, part: Part) -> list[str]:
    if not part.rename:
        return []
    new = identifier(part.rename)
    if part.schema:
        old, statement = part.schema, f"ALTER SCHEMA {identifier(part.schema)} RENAME TO {new};"
    else:
        old = part.table
        (row,) = client.records(part.database, NAMED.format(name=literal(old)))
        statement = f"ALTER TABLE {identifier(row['schema'])}.{identifier(row['name'])} RENAME TO {new};"
    run_sql(client, "SET default_transaction_read_only = off;\n" + statement, f"the name {part.rename}", part.database)
    return [f"{old} is called {part.rename} here"]
