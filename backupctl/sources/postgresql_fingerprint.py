"""What a PostgreSQL database holds, seen in one snapshot: the same code on the source and on what was restored.

Tables are read in full by COPY, in primary-key order where that order is the same everywhere (no key column with a
collation other than C), else summed in an order-free way. Columns are taken by name: a restore may order those of
inherited tables differently.
"""

# ruff: noqa: S608 - names of tables and columns cannot be parameters: `identifier` and `literal` quote them

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from typing import Any

from backupctl.errors import SourceError
from backupctl.sources import digest_program
from backupctl.sources.postgresql_client import PostgresClient, identifier, literal, view_script
from backupctl.sources.streams import program_text, said

LARGE_OBJECT_PIECE_BYTES = 8 * 1024 * 1024
USER_SCHEMAS = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"
OF_EXTENSION = (
    "EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')"
)

RELATIONS = f"""
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind AS kind, {OF_EXTENSION} AS of_extension,
  ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attname COLLATE "C") AS columns,
  ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        AND coalesce(to_jsonb(a) ->> 'attgenerated', '') = '' ORDER BY a.attnum) AS stored,
  ARRAY(SELECT a.attname FROM pg_index i, unnest(i.indkey::int[]) WITH ORDINALITY k(attnum, position), pg_attribute a
        WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND a.attrelid = c.oid AND a.attnum = k.attnum
        ORDER BY k.position) AS key,
  EXISTS (SELECT FROM pg_index i, unnest(i.indkey::int[]) k(attnum), pg_attribute a, pg_collation l
        WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid AND a.attnum = k.attnum
        AND l.oid = a.attcollation AND l.collname NOT IN ('C', 'POSIX')) AS collated
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 'f') AND {USER_SCHEMAS}
ORDER BY 2, 3
"""

PARTITIONED = f"""
WITH RECURSIVE below(root, oid) AS (
  SELECT i.inhparent, i.inhrelid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent WHERE c.relkind = 'p'
  UNION ALL SELECT b.root, i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.oid)
SELECT n.nspname || '.' || c.relname AS name, ARRAY(
  SELECT m.nspname || '.' || l.relname FROM below b JOIN pg_class l ON l.oid = b.oid
  JOIN pg_namespace m ON m.oid = l.relnamespace WHERE b.root = c.oid AND l.relkind = 'r' ORDER BY 1) AS leaves
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'p' AND {USER_SCHEMAS} ORDER BY 1
"""

SEQUENCES = f"""
SELECT n.nspname AS schema, c.relname AS name, s.seqincrement AS increment
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {USER_SCHEMAS} ORDER BY 1, 2
"""

EXTENSIONS = "SELECT extname AS name, extversion AS version FROM pg_extension ORDER BY 1"

COUNTS = f"""
SELECT
  (SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE NOT i.indisvalid AND {USER_SCHEMAS}) AS invalid_indexes,
  (SELECT count(*) FROM pg_constraint t JOIN pg_namespace n ON n.oid = t.connamespace
   WHERE NOT t.convalidated AND {USER_SCHEMAS}) AS unvalidated_constraints
"""

SETTINGS = """
SELECT pg_get_userbyid(d.datdba) AS owner, pg_encoding_to_char(d.encoding) AS encoding, d.datcollate AS collation,
  d.datctype AS ctype, d.datconnlimit AS connection_limit,
  ARRAY(SELECT a::text FROM unnest(d.datacl) a ORDER BY 1) AS privileges,
  ARRAY(SELECT coalesce(r.rolname, '') || ':' || v FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole,
        unnest(s.setconfig) v WHERE s.setdatabase = d.oid ORDER BY 1) AS settings
FROM pg_database d WHERE d.datname = current_database()
"""

