"""One view of MariaDB or MySQL databases, shared by their dumps and their fingerprint.

Neither can export a snapshot, so all connections open theirs while nothing can commit: `BACKUP STAGE BLOCK_COMMIT`
(`FLUSH TABLES WITH READ LOCK` on MySQL, and on MariaDB before 10.4). A dump's view is open once it has written its first
`-- Current Database:`, which comes after `START TRANSACTION WITH CONSISTENT SNAPSHOT`; the dump itself says so, nothing is
guessed from process lists. With a binary log the dumps' positions must also be the same. Commits are
held up for the time it takes to connect, which is measured, recorded and bounded.

A database that cannot be described, dumped or read is left out and told; the others are stored. When all are bad, the source is.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Self

from backupctl.clock import Clock, iso
from backupctl.errors import SourceError
from backupctl.hosts.protocol import Host
from backupctl.repository.entry import Chunking, Entry
from backupctl.sources.mariadb_binlog import now_at
from backupctl.sources.mariadb_client import SYSTEM_SCHEMAS, MariadbClient, option_file, series
from backupctl.sources.mariadb_family import Family
from backupctl.sources.mariadb_fingerprint import (
    ELSEWHERE,
    TRANSACTIONAL,
    Table,
    TableReader,
    inside,
    lossy_columns,
    read_accounts,
    read_counts,
    read_digests,
    read_schema,
    read_sequences,
    read_sizes,
    read_tables,
    read_traces,
)
from backupctl.sources.mariadb_programs import any_client, choose_client
from backupctl.sources.mariadb_views import BLOCKED_LIMIT_SECONDS, Dump, Gate, no_end, watchdog
from backupctl.sources.mysql_accounts import dump_accounts_of_server
from backupctl.sources.protocol import Fingerprint
from backupctl.sources.streams import directory_node, path_component, stream_node

SMALL_CUT_BYTES, LARGE_CUT_BYTES = 8 << 10, 32 << 10
SMALL_DATABASE_BYTES = 20 << 30
"""A dump is in the order of primary keys: cut small, most of it is there already the next day. From here on the index of 8 KiB
pieces costs more than the bytes they save."""


class MariadbSession:
    def __init__(
        self,
        source: str,
        host: Host,
        clock: Clock,
        *,
        family: Family,
        options: tuple[str, ...],
        databases: list[str] | None,
        users: bool,
        bin_dir: str | None,
        password: Callable[[], bytes] | None,
        block_bytes: int | None = None,
    ) -> None:
        """`databases` None means all but the system's. `block_bytes`: of page files; None chooses by the size of the data."""
        self._name, self._clock, self._wanted, self._users, self._bin_dir = source, clock, databases, users, bin_dir
        self._client = MariadbClient(host, source, options, "", family)
        self._password, self._block_bytes = password, block_bytes
        self._stack = ExitStack()
        self._version = ""
        self._names: list[str] = []
        self._dumps: dict[str, Dump] = {}
        self._bad: dict[str, SourceError] = {}  # databases, and why they are no part of the fingerprint
        self._told: set[str] = set()  # those of them of which the reader of our entries knows already
        self._databases: dict[str, Any] = {}
        self._accounts = b""
        self._facts: dict[str, Any] = {}
        self._schemas: dict[str, dict[str, Any]] = {}
        self._tables: list[Table] = []
        self._outside: list[Table] = []
        self._outside_before: dict[str, Any] = {}
        self._sequences: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._reader: TableReader | None = None
        self._time = clock.now()

    def __enter__(self) -> Self:
        with self._stack as stack:
            self._connect(stack)
            self._look(stack)
            self._stack = stack.pop_all()
        return self

    def _connect(self, stack: ExitStack) -> None:
        self._client = client = connect(self._client, stack, self._password, self._bin_dir)
        self._version = client.server_version()
        self._client = client = choose_client(client, self._bin_dir, self._version)
        self._facts["versions"] = {"server": self._version, "server_series": series(self._version)}
        known = client.rows(f"SHOW GLOBAL VARIABLES LIKE '{client.family.server_id}';")  # of MariaDB since 10.5
        self._facts["server_uid"] = known[0][1] if known else ""

    def _look(self, stack: ExitStack) -> None:
        """What stands beside the rows, and then the views of the rows."""
        client = self._client
        self._names = sorted(self._wanted or list_databases(client), key=path_component)
        if not self._names:
            raise SourceError(
                f"source {self._name}: the server has no databases but its own",
                source=self._name,
                next_step=f"see that the backup user may see them: {client.family.grant} the backup user;",
            )
        if self._users:
            self._accounts = dump_accounts(client)
        counts = read_counts(client, self._names)
        for name in self._names:
            try:
                self._schemas[name] = read_schema(client, name, counts[name])
            except SourceError as error:
                self._bad[name] = error
        good = self._good()
        self._tables = read_tables(client, good)
        self._sequences = read_sequences(client, good)
        self._sizes = read_sizes(client)
        self._outside = [table for table in self._tables if table.engine not in {TRANSACTIONAL, *ELSEWHERE}]
        if self._outside:
            self._outside_before = self._look_outside()
        self._open_views(stack, self._version)
        self._good()

    def _look_outside(self) -> dict[str, Any]:
        """Tables that no view covers. What is the same before all views and after all dumps was not written to in between; what the
        view's own connection reads would not do, since a dump may have read the table before or after it."""
        traces = read_traces(self._client, self._outside)
        digests, unread = read_digests(self._client, self._outside)
        self._lose(unread)
        return {table: (digest, traces.get(table)) for table, digest in digests.items()}

    def _good(self) -> list[str]:
        """The databases of which nothing bad is known. Raises SourceError when there is none."""
        good = [name for name in self._names if name not in self._bad]
        if not good:
            raise next(iter(self._bad.values()))
        return good

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _open_views(self, stack: ExitStack, version: str) -> None:
        client = self._client
        logging = client.variable("log_bin") == "1"
        options = list(client.family.positions) if logging else []
        gate = Gate(client, version)
        with ExitStack() as watch:
            watch.callback(gate.close)
            gate.shut()
            self._time, started = self._clock.now(), self._clock.monotonic()
            overdue = watchdog(BLOCKED_LIMIT_SECONDS, gate.kill)
            watch.callback(overdue.cancel)
            within = [table for table in self._tables if table not in self._outside]
            self._reader = reader = TableReader(client, within)
            stack.callback(reader.close)
            self._start_dumps(stack, options)
            reader.wait_until_ready()
            self._wait_for_dumps()
            if logging and client.family.executed is not None:
                self._note_place(client.family.executed)
            gate.reopen()
            self._facts["commits_held_up_seconds"] = round(self._clock.monotonic() - started, 3)
        self._compare_positions(logging)

    def _start_dumps(self, stack: ExitStack, options: list[str]) -> None:
        for name in self._good():
            self._dumps[name] = dump = Dump(self._client, self._name, name, options)
            stack.callback(dump.close)

    def _wait_for_dumps(self) -> None:
        """Commits are still held up."""
        for name, dump in list(self._dumps.items()):
            try:
                dump.wait_until_open()
            except SourceError as error:
                self._bad[name] = error
                del self._dumps[name]

    def _note_place(self, executed: str) -> None:
        """Into the dumps, while commits are still held up: a dump program of MySQL would first flush all tables, and wait for every
        statement that reads one. `executed`: the variable with the transactions so far."""
        at = now_at(self._client)
        ((gtids,),) = self._client.rows(f"SELECT REPLACE(@@GLOBAL.{executed}, '\\n', '');")  # a line for each server
        self._facts[executed] = gtids
        place = f"-- CHANGE REPLICATION SOURCE TO SOURCE_LOG_FILE='{at.file}', SOURCE_LOG_POS={at.offset};\n"
        place += f"-- SET @@GLOBAL.gtid_purged = '+{gtids}';\n" if gtids else ""
        for dump in self._dumps.values():
            dump.head = place.encode() + dump.head

    def _compare_positions(self, logging: bool) -> None:
        positions = {dump.position() for dump in self._dumps.values()}
        if len(positions) > 1 or (logging and None in positions):
            raise SourceError(
                f"source {self._name}: the dumps did not open one view: {positions}",
                source=self._name,
                next_step="run the job again; report it if it happens again",
            )
        for position in positions - {None}:
            self._facts["binary_log"] = list(position or ())

    def entries(self) -> Iterator[Entry]:
        found = [(path_component(name), name) for name in self._dumps] + [(b"users.sql", "")] * self._users
        for component, database in sorted(found):
            if not database:
                node = stream_node(component, self._time, len(self._accounts))
                yield Entry(component, node, open=lambda: io.BytesIO(self._accounts))
                continue
            yield Entry(component, directory_node(component, self._time))
            node = stream_node(b"database.sql", self._time)
            small = self._sizes.get(database, 0) <= SMALL_DATABASE_BYTES
            chunking = Chunking("content", SMALL_CUT_BYTES if small else LARGE_CUT_BYTES)
            yield Entry(component + b"/database.sql", node, open=self._dumps[database].stream, chunking=chunking)
            if failure := self._dumps[database].failure():
                self._bad[database] = failure
                self._told.add(database)
        yield from self._describe()

    def _lose(self, unread: Mapping[Table, SourceError]) -> None:
        for table, error in unread.items():
            self._bad.setdefault(table.database, error)

    def _describe(self) -> Iterator[Entry]:
        """What the views held, for the fingerprint; then, for each database that is no part of it, why."""
        client = self._client
        assert self._reader is not None
        digests = self._reader.result()
        self._lose(self._reader.unread)
        again = self._look_outside() if self._outside else {}
        not_compared = {
            table.full_name: f"engine {table.engine}" for table in self._tables if table.engine in ELSEWHERE
        }
        for table in self._outside:
            before, after = (one.get(table.full_name) for one in (self._outside_before, again))
            if before is not None and before == after:
                digests[table.full_name] = before[0]
            else:
                not_compared[table.full_name] = f"engine {table.engine} has no views, and it changed during the dump"
        good = [name for name in self._names if name not in self._bad]
        sequences, counts = (read_sequences(client, good), read_counts(client, good)) if good else ({}, {})
        for name in good:
            try:
                schema = read_schema(client, name, counts[name])
            except SourceError as error:
                self._bad[name] = error
                continue
            if schema != self._schemas[name]:
                self._bad[name] = SourceError(
                    f"source {self._name}: definitions in database {name} changed while it was dumped",
                    source=self._name,
                    item=name,
                    next_step="run the job again when nobody changes tables",
                )
                continue
            own = partial(of_database, name)
            spans = {key: sorted((value, sequences.get(key, value))) for key, value in self._sequences.items()}
            self._databases[name] = {
                "tables": own(digests),
                "sequences": own(spans),
                **schema,
                "six_digits_only": own(lossy_columns(self._tables)),
                "not_compared": [{"name": key, "why": why} for key, why in own(not_compared).items()],
            }
        for name, why in self._bad.items():
            if self._databases and name not in self._told:
                component = path_component(name)
                yield Entry(component, directory_node(component, self._time), error=why.message)

    def fingerprint(self) -> Fingerprint:
        good = self._good()
        if good != list(self._databases):
            raise SourceError(
                f"source {self._name}: it was not read to its end",
                source=self._name,
                next_step="see the problem above it",
            )
        if self._users:
            self._facts["accounts"] = read_accounts(self._accounts.decode("utf-8", "surrogateescape"), good)
        return {
            "kind": self._client.family.kind,
            "time": iso(self._time),
            **self._facts,
            "columns": "stored",
            "databases": self._databases,
        }


