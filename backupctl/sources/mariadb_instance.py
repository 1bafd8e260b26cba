"""A throw-away MariaDB or MySQL server: boot it empty, load dumps, compare what came back with the fingerprint."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from backupctl.errors import CouldNotRunError, DamageError, SourceError
from backupctl.hosts.protocol import ByteSource, Completed, Host
from backupctl.sources import throwaway
from backupctl.sources.mariadb_client import (
    MariadbClient,
    find_client,
    identifier,
    literal,
    option_file,
    series,
)
from backupctl.sources.mariadb_family import FAMILIES, MARIADB, MYSQL, Family
from backupctl.sources.mariadb_fingerprint import (
    digest_tables,
    read_accounts,
    read_counts,
    read_schema,
    read_sequences,
    read_tables,
)
from backupctl.sources.mariadb_programs import directories, inside
from backupctl.sources.mariadb_session import dump_accounts, list_databases, of_database
from backupctl.sources.mariadb_views import no_end
from backupctl.sources.protocol import CheckResult, Fingerprint, Instance, SnapshotFiles
from backupctl.sources.streams import (
    choose_databases,
    chosen_databases,
    compare_tables,
    database_of,
    path_component,
    said,
)

ADMINISTRATOR = "backupctl_drill"
COPY_BYTES = 1 << 20
SERVER_OPTIONS = (
    "--skip-networking",
    "--skip-log-bin",
    "--event-scheduler=OFF",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-buffer-pool-size=128M",
    "--max-allowed-packet=1G",
    "--local-infile=OFF",
    "--character-set-server=utf8mb4",
    "--performance-schema=OFF",
)
LOG_OPTIONS = ("--server-id=1", "--binlog-format=ROW", "--binlog-checksum=CRC32", "--log-bin-compress=OFF")
HOST_LACKS = re.compile(
    r"ERROR (1021|1041|1114|1286|1524|2002|2006|2013|3|3750)\b|No space left|Plugin|Unknown storage engine"
)


def server_program(
    host: Host, bin_dir: str | None, wanted: str, source: str, family: Family = MARIADB
) -> tuple[str, str]:
    """(program, version) of a server of the family, of the series `wanted`."""
    found = []
    places = [f"{one}/{family.servers[0]}" for one in reversed(directories(host, bin_dir)) if one]
    for name in [*places, *family.servers]:
        completed = host.run([name, "--no-defaults", "--version"])
        version = family.version_said(completed.stdout.decode("utf-8", "replace"))
        if completed.returncode == 0 and version:
            if series(version) == wanted:
                return name, version
            found.append(version)
    there = f"has {family.name} server {', '.join(found)}" if found else f"has no {family.name} server"
    raise CouldNotRunError(
        f"source {source} was {family.name} {wanted}; host {host.name} {there}",
        next_step=f"install {family.server_package} of series {wanted} on host {host.name}",
    )


def install_command(host: Host, program: str, family: Family = MARIADB) -> list[str]:
    """What makes a data directory for the server `program`. MySQL's does it itself; MariaDB's has a program for it, beside it where
    that is named by its path, else that of the PATH."""
    if family is MYSQL:
        return [program, "--no-defaults", "--initialize-insecure", *based(program)]
    directory = program.rpartition("/")[0]
    for base in based(program):
        for candidate in (f"{directory}/mariadb-install-db", f"{base.partition('=')[2]}/scripts/mariadb-install-db"):
            if host.stat(candidate.encode()) is not None:
                return [candidate, "--no-defaults", base]
    return ["mariadb-install-db", "--no-defaults"]


def based(program: str) -> list[str]:
    """The option that has a server named by its path look for messages, character sets and plugins beside it: what is built
    in is where its packages would have put them, and another series may lie there."""
    directory, slash, _ = program.rpartition("/")
    return [f"--basedir={directory.rpartition('/')[0]}"] if slash else []


def clients_beside(host: Host, program: str, family: Family = MARIADB) -> str:
    """The directory of the server `program`, when its clients are there too; else ""."""
    directory = program.rpartition("/")[0]
    clients = (f"{directory}/{name}" for name in (family.clients[0], family.dumpers[0], family.log_reader))
    return directory if directory and all(host.run([one, "--version"]).returncode == 0 for one in clients) else ""


def administrator_beside(accounts: Iterable[str]) -> str:
    """A name that none of the source's accounts has."""
    name, known = ADMINISTRATOR, " ".join(accounts)
    while f"'{name}'" in known:
        name += "_"
    return name


def logging(log: str) -> list[str]:
    """Options behind SERVER_OPTIONS, for a server that shall write a binary log, beside its data."""
    return [f"--log-bin={log}", *LOG_OPTIONS] if log else []