ROLES = """
SELECT r.rolname AS name, r.rolsuper AS super, r.rolinherit AS inherit, r.rolcreaterole AS createrole,
  r.rolcreatedb AS createdb, r.rolcanlogin AS login, r.rolreplication AS replication, r.rolbypassrls AS bypassrls,
  r.rolconnlimit AS connection_limit, r.rolvaliduntil AS valid_until, r.rolconfig AS settings,
  ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
        WHERE m.member = r.oid ORDER BY 1) AS member_of {password}
FROM pg_roles r WHERE r.rolname !~ '^pg_' ORDER BY 1
"""
WITH_DIGEST = """,
  (SELECT encode(sha256(convert_to(a.rolpassword, 'UTF8')), 'hex') FROM pg_authid a WHERE a.oid = r.oid) AS password"""

LARGE_OBJECTS = f"""WITH RECURSIVE piece(oid, n, size, digest) AS (
  SELECT m.oid, 0::bigint, length(b), sha256(b) FROM pg_largeobject_metadata m,
    LATERAL (SELECT lo_get(m.oid, 0, {LARGE_OBJECT_PIECE_BYTES}) AS b OFFSET 0) x
  UNION ALL
  SELECT p.oid, p.n + 1, length(b), sha256(b) FROM piece p,
    LATERAL (SELECT lo_get(p.oid, (p.n + 1) * {LARGE_OBJECT_PIECE_BYTES}, {LARGE_OBJECT_PIECE_BYTES}) AS b OFFSET 0) x
  WHERE p.size = {LARGE_OBJECT_PIECE_BYTES})
SELECT oid, n, size, digest FROM piece"""


def read_sequences(client: PostgresClient, database: str) -> dict[str, int]:
    """The value each sequence gives next. Sequences are outside every snapshot: the source reads them before and after
    its dump, and what a restore gives must lie between."""
    script = [view_script(None)]
    for row in client.records(database, SEQUENCES):
        name = f"{identifier(row['schema'])}.{identifier(row['name'])}"
        step = f"CASE WHEN is_called THEN last_value + ({row['increment']}) ELSE last_value END"
        script.append(f"SELECT json_build_array({literal(full_name(row))}, {step}) FROM {name};\n")
    return dict(client.documents(database, "".join(script)))


def read_roles(client: PostgresClient, database: str, *, passwords: bool) -> dict[str, Any]:
    rows = client.records(database, ROLES.format(password=WITH_DIGEST if passwords else ""))
    return {row.pop("name"): row for row in rows}


def list_relations(client: PostgresClient, database: str, snapshot: str | None) -> list[dict[str, Any]]:
    return client.records(database, RELATIONS, snapshot=snapshot)


def is_ordered(relation: dict[str, Any]) -> bool:
    """Whether its primary key gives one order on every machine."""
    return bool(relation["key"]) and not relation["collated"]


def select_rows(relation: dict[str, Any], *, stored_order: bool = False) -> str:
    """All its own rows; with `stored_order` also by a key whose order is this server's own."""
    columns = ", ".join(map(identifier, relation["columns"]))
    query = f"SELECT {columns} FROM ONLY {identifier(relation['schema'])}.{identifier(relation['name'])}"
    if is_ordered(relation) or (stored_order and relation["key"]):
        query += " ORDER BY " + ", ".join(map(identifier, relation["key"]))
    return query


def take_columns(relations: list[dict[str, Any]], like: Mapping[str, Any]) -> None:
    """Those that the fingerprint `like` says, in its order; it says so for `method: ordered`."""
    for relation in relations:
        columns = like.get(full_name(relation), {}).get("columns")
        if columns is not None and set(columns) <= set(relation["columns"]):
            relation["columns"] = columns


