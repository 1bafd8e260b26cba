"""A restored database, brought from its private server into one that others use, under a name that is free there.

Whatever way it was restored (a dump, files of a whole server, a point in time), it goes on as pg_dump's stream: nothing of the
live server but the new database is touched. It is compared on both sides, and taken away again when anything went wrong.
"""

from __future__ import annotations

from typing import Any

from backupctl.errors import CouldNotRunError, DamageError, UsageError
from backupctl.sources.postgresql_client import PostgresClient, identifier, literal, major
from backupctl.sources.postgresql_fingerprint import describe_database, read_sequences
from backupctl.sources.postgresql_instance import compare_database, compare_sequences
from backupctl.sources.postgresql_load import load_dump
from backupctl.sources.streams import ProcessStream, gone_unless_whole, said

DUMP = ("-Fc", "-Z0", "--no-password")
PROPERTIES = """
SELECT to_jsonb(d) AS own, pg_encoding_to_char(d.encoding) AS encoding, r.rolname AS owner
FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba WHERE d.datname = current_database()
"""
ROLES = """
SELECT DISTINCT r.rolname AS name FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
JOIN pg_database own ON own.datname = current_database()
WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype IN ('o', 'a', 'r')
  AND (d.dbid = own.oid OR (d.classid = 'pg_database'::regclass AND d.deptype = 'o' AND d.objid = own.oid))
ORDER BY 1
"""
EXTENSIONS = "SELECT extname AS name FROM pg_extension ORDER BY 1"
AVAILABLE = "SELECT name FROM pg_available_extensions"
THERE = "SELECT rolname AS name FROM pg_roles"
MAY = """
SELECT EXISTS (SELECT FROM pg_database WHERE datname = {name}) AS taken, pg_is_in_recovery() AS standby,
  (SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user) AS may, current_user AS me
"""


def maintenance(live: PostgresClient) -> str | None:
    return None if "dbname" in live.conninfo else "postgres"


def refuse_taken(live: PostgresClient, name: str) -> None:
    """Before anything is restored: may a database of that name be made there? Raises UsageError, SourceError."""
    (row,) = live.records(maintenance(live), MAY.format(name=literal(name)))
    if row["standby"]:
        raise UsageError("that server is a standby: nothing can be made there", next_step="name the primary")
    if row["taken"]:
        raise UsageError(
            f"that server has a database {name} already; nothing was touched",
            next_step="choose another name: --as NAME",
        )
    if not row["may"]:
        raise UsageError(
            f"role {row['me']} may not make databases on that server",
            next_step=f"ALTER ROLE {row['me']} CREATEDB, or another user",
        )


def send_database(private: PostgresClient, database: str, live: PostgresClient, name: str) -> list[str]:
    """Notes for people. Raises UsageError for what the live server lacks, DamageError when what came there differs; then the new
    database is gone again."""
    refuse_taken(live, name)
    refuse_lacking(private, database, live)
    (properties,) = private.records(database, PROPERTIES)
    run(live, create_statement(name, properties))
    with gone_unless_whole(name, lambda: run(live, f"DROP DATABASE {identifier(name)} WITH (FORCE);")):
        dump = private.start([private.program("pg_dump"), *DUMP, "-d", private.database(database)])
        stream = ProcessStream(dump, source=private.source, item=f"restored database {database}")
        load_dump(live, name, stream, "--no-tablespaces", into=name)
        compare(private, database, live, name)
    return [f"database {database} is on that server as {name}, and equal to what was restored, table by table"]


def refuse_lacking(private: PostgresClient, database: str, live: PostgresClient) -> None:
    here, there = private.server_version(database), live.server_version(maintenance(live))
    if major(there) < major(here):
        raise UsageError(
            f"that server is PostgreSQL {there}, older than the backup's {here}",
            next_step="name a server of that version or newer",
        )
    roles = names(private, database, ROLES) - names(live, maintenance(live), THERE)
    if roles:
        step = " ".join(f"CREATE ROLE {identifier(one)};" for one in sorted(roles))
        raise UsageError(
            f"that server lacks roles that own or use what is in {database}: {', '.join(sorted(roles))}", next_step=step
        )
    extensions = names(private, database, EXTENSIONS) - names(live, maintenance(live), AVAILABLE)
    if extensions:
        raise UsageError(
            f"that server's host lacks extensions: {', '.join(sorted(extensions))}", next_step="install their packages"
        )


def names(client: PostgresClient, database: str | None, query: str) -> set[str]:
    return {str(row["name"]) for row in client.records(database, query)}


def create_statement(name: str, properties: dict[str, Any]) -> str:
    own = properties["own"]
    parts = [f"CREATE DATABASE {identifier(name)} OWNER {identifier(properties['owner'])} TEMPLATE template0"]
    parts.append(f"ENCODING {literal(properties['encoding'])}")
    parts.append(f"LC_COLLATE {literal(own['datcollate'])} LC_CTYPE {literal(own['datctype'])}")
    provider, locale = own.get("datlocprovider"), own.get("datlocale") or own.get("daticulocale") or ""
    if provider == "i":
        parts.append(f"LOCALE_PROVIDER icu ICU_LOCALE {literal(locale)}")
    elif provider == "b":
        parts.append(f"LOCALE_PROVIDER builtin BUILTIN_LOCALE {literal(locale)}")
    return " ".join(parts) + ";"


def run(live: PostgresClient, statement: str) -> None:
    completed = live.run(live.psql(maintenance(live)), "SET default_transaction_read_only = off;\n" + statement)
    if completed.returncode != 0:
        raise CouldNotRunError(
            f"{statement.partition(' OWNER')[0]}: {said(completed)}", next_step="see what that server lacks"
        )


def compare(private: PostgresClient, database: str, live: PostgresClient, name: str) -> None:
    wanted = describe_database(private, database, None)
    found = describe_database(live, name, None, like=wanted["tables"])
    checks = compare_database(name, {**wanted, "settings": {}}, found)
    sequences = {key: [value, value] for key, value in read_sequences(private, database).items()}
    checks += compare_sequences(name, sequences, read_sequences(live, name))
    different = [one for one in checks if not one.ok]
    if different:
        first = different[0]
        raise DamageError(
            f"{first.name} on that server: {first.actual}, the restored one has {first.expected}; the new database is not kept",
            name=first.name,
            next_step="restore into a private server alone (without --into-server), and look there",
        )
