"""One consistent view of each PostgreSQL database: an exported snapshot, held open while it is dumped and read.

A control process (psql) holds a repeatable-read transaction and exports its snapshot; pg_dump and the fingerprint both
see exactly that. Proven under 1,300 transactions per second: restored rows equal the fingerprint.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from typing import Any, Self

from backupctl.clock import Clock, iso
from backupctl.errors import SourceError
from backupctl.hosts.protocol import ByteSource, Host
from backupctl.repository.entry import Chunking, Entry
from backupctl.sources import tee_program
from backupctl.sources.postgresql_client import (
    DUMP_OPTIONS,
    Conversation,
    PostgresClient,
    choose_client,
    find_psql,
    major,
    view_script,
)
from backupctl.sources.postgresql_fingerprint import describe_database, read_roles, read_sequences
from backupctl.sources.postgresql_ordered import OrderedDatabase
from backupctl.sources.protocol import Fingerprint
from backupctl.sources.streams import (
    ProcessStream,
    directory_node,
    path_component,
    program_text,
    said,
    start_program,
    stream_node,
)

GLOBALS_END = b"-- PostgreSQL database cluster dump complete"
GLOBALS_ATTEMPTS = 3
RESTRICT_KEY = "backupctl"
SYSTEM = "SELECT system_identifier::text AS system FROM pg_control_system()"


class View:
    """The control process of one database."""

    def __init__(self, client: PostgresClient, database: str) -> None:
        self.client, self.database = client, database
        self._session = Conversation(client, database)
        self.snapshot = self._session.ask(view_script(None) + "SELECT pg_export_snapshot();")

    def confirm(self) -> None:
        """Raises SourceError unless the transaction is still open: then the snapshot was there all the time."""
        self._session.ask("SELECT pg_export_snapshot();")

    def close(self) -> None:
        self._session.close()


class PostgresSession:
    def __init__(
        self,
        source: str,
        host: Host,
        clock: Clock,
        *,
        conninfo: str,
        databases: list[str] | None,
        bin_dir: str | None,
        password: Callable[[], bytes] | None,
        parallel: int = 0,
    ) -> None:
        """`databases` None means all that accept connections and are no templates. `parallel`: so many tables at a time, each
        by itself in the order of its key; 0 for pg_dump alone."""
        self._name, self._clock, self._wanted, self._bin_dir = source, clock, databases, bin_dir
        self._client = PostgresClient(host, source, conninfo)
        self._password, self._parallel = password, parallel
        self._stack = ExitStack()
        self._view: View | None = None
        self._view_time = clock.now()
        self._first_time: datetime | None = None
        self._sequences: dict[str, int] = {}
        self._databases: dict[str, dict[str, Any]] = {}
        self._bad: dict[str, SourceError] = {}
        self._names: list[str] = []
        self._globals = b""
        self._facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        with self._stack as stack:
            self._client = connect(self._client, stack, self._password, self._bin_dir)
            names = sorted(self._wanted or list_databases(self._client), key=path_component)
            first, server = self._first_that_answers(names)
            self._client = choose_client(self._client, self._bin_dir, server)
            self._read_globals(first)
            self._names = names
            stack.callback(self._close_view)
            self._open_view(first)  # refuses now what would be refused later
            self._facts["versions"] = {
                "server": server,
                "server_major": major(server),
                "pg_dump": self._client.version(),
            }
            (control,) = self._client.records(first, SYSTEM)
            self._facts["system_identifier"] = control["system"]  # a drill never loads into this server
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _first_that_answers(self, names: list[str]) -> tuple[str, str]:
        """A database and the server's version. Raises SourceError of the first when none answers."""
        for name in names:
            try:
                return name, self._client.server_version(name)
            except SourceError as error:
                self._bad[name] = error
        raise self._bad[names[0]]

    def _open_view(self, database: str) -> None:
        if self._view is None or self._view.database != database:
            self._close_view()
            self._view_time = self._clock.now()
            self._first_time = self._first_time or self._view_time
            self._sequences = read_sequences(self._client, database)
            self._view = View(self._client, database)

    def _close_view(self) -> None:
        if self._view is not None:
            self._view.close()
            self._view = None

    def entries(self) -> Iterator[Entry]:
        """One database after the other: each view is open only while its database is dumped and read, since it keeps
        the server from cleaning up, and databases share no transactions. One that cannot be opened or described is told, and
        the others go on."""
        for component, database in sorted(
            [(b"globals.sql", ""), *((path_component(name), name) for name in self._names)]
        ):
            if not database:
                node = stream_node(component, self._clock.now(), len(self._globals))
                yield Entry(component, node, open=lambda: io.BytesIO(self._globals), chunking=Chunking())
                continue
            self._bad.pop(database, None)
            try:
                self._open_view(database)
                yield Entry(component, directory_node(component, self._view_time))
                if self._parallel:
                    yield from self._ordered(component)
                else:
                    node = stream_node(b"database.dump", self._view_time)
                    yield Entry(component + b"/database.dump", node, open=self._open_dump)
                    self._databases[database] = self._describe(self._client)
            except SourceError as error:
                if error.transient:
                    raise  # the run may be tried again
                self._bad[database] = error
                yield Entry(component, directory_node(component, self._view_time), error=error.message)
        self._close_view()

    def _ordered(self, component: bytes) -> Iterator[Entry]:
        view = self._require_view()
        tables = OrderedDatabase(
            self._client, view.database, view.snapshot, parallel=self._parallel, at=self._view_time
        )
        try:
            yield from tables.entries(component)
        finally:
            tables.close()
        facts = self._describe(tables.client, known=tables.reports)
        self._databases[view.database] = {**facts, "client_encoding": tables.client_encoding}

    def _open_dump(self) -> ByteSource:
        client, view = self._client, self._require_view()
        dump = [client.program("pg_dump"), *DUMP_OPTIONS, f"--snapshot={view.snapshot}"]
        request = {
            "dump": [*dump, "-d", client.database(view.database)],
            "read": [client.program("pg_restore"), "-f", "/dev/null"],
        }
        process = start_program(client.start, client.host.python, program_text(tee_program), request)
        return ProcessStream(process, source=self._name, item=f"PostgreSQL database {view.database}")

    def _describe(self, client: PostgresClient, known: dict[str, Any] | None = None) -> dict[str, Any]:
        """Raises SourceError."""
        view = self._require_view()
        facts = describe_database(client, view.database, view.snapshot, known=known)
        after = read_sequences(self._client, view.database)
        view.confirm()
        facts["sequences"] = {key: sorted((value, after.get(key, value))) for key, value in self._sequences.items()}
        return {"time": iso(self._view_time), **facts}

    def _require_view(self) -> View:
        if self._view is None:
            raise SourceError(f"source {self._name}: its entry was opened after its turn", source=self._name)
        return self._view

    def fingerprint(self) -> Fingerprint:
        """Raises SourceError when no database could be described."""
        if self._bad and not self._databases:
            raise next(iter(self._bad.values()))
        time = iso(self._first_time or self._clock.now())
        method = {"method": "ordered"} if self._parallel else {}
        return {"kind": "postgresql", "time": time, **method, **self._facts, "databases": self._databases}

    def _read_globals(self, database: str) -> None:
        """Roles are not in any database's snapshot: read, dump, read again until both readings are equal."""
        client = self._client
        (row,) = client.records(database, "SELECT has_table_privilege('pg_authid', 'select') AS readable")
        passwords = bool(row["readable"])
        argv = [client.program("pg_dumpall"), "--globals-only", "--no-password", "-d", client.database(database)]
        argv += [] if passwords else ["--no-role-passwords"]
        argv += [f"--restrict-key={RESTRICT_KEY}"] if client.supports("pg_dumpall", "--restrict-key") else []
        for _ in range(GLOBALS_ATTEMPTS):
            roles = read_roles(client, database, passwords=passwords)
            completed = client.run(argv)
            if completed.returncode != 0:
                raise client.failure(None, completed)
            if GLOBALS_END not in completed.stdout[-400:]:
                raise SourceError(
                    f"source {self._name}: globals have no end, although pg_dumpall reported success ({said(completed)})",
                    source=self._name,
                    item="globals.sql",
                    next_step="see whether pg_dumpall of `bin_dir` is the real one",
                )
            if read_roles(client, database, passwords=passwords) == roles:
                self._globals = completed.stdout
                self._facts |= {"roles": roles, "role_passwords": passwords}
                return
        raise SourceError(
            f"source {self._name}: roles changed during each of {GLOBALS_ATTEMPTS} attempts to dump them",
            source=self._name,
            item="globals.sql",
            next_step="run the job again when nobody changes roles",
        )


def connect(
    client: PostgresClient, stack: ExitStack, password: Callable[[], bytes] | None, bin_dir: str | None
) -> PostgresClient:
    """`client` with its password in a private file and a psql that exists."""
    env = {"PGAPPNAME": "backupctl", "PGCONNECT_TIMEOUT": "15"}
    if password is not None:
        secret = password().decode().rstrip("\r\n")
        line = "*:*:*:*:" + secret.replace("\\", "\\\\").replace(":", "\\:") + "\n"
        env["PGPASSFILE"] = stack.enter_context(client.host.private_file(line.encode()))
    return find_psql(replace(client, env=env), bin_dir)


def list_databases(client: PostgresClient) -> list[str]:
    """All databases that accept connections. Asked in `postgres`, unless `conninfo` names a database."""
    database = None if "dbname" in client.conninfo else "postgres"
    query = "SELECT datname AS name FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1"
    return [str(row["name"]) for row in client.records(database, query)]