def boot(
    name: str, host: Host, directory: bytes, fingerprint: Fingerprint, bin_dir: str | None, log_bin: str = ""
) -> Instance:
    family = FAMILIES[fingerprint["kind"]]
    program, version = server_program(host, bin_dir, fingerprint["versions"]["server_series"], name, family)
    identity, sockets = throwaway.prepare(host, directory, "mysql")
    root = directory.decode()
    socket, log = f"{sockets}/s", f"{root}/server.log"
    instance = Instance(family.kind, host, directory, version)
    clients = clients_beside(host, program, family)
    instance.connection = {"sockets": sockets, "socket": socket, "user": "root", "bin_dir": clients}
    try:
        for path in (f"{root}/data", f"{root}/temporary"):
            host.make_directory(path.encode())
            identity.give(path.encode())
        install = [*install_command(host, program, family), f"--datadir={root}/data", f"--tmpdir={root}/temporary"]
        install += family.install
        completed = host.run(identity.command(install))
        if completed.returncode != 0:
            raise CouldNotRunError(
                f"{install[0]} in {root} on host {host.name}: {said(completed)}{completed.stdout[-1000:].decode()}",
                next_step=f"install {family.server_package}, or see what the host lacks",
            )
        argv = [program, "--no-defaults", f"--datadir={root}/data", f"--tmpdir={root}/temporary", f"--socket={socket}"]
        argv += [f"--pid-file={root}/pid", f"--secure-file-priv={root}/temporary", *based(program), *SERVER_OPTIONS]
        argv += [*family.server, *logging(log_bin)]
        throwaway.start(instance, identity.command(argv), log)
        with client_of(instance, name) as client:
            throwaway.wait_until_ready(instance, lambda: is_ready(client), log)
            administrator = administrator_beside(fingerprint.get("accounts", ()))
            take_over(client, administrator)
        instance.connection["user"] = administrator
    except BaseException:
        stop(instance)
        raise
    return instance


def take_over(client: MariadbClient, administrator: str) -> None:
    """One administrator with a name that the source does not have; the accounts of a fresh server would hide the source's."""
    name, family = f"{literal(administrator)}@'localhost'", client.family
    own = ", ".join(map(literal, family.own_users))
    fresh = client.rows(f"SELECT user, host FROM {family.users_table} WHERE user NOT IN ({own});")  # noqa: S608  names that stand in this program
    others = ", ".join(f"{literal(user)}@{literal(host)}" for user, host in fresh)
    client.rows(
        f"CREATE USER {name}; GRANT ALL ON *.* TO {name} WITH GRANT OPTION;"
        f" GRANT PROXY ON {family.anybody} TO {name} WITH GRANT OPTION; DROP USER {others};"
    )


@contextmanager
def client_of(instance: Instance, name: str) -> Iterator[MariadbClient]:
    family = FAMILIES[instance.kind]
    options = (*family.over_socket(instance.connection["socket"]), f"--user={instance.connection['user']}")
    with instance.host.private_file(option_file(None)) as path:
        client = MariadbClient(instance.host, name, options, f"--defaults-file={path}", family)
        yield find_client(client, instance.connection.get("bin_dir") or None)


def client_command(instance: Instance, database: str) -> list[str]:
    connection, family = instance.connection, FAMILIES[instance.kind]
    program = inside(connection.get("bin_dir", ""), family.clients[0])
    return [
        program,
        "--no-defaults",
        *family.over_socket(connection["socket"]),
        f"--user={connection['user']}",
        database,
    ]


def is_ready(client: MariadbClient) -> bool:
    return client.host.run(client.argv("-e", "SELECT 1")).returncode == 0


def stop(instance: Instance) -> None:
    throwaway.stop(instance, signal.SIGTERM)


def load(name: str, instance: Instance, files: SnapshotFiles, databases: Sequence[str] | None) -> list[str]:
    names = files.names()
    dumps = [
        entry for entry in names if entry != b"users.sql" and files.names(entry)
    ]  # an incomplete backup may lack one
    present = {database_of(entry): entry for entry in dumps}
    wanted = choose_databases(instance, databases, present, name)
    notes = []
    with client_of(instance, name) as client:
        for database in wanted:
            stream = files.open(path_component(database) + b"/database.sql")
            load_sql(client, stream, f"dump of database {database}")
        if b"users.sql" in names:  # last: grants on tables want the tables
            notes = load_accounts(client, files.open(b"users.sql"))
    return [f"{len(wanted)} database(s) restored: {', '.join(wanted)}", *notes]


def load_sql(client: MariadbClient, stream: ByteSource, what: str, *, into: str | None = None) -> None:
    """The client is silent about a dump that stops between two statements: the end marker is asked for here too. `into`: the
    database of a dump that names none."""
    argv = [client.client, client.defaults, *client.options, "--binary-mode", "--max-allowed-packet=1G"]
    tail = b""
    try:
        with client.start([*argv, "--default-character-set=utf8mb4", *([into] if into is not None else [])]) as process:
            try:
                while data := stream.read(COPY_BYTES):
                    tail = (tail + data)[-4096:]
                    process.stdin.write(data)
            except BrokenPipeError:
                tail = b""  # the client gave up: its exit status and its words follow
            completed = process.finish()
    finally:
        stream.close()
    if completed.returncode != 0:
        raise refusal(what, client, completed)
    if no_end(tail):
        raise DamageError(f"{what} {no_end(tail)}", name=what, next_step="restore an older snapshot")


