"""One view of MariaDB databases, shared by their dumps and their fingerprint.

MariaDB cannot export a snapshot, so all connections open theirs while nothing can commit: `BACKUP STAGE BLOCK_COMMIT`
(`FLUSH TABLES WITH READ LOCK` on servers before 10.4). A dump's view is open once it has written its first
`-- Current Database:`, which comes after `START TRANSACTION WITH CONSISTENT SNAPSHOT`; the dump itself says so, nothing is
guessed from process lists. With a binary log the dumps' positions must also be the same. Commits are
held up for the time it takes to connect, which is measured, recorded and bounded.
"""

from __future__ import annotations

import io
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NoReturn, Self

from backupctl.clock import Clock, iso
from backupctl.errors import SourceError
from backupctl.hosts.protocol import ByteSource, Host, Process
from backupctl.repository.entry import Entry
from backupctl.sources.mariadb_client import (
    GRANT,
    SESSION,
    SYSTEM_SCHEMAS,
    MariadbClient,
    find_client,
    option_file,
    refuse_older,
    series,
)
from backupctl.sources.mariadb_fingerprint import (
    ELSEWHERE,
    TRANSACTIONAL,
    Table,
    TableReader,
    digest_tables,
    inside,
    lossy_columns,
    read_accounts,
    read_schema,
    read_sequences,
    read_tables,
)
from backupctl.sources.protocol import Fingerprint
from backupctl.sources.streams import ProcessStream, directory_node, path_component, stream_node

BLOCKED_LIMIT_SECONDS = 30.0  # then the locks are given back and the run fails: production goes before backup
VIEW_OPEN = b"\n-- Current Database:"
COMPLETED = b"-- Dump completed"
BLOCK_COMMITS = (
    "BACKUP STAGE START;\nBACKUP STAGE FLUSH;\nBACKUP STAGE BLOCK_DDL;\nBACKUP STAGE BLOCK_COMMIT;\n",
    "BACKUP STAGE END;\n",
)
LOCK_EVERYTHING = ("FLUSH TABLES WITH READ LOCK;\n", "UNLOCK TABLES;\n")
DUMP = (
    "--single-transaction",
    "--quick",
    "--routines",
    "--events",
    "--triggers",
    "--hex-blob",
    "--tz-utc",
    "--no-tablespaces",
)
POSITIONS = ("--master-data=2", "--gtid")
ACCOUNTS = ("--system=users", "--insert-ignore")
POSITION = re.compile(rb"-- CHANGE MASTER TO MASTER_LOG_FILE='([^']*)', MASTER_LOG_POS=(\d+);")


def no_end(tail: bytes) -> str:
    """What is wrong with the end of a dump; "" when it is complete."""
    lines = tail.rstrip(b"\n").rsplit(b"\n", 1)
    return "" if lines[-1].startswith(COMPLETED) else "has no `-- Dump completed` at its end"


