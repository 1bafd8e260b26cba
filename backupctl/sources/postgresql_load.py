"""Loading what a backup of PostgreSQL holds into a throw-away server: roles and tablespaces, then database by database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from backupctl.errors import CouldNotRunError, DamageError
from backupctl.hosts.protocol import ByteSource, Completed, Host, Process
from backupctl.hosts.unprivileged import unprivileged
from backupctl.sources.postgresql_client import PostgresClient, major
from backupctl.sources.postgresql_instance import MAINTENANCE, client_of
from backupctl.sources.postgresql_ordered import SCHEMA_DUMP, TABLE_END, TABLES
from backupctl.sources.protocol import Instance, SnapshotFiles
from backupctl.sources.streams import choose_databases, database_of, path_component, said

COPY_BYTES = 1 << 20
WRITABLE = "-c default_transaction_read_only=off"
"""A database may have been made read-only by a setting of its own, which its dump sets before the rows come."""
_ROLE = r'(?:"(?:[^"]|"")+"|[^\s";]+)'
SUPERUSER_IN_DUMP = re.compile(rf"^ALTER ROLE ({_ROLE}) WITH SUPERUSER ", re.MULTILINE)
GRANT_IN_DUMP = re.compile(rf"(?P<grant>GRANT {_ROLE} TO {_ROLE}(?: WITH [A-Z, ]+?)?) GRANTED BY (?P<grantor>{_ROLE});")
HOST_LACKS = re.compile(
    r"is not available|extension control file|could not access file|invalid locale|collation .* does not exist"
    r"|encoding .* does not match locale|No space left|could not connect|server closed the connection"
    r"|connection to server|unsupported version|out of memory|could not extend file"
)


def load(name: str, instance: Instance, files: SnapshotFiles, databases: Sequence[str] | None) -> list[str]:
    client = client_of(instance, name)
    present = {database_of(entry): entry for entry in files.names() if entry != b"globals.sql"}
    wanted = choose_databases(instance, databases, present, name)
    prepare(instance, client, files, wanted)
    for database in wanted:
        load_database(client, database, files)
    return [f"globals and {len(wanted)} database(s) restored: {', '.join(wanted)}"]


def prepare(instance: Instance, client: PostgresClient, files: SnapshotFiles, wanted: Sequence[str]) -> None:
    """What databases need before they come: roles and tablespaces."""
    load_globals(instance, client, read_all(files.open(b"globals.sql")).decode("utf-8", "surrogateescape"))
    if "postgres" in wanted:  # initdb has made one; the dump makes its own
        run_sql(client, "DROP DATABASE postgres;", "the empty database postgres")


def read_all(stream: ByteSource) -> bytes:
    try:
        parts = []
        while data := stream.read(COPY_BYTES):
            parts.append(data)
        return b"".join(parts)
    finally:
        stream.close()


def load_globals(instance: Instance, client: PostgresClient, text: str) -> None:
    """As dumped, but tablespaces go below the instance, never to the recorded paths, an older psql is spared the
    `\\restrict` that it does not know, and what superusers granted is granted by the instance's own.

    From PostgreSQL 16 on a superuser's grants stand in the name of the one that initdb made, and no other superuser may
    grant in that name; the instance's has another name than any of the source's."""
    restrict = client.supports("pg_dumpall", "--restrict-key")
    superusers = set(SUPERUSER_IN_DUMP.findall(text)) if major(instance.version) >= 16 else set()
    lines: list[str] = []
    for line in text.split("\n"):
        found = re.fullmatch(r"(CREATE TABLESPACE (.+) OWNER .+) LOCATION '.*';", line)
        if found:
            path = f"{instance.directory.decode()}/tablespace-{len(lines)}"
            make_owned(instance.host, path)
            line = f"{found.group(1)} LOCATION '{path}';"
        granted = GRANT_IN_DUMP.fullmatch(line)
        if granted and granted["grantor"] in superusers:
            line = f"{granted['grant']};"
        if restrict or not line.startswith(("\\restrict ", "\\unrestrict ")):
            lines.append(line)
    run_sql(client, "\n".join(lines), "globals.sql")


def make_owned(host: Host, path: str) -> None:
    host.make_directory(path.encode())
    unprivileged(host, ["postgres"]).give(path.encode())


def run_sql(client: PostgresClient, script: str, what: str, database: str = MAINTENANCE) -> None:
    completed = client.run(client.psql(database), script)
    if completed.returncode != 0:
        raise refusal(what, client, completed)


def load_database(client: PostgresClient, database: str, files: SnapshotFiles) -> None:
    component = path_component(database)
    if SCHEMA_DUMP not in files.names(component):
        load_dump(client, database, files.open(component + b"/database.dump"), "-C", into=MAINTENANCE)
        return
    schema = component + b"/" + SCHEMA_DUMP
    first = ["--section=pre-data", "--section=data", "-C"]
    load_dump(client, database, files.open(schema), *first, into=MAINTENANCE)
    load_tables(client, database, files, table_paths(files, component))
    load_dump(client, database, files.open(schema), "--section=post-data", into=database)


def load_dump(client: PostgresClient, database: str, stream: ByteSource, *options: str, into: str) -> None:
    argv = [client.program("pg_restore"), "--exit-on-error", *options, "--no-password", "-d", client.database(into)]
    try:
        with client.start(argv, PGOPTIONS=WRITABLE) as process:
            try:
                while data := stream.read(COPY_BYTES):
                    process.stdin.write(data)
            except BrokenPipeError:
                pass  # pg_restore gave up: its exit status and its words follow
            completed = process.finish()
    finally:
        stream.close()
    if completed.returncode != 0:
        raise refusal(f"dump of database {database}", client, completed)


def refusal(what: str, client: PostgresClient, completed: Completed) -> CouldNotRunError | DamageError:
    """Whose fault it is: the staging host's when it lacks something, otherwise the dump's."""
    message = f"{what} cannot be restored on host {client.host.name}: {said(completed)}"
    if completed.returncode >= 126 or HOST_LACKS.search(completed.stderr):
        return CouldNotRunError(message, next_step=f"give host {client.host.name} what is missing, then try again")
    return DamageError(message, name=what, next_step="restore an older snapshot, and run `backupctl check --read-data`")


def table_paths(files: SnapshotFiles, component: bytes) -> list[bytes]:
    """Of the tables of a database that was taken by `method: ordered`."""
    if TABLES not in files.names(component):
        return []
    tables = component + b"/" + TABLES
    return [
        tables + b"/" + schema + b"/" + name
        for schema in files.names(tables)
        for name in files.names(tables + b"/" + schema)
    ]


def load_tables(client: PostgresClient, database: str, files: SnapshotFiles, paths: Iterable[bytes]) -> None:
    """All through one psql, which stops at the first error."""
    with client.start(client.psql(database), PGOPTIONS=WRITABLE) as process:
        try:
            for path in paths:
                feed_table(process, files.open(path), path)
        except BrokenPipeError:
            pass  # psql gave up: its exit status and its words follow
        completed = process.finish()
    if completed.returncode != 0:
        raise refusal(f"tables of database {database}", client, completed)


def feed_table(process: Process, stream: ByteSource, path: bytes) -> None:
    ending = b""
    try:
        while data := stream.read(COPY_BYTES):
            process.stdin.write(data)
            ending = (ending + data[-len(TABLE_END) :])[-len(TABLE_END) :]
    finally:
        stream.close()
    if ending != TABLE_END:  # psql would take what follows for rows, and the end of its input for the end of the table
        shown = path.decode("utf-8", "backslashreplace")
        raise DamageError(f"{shown} in the snapshot has no end", name=shown, next_step="restore an older snapshot")