def load_accounts(client: MariadbClient, stream: ByteSource) -> list[str]:
    """Statement by statement: a grant on a table that was not restored becomes a note, anything else is an error."""
    try:
        script = b"".join(iter(lambda: stream.read(COPY_BYTES), b""))
    finally:
        stream.close()
    if no_end(script[-4096:]):
        raise DamageError(f"dump of accounts {no_end(script[-4096:])}", name="users.sql")
    argv = [client.client, client.defaults, *client.options, "--force", "--binary-mode"]
    completed = client.host.run([*argv, "--default-character-set=utf8mb4"], stdin=script)
    complaints = [line for line in completed.stderr.splitlines() if line.startswith("ERROR")]
    grave = [line for line in complaints if not re.match(r"ERROR (1146|1305|1049|1147)\b", line)]
    if grave:
        raise refusal("dump of accounts", client, completed)
    return [f"not granted: {line}" for line in complaints]


def refusal(what: str, client: MariadbClient, completed: Completed) -> CouldNotRunError | DamageError:
    """Whose fault it is: the staging host's when it lacks something, otherwise the dump's."""
    message = f"{what} cannot be restored on host {client.host.name}: {said(completed)}"
    if completed.returncode >= 126 or HOST_LACKS.search(completed.stderr):
        return CouldNotRunError(message, next_step=f"give host {client.host.name} what is missing, then try again")
    return DamageError(message, name=what, next_step="restore an older snapshot, and run `backupctl check --read-data`")


def compare(name: str, instance: Instance, fingerprint: Fingerprint) -> list[CheckResult]:
    chosen = chosen_databases(instance)
    results = []
    with client_of(instance, name) as client:
        there = set(list_databases(client))
        for database, expected in fingerprint["databases"].items():
            if chosen is not None and database not in chosen:
                continue
            if database not in there:
                results.append(CheckResult(f"database {database}", "present", "missing", False, 4))
                continue
            try:
                results += compare_database(client, database, expected, virtual="columns" not in fingerprint)
            except SourceError as error:
                if not throwaway.is_alive(instance):
                    raise CouldNotRunError(f"the instance ended during the comparison: {error.message}") from error
                results.append(CheckResult(f"database {database}", "readable", error.message, False, 4))
        if "accounts" in fingerprint:
            results += compare_accounts(client, instance, fingerprint, chosen)
    return results


def compare_database(
    client: MariadbClient, database: str, expected: dict[str, Any], *, virtual: bool = False
) -> list[CheckResult]:
    """`virtual`: whether the fingerprint has columns that are computed when they are read, as older ones do."""
    skipped = {row["name"] for row in expected["not_compared"]}
    tables = [table for table in read_tables(client, [database], virtual=virtual) if table.name not in skipped]
    found = of_database(database, digest_tables(client, tables))
    results = compare_tables(f"{database}.", expected["tables"], found)
    schema = read_schema(client, database, read_counts(client, [database])[database])
    same = schema["schema"] == expected["schema"]
    results.append(CheckResult(f"schema of {database}", expected["schema"], schema["schema"], same, 4))
    for kind, count in expected["counts"].items():
        want, have = str(count), str(schema["counts"][kind])
        results.append(CheckResult(f"{kind} in {database}", want, have, want == have, 4))
    sequences = of_database(database, read_sequences(client, [database]))
    for sequence, (low, high) in sorted(expected["sequences"].items()):
        actual = sequences.get(sequence)
        want = str(low) if low == high else f"{low} to {high}"
        ok = actual is not None and low <= actual <= high
        results.append(CheckResult(f"sequence {database}.{sequence}", want, str(actual), ok, 4))
    return results


def compare_accounts(
    client: MariadbClient, instance: Instance, fingerprint: Fingerprint, chosen: set[str] | None
) -> list[CheckResult]:
    """Every account with all its statements. After a choice of databases only that it exists: its grants need the others."""
    dump = dump_accounts(client).decode("utf-8", "surrogateescape")
    found = read_accounts(dump, list(fingerprint["databases"]))
    results = []
    for account, statements in sorted(fingerprint["accounts"].items()):
        have = found.get(account)
        missing = len(set(statements) - set(have or ()))
        ok = have is not None and (missing == 0 or chosen is not None)
        actual = "missing" if have is None else f"{len(statements) - missing} statements"
        results.append(CheckResult(f"account {account}", f"{len(statements)} statements", actual, ok, 4))
    return results


def query(name: str, instance: Instance, database: str, sql: str) -> list[list[str]]:
    with client_of(instance, name) as client:
        opening = f"SET SESSION TRANSACTION READ ONLY; START TRANSACTION READ ONLY; USE {identifier(database)};\n"
        return client.rows(opening + sql.rstrip().rstrip(";") + ";\n")