def watchdog(seconds: float, action: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer


class Gate:
    """Holds up all commits from `close` to `open`."""

    def __init__(self, client: MariadbClient, version: str) -> None:
        self._client = client
        self._shut, self._reopen = (
            BLOCK_COMMITS if tuple(map(int, series(version).split("."))) >= (10, 4) else LOCK_EVERYTHING
        )
        self._mark = f"backupctl-{secrets.token_hex(16)}"
        self._process: Process = client.start(client.argv())
        self._ask(SESSION)

    def shut(self) -> None:
        self._ask(self._shut)

    def reopen(self) -> None:
        """A server that has already given up the connection has opened the gate itself: the views were not one."""
        self._ask(self._reopen)

    def _ask(self, script: str) -> None:
        answer = b""
        try:
            self._process.stdin.write(f"{script}SELECT '{self._mark}';\n".encode())
        except OSError:
            self._fail()
        while self._mark.encode() not in answer:
            data = self._process.stdout.read(65536)
            if not data:
                self._fail()
            answer += data

    def _fail(self) -> NoReturn:
        raise self._client.failure(self._process.finish(), "holding up commits while the views are opened")

    def kill(self) -> None:
        """Gives the locks back whatever hangs; `reopen` then raises."""
        self._process.kill()

    def close(self) -> None:
        self._process.__exit__(None, None, None)


class Dump:
    """A running dump of one database, read until its view is known to be open."""

    def __init__(self, client: MariadbClient, source: str, database: str, options: list[str]) -> None:
        self._client, self._source, self._database = client, source, database
        self._process = client.start(client.dump_argv(*DUMP, *options, "--databases", database))
        self.head = b""

    def wait_until_open(self) -> None:
        while VIEW_OPEN not in self.head:
            data = self._process.stdout.read(65536)
            if not data:
                completed = self._process.finish()
                raise self._client.failure(completed, f"dump of database {self._database}, which wrote nothing")
            self.head += data

    def position(self) -> tuple[str, int] | None:
        found = POSITION.search(self.head)
        return (found.group(1).decode(), int(found.group(2))) if found else None

    def stream(self) -> ByteSource:
        item = f"MariaDB database {self._database}"
        return ProcessStream(self._process, source=self._source, item=item, already=self.head, ending=no_end)

    def close(self) -> None:
        self._process.__exit__(None, None, None)


class MariadbSession:
    def __init__(
        self,
        source: str,
        host: Host,
        clock: Clock,
        *,
        options: tuple[str, ...],
        databases: list[str] | None,
        users: bool,
        bin_dir: str | None,
        password: Callable[[], bytes] | None,
        block_bytes: int | None = None,
    ) -> None:
        """`databases` None means all but the system's. `block_bytes`: of page files; None chooses by the size of the data."""
        self._name, self._clock, self._wanted, self._users, self._bin_dir = source, clock, databases, users, bin_dir
        self._client = MariadbClient(host, source, options, "")
        self._password, self._block_bytes = password, block_bytes
        self._stack = ExitStack()
        self._version = ""
        self._names: list[str] = []
        self._dumps: dict[str, Dump] = {}
        self._accounts = b""
        self._facts: dict[str, Any] = {}
        self._schemas: dict[str, dict[str, Any]] = {}
        self._tables: list[Table] = []
        self._sequences: dict[str, int] = {}
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
        refuse_older(client, self._version)
        self._facts["versions"] = {"server": self._version, "server_series": series(self._version)}
        known = client.rows("SHOW GLOBAL VARIABLES LIKE 'server_uid';")  # since 10.5
        self._facts["server_uid"] = known[0][1] if known else ""

    def _look(self, stack: ExitStack) -> None:
        """What stands beside the rows, and then the views of the rows."""
        client = self._client
        self._names = sorted(self._wanted or list_databases(client), key=path_component)
        if not self._names:
            raise SourceError(
                f"source {self._name}: the server has no databases but its own",
                source=self._name,
                next_step=f"see that the backup user may see them: {GRANT} the backup user;",
            )
        if self._users:
            self._accounts = dump_accounts(client)
            self._facts["accounts"] = read_accounts(self._accounts.decode("utf-8", "surrogateescape"), self._names)
        self._schemas = {name: read_schema(client, name) for name in self._names}
        self._tables = read_tables(client, self._names)
        self._sequences = read_sequences(client, self._names)
        self._open_views(stack, self._version)

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _open_views(self, stack: ExitStack, version: str) -> None:
        client = self._client
        logging = client.variable("log_bin") == "1"
        options = list(POSITIONS) if logging else []
        gate = Gate(client, version)
        with ExitStack() as watch:
            watch.callback(gate.close)
            gate.shut()
            self._time, started = self._clock.now(), self._clock.monotonic()
            overdue = watchdog(BLOCKED_LIMIT_SECONDS, gate.kill)
            watch.callback(overdue.cancel)
            self._reader = reader = TableReader(client, self._tables)
            stack.callback(reader.close)
            self._start_dumps(stack, options)
            reader.wait_until_ready()
            self._wait_for_dumps()
            gate.reopen()
            self._facts["commits_held_up_seconds"] = round(self._clock.monotonic() - started, 3)
        self._compare_positions(logging)

    def _start_dumps(self, stack: ExitStack, options: list[str]) -> None:
        for name in self._names:
            self._dumps[name] = dump = Dump(self._client, self._name, name, options)
            stack.callback(dump.close)

    def _wait_for_dumps(self) -> None:
        """Commits are still held up."""
        for dump in self._dumps.values():
            dump.wait_until_open()

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
        found = [(path_component(name), name) for name in self._names] + [(b"users.sql", "")] * self._users
        for component, database in sorted(found):
            if not database:
                node = stream_node(component, self._time, len(self._accounts))
                yield Entry(component, node, open=lambda: io.BytesIO(self._accounts))
                continue
            yield Entry(component, directory_node(component, self._time))
            node = stream_node(b"database.sql", self._time)
            yield Entry(component + b"/database.sql", node, open=self._dumps[database].stream)

    def fingerprint(self) -> Fingerprint:
        client = self._client
        assert self._reader is not None
        digests = self._reader.result()
        outside = [table for table in self._tables if table.engine not in {TRANSACTIONAL, *ELSEWHERE}]
        again = digest_tables(client, outside) if outside else {}
        not_compared = {
            table.full_name: f"engine {table.engine}" for table in self._tables if table.engine in ELSEWHERE
        }
        for table in outside:
            if again[table.full_name] != digests[table.full_name]:
                digests.pop(table.full_name)
                not_compared[table.full_name] = f"engine {table.engine} has no views, and it changed during the dump"
        after = read_sequences(client, self._names)
        databases: dict[str, Any] = {}
        for name in self._names:
            schema = read_schema(client, name)
            if schema != self._schemas[name]:
                raise SourceError(
                    f"source {self._name}: definitions in database {name} changed while it was dumped",
                    source=self._name,
                    item=name,
                    next_step="run the job again when nobody changes tables",
                )
            own = partial(of_database, name)
            spans = {key: sorted((value, after.get(key, value))) for key, value in self._sequences.items()}
            databases[name] = {
                "tables": own(digests),
                "sequences": own(spans),
                **schema,
                "six_digits_only": own(lossy_columns(self._tables)),
                "not_compared": [{"name": key, "why": why} for key, why in own(not_compared).items()],
            }
        return {"kind": "mariadb", "time": iso(self._time), **self._facts, "databases": databases}


def of_database(database: str, facts: dict[str, Any]) -> dict[str, Any]:
    """The part of facts by full name that belongs to one database, by the name within it."""
    prefix = database + "."
    return {name[len(prefix) :]: value for name, value in facts.items() if name.startswith(prefix)}


def connect(
    client: MariadbClient, stack: ExitStack, password: Callable[[], bytes] | None, bin_dir: str | None
) -> MariadbClient:
    """`client` with its password in a private file and programs that exist."""
    path = stack.enter_context(client.host.private_file(option_file(password() if password else None)))
    return find_client(
        MariadbClient(client.host, client.source, client.options, f"--defaults-extra-file={path}"), bin_dir
    )


def list_databases(client: MariadbClient) -> list[str]:
    query = f"SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN {inside(SYSTEM_SCHEMAS)};"  # noqa: S608
    return [row[0] for row in client.rows(query)]


def dump_accounts(client: MariadbClient) -> bytes:
    """Users, roles and grants as SQL that leaves existing accounts alone."""
    completed = client.host.run(client.dump_argv(*ACCOUNTS))
    if completed.returncode != 0:
        raise client.failure(completed, "accounts (`users: false` leaves them out)")
    complaint = no_end(completed.stdout)
    if complaint:
        raise SourceError(
            f"source {client.source}: the dump of accounts {complaint}, although its program reported success",
            source=client.source,
            item="users.sql",
            next_step="see whether mariadb-dump of `bin_dir` is the real one",
        )
    return completed.stdout