def of_database(database: str, facts: dict[str, Any]) -> dict[str, Any]:
    """The part of facts by full name that belongs to one database, by the name within it."""
    prefix = database + "."
    return {name[len(prefix) :]: value for name, value in facts.items() if name.startswith(prefix)}


def connect(
    client: MariadbClient, stack: ExitStack, password: Callable[[], bytes] | None, bin_dir: str | None
) -> MariadbClient:
    """`client` with its password in a private file and programs that exist."""
    path = stack.enter_context(client.host.private_file(option_file(password() if password else None)))
    return any_client(replace(client, defaults=f"--defaults-extra-file={path}"), bin_dir)


def list_databases(client: MariadbClient) -> list[str]:
    query = f"SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN {inside(SYSTEM_SCHEMAS)};"  # noqa: S608  names that stand in this program
    return [row[0] for row in client.rows(query)]


def dump_accounts(client: MariadbClient) -> bytes:
    """Users, roles and grants as SQL that leaves existing accounts alone."""
    options = client.family.accounts
    if options is None:
        return dump_accounts_of_server(client)
    completed = client.host.run(client.dump_argv(*options))
    if completed.returncode != 0:
        raise client.failure(completed, "accounts (`users: false` leaves them out)")
    complaint = no_end(completed.stdout)
    if complaint:
        raise SourceError(
            f"source {client.source}: the dump of accounts {complaint}, although its program reported success",
            source=client.source,
            item="users.sql",
            next_step=f"see whether {client.family.dumpers[0]} of `bin_dir` is the real one",
        )
    return completed.stdout


def refuse_changed_accounts(client: MariadbClient, before: bytes) -> None:
    """Raises SourceError when they are not what `dump_accounts` gave `before`: a view in between had either."""
    if dump_accounts(client) != before:
        raise SourceError(
            f"source {client.source}: accounts or grants changed while the views were opened",
            source=client.source,
            item="users.sql",
            next_step="run the job again when nobody changes accounts",
        )