def describe_database(
    client: PostgresClient,
    database: str,
    snapshot: str | None,
    *,
    known: Mapping[str, Any] | None = None,
    like: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything about one database except its sequences. `known`: tables that are described already. `like`: the tables of
    the fingerprint to compare with, whose columns are taken in its own order."""
    relations = list_relations(client, database, snapshot)
    tables = [row for row in relations if row["kind"] == "r" and not row["of_extension"]]
    take_columns(tables, like or {})
    digests = digest_tables(client, database, snapshot, tables if known is None else [])
    large_objects = digests.pop("")
    digests |= known or {}
    (counts,) = client.records(database, COUNTS, snapshot=snapshot)
    (settings,) = client.records(database, SETTINGS, snapshot=snapshot)
    extensions = client.records(database, EXTENSIONS, snapshot=snapshot)
    return {
        "tables": digests,
        "partitioned": {row["name"]: row["leaves"] for row in client.records(database, PARTITIONED, snapshot=snapshot)},
        "large_objects": large_objects,
        "schema": digest_schema(client, database, snapshot),
        "extensions": {row["name"]: row["version"] for row in extensions},
        "settings": settings,
        **counts,
        "not_compared": [
            {"name": full_name(row), "why": why_not(row)}
            for row in relations
            if row["kind"] != "r" or row["of_extension"]
        ],
    }


def full_name(relation: dict[str, Any]) -> str:
    return f"{relation['schema']}.{relation['name']}"


def why_not(relation: dict[str, Any]) -> str:
    if relation["of_extension"]:
        return "belongs to an extension"
    return (
        "materialized view: filled anew by a restore"
        if relation["kind"] == "m"
        else "foreign table: its data is elsewhere"
    )


def digest_tables(
    client: PostgresClient, database: str, snapshot: str | None, tables: list[dict[str, Any]]
) -> dict[str, Any]:
    """name → {rows, digest, order}; the large objects, if they can be read, under ""."""
    mark = f"backupctl-{secrets.token_hex(16)}"
    names: list[tuple[str, str]] = []
    script = [view_script(snapshot)]
    for relation in tables:
        order = "ordered" if is_ordered(relation) else "free"
        script.append(f"\\echo {mark} {len(names)} {order}\nCOPY ({select_rows(relation)}) TO STDOUT;\n")
        names.append((full_name(relation), order))
    script.append(f"\\echo {mark} {len(names)} free\nCOPY ({LARGE_OBJECTS}) TO STDOUT;\n\\echo {mark} end\n")
    names.append(("", "free"))
    request = {"argv": client.psql(database), "script": "".join(script), "mark": mark}
    completed = client.run([client.host.python, "-c", program_text(digest_program)], json.dumps(request))
    if completed.returncode != 0:
        raise client.failure(database, completed)
    reports = [json.loads(line) for line in completed.stdout.splitlines()]
    if not reports or "end" not in reports.pop() or len(reports) != len(names):
        raise SourceError(f"source {client.source}: fingerprint of database {database} is cut short: {said(completed)}")
    return {
        name: {"rows": report["rows"], "digest": report["digest"], "order": order}
        for (name, order), report in zip(names, reports, strict=True)
    }


def digest_schema(client: PostgresClient, database: str, snapshot: str | None) -> dict[str, str]:
    """`exact` is the text of a schema-only dump without comments and random tokens. `normal` leaves out parentheses and
    casts between text types: PostgreSQL prints `varchar_column IN ('a', 'b')` in another way once it has been reloaded."""
    options = ["--schema-only", "--no-password", "-d", client.database(database)]
    options += [f"--snapshot={snapshot}"] if snapshot else []
    completed = client.run([client.program("pg_dump"), *options])
    if completed.returncode != 0:
        raise client.failure(database, completed)
    text = completed.stdout.decode("utf-8", "surrogateescape")
    if "-- PostgreSQL database dump complete" not in text[-400:]:
        raise SourceError(
            f"source {client.source}: the schema of database {database} has no end, although pg_dump reported success",
            source=client.source,
            item=database,
            next_step="see whether pg_dump of `bin_dir` is the real one",
        )
    lines = [line for line in text.splitlines() if line and not line.startswith(("--", "\\restrict", "\\unrestrict"))]
    exact = "\n".join(lines)
    normal = re.sub(r"::(text|character varying|bpchar|character)(\(\d+\))?(\[\])?|[()]", "", exact)
    return {"exact": sha256(exact), "normal": sha256(normal)}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
