"""A throw-away PostgreSQL server: boot it empty, load a dump, compare what came back with the fingerprint."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from backupctl.errors import CouldNotRunError, SourceError
from backupctl.hosts.protocol import Host
from backupctl.sources import throwaway
from backupctl.sources.postgresql_client import PostgresClient, conninfo_value, major, program_directories
from backupctl.sources.postgresql_fingerprint import describe_database, read_roles, read_sequences
from backupctl.sources.protocol import CheckResult, Fingerprint, Instance
from backupctl.sources.streams import (
    chosen_databases,
    compare_tables,
    said,
)

SUPERUSER = "backupctl_drill"
PORT = "5432"
MAINTENANCE = "template1"
SETTINGS = {
    "listen_addresses": "",
    "port": PORT,
    "unix_socket_permissions": "0700",
    "shared_buffers": "128MB",
    "max_connections": "20",
    "max_locks_per_transaction": "256",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "archive_mode": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "shared_preload_libraries": "",
    "log_destination": "stderr",
    "logging_collector": "off",
}


def boot(name: str, host: Host, directory: bytes, fingerprint: Fingerprint, bin_dir: str | None) -> Instance:
    wanted = int(fingerprint["versions"]["server_major"])
    client = find_server(PostgresClient(host, name, ""), bin_dir, wanted)
    dumper = find_dumper(client, bin_dir, wanted, str(fingerprint["versions"].get("pg_dump", "")))
    roles = fingerprint.get("roles", {})
    superuser = next(
        candidate for candidate in (SUPERUSER, *(f"{SUPERUSER}_{n}" for n in range(2, 1000))) if candidate not in roles
    )
    identity, sockets = throwaway.prepare(host, directory, "postgres")
    root = directory.decode()
    instance = Instance("postgresql", host, directory, client.version("postgres"))
    instance.connection = {"sockets": sockets, "port": PORT, "user": superuser, "bin_dir": client.directory}
    if dumper is not None:
        instance.connection["dump_bin_dir"] = dumper
    initdb = [client.program("initdb"), "-D", f"{root}/data", "-U", superuser, "--auth=trust", "--no-sync"]
    try:
        completed = host.run(identity.command([*initdb, "--encoding=UTF8", "--locale=C"]))
        if completed.returncode != 0:
            raise CouldNotRunError(
                f"initdb in {root} on host {host.name}: {said(completed)}", next_step="see what the host lacks"
            )
        options = [part for item in SETTINGS.items() for part in ("-c", "=".join(item))]
        server = [client.program("postgres"), "-D", f"{root}/data", "-k", sockets, *options]
        log = f"{root}/server.log"
        throwaway.start(instance, identity.command(server), log)
        ready = client_of(instance, name)
        throwaway.wait_until_ready(instance, lambda: is_ready(ready), log)
    except BaseException:
        stop(instance)
        raise
    return instance


def find_server(client: PostgresClient, bin_dir: str | None, wanted: int) -> PostgresClient:
    found = set()
    for directory in program_directories(client.host, bin_dir) + program_directories(client.host, None):
        candidate = PostgresClient(client.host, client.source, "", directory)
        version = candidate.version("postgres")
        if version and major(version) == wanted:
            return candidate
        found |= {version} if version else set()
    there = f"has PostgreSQL server {', '.join(sorted(found))}" if found else "has no PostgreSQL server programs"
    raise CouldNotRunError(
        f"source {client.source} was PostgreSQL {wanted}; host {client.host.name} {there}",
        next_step=f"install postgresql-{wanted} on host {client.host.name}",
    )


def find_dumper(client: PostgresClient, bin_dir: str | None, server: int, dumped_with: str) -> str | None:
    """Where pg_restore is that reads an archive by pg_dump `dumped_with`, newer than the server was; None: beside the server's
    own programs. The same pg_dump prints definitions the same way, which the comparison needs."""
    if not dumped_with or major(dumped_with) <= server:
        return None
    for directory in program_directories(client.host, bin_dir) + program_directories(client.host, None):
        version = replace(client, directory=directory).version("pg_restore")
        if version and major(version) == major(dumped_with):
            return directory
    raise CouldNotRunError(
        f"source {client.source} was dumped by pg_dump {dumped_with}; "
        f"host {client.host.name} has no pg_restore {major(dumped_with)}",
        next_step=f"install postgresql-client-{major(dumped_with)} on host {client.host.name}",
    )


def client_of(instance: Instance, name: str) -> PostgresClient:
    connection = instance.connection
    conninfo = f"host={connection['sockets']} port={connection['port']} user={conninfo_value(connection['user'])}"
    env = {"PGAPPNAME": "backupctl", "PGCONNECT_TIMEOUT": "15"}
    return PostgresClient(instance.host, name, conninfo, connection["bin_dir"], connection.get("dump_bin_dir"), env)


def client_command(instance: Instance, database: str) -> list[str]:
    connection = instance.connection
    where = ["-h", connection["sockets"], "-p", connection["port"], "-U", connection["user"], "-d", database]
    return [f"{connection['bin_dir'].rstrip('/')}/psql" if connection["bin_dir"] else "psql", *where]


def is_ready(client: PostgresClient) -> bool:
    return client.run(client.psql(MAINTENANCE), "SELECT 1;").returncode == 0


def stop(instance: Instance) -> None:
    throwaway.stop(instance, signal.SIGINT)


def compare(name: str, instance: Instance, fingerprint: Fingerprint) -> list[CheckResult]:
    client = client_of(instance, name)
    chosen = chosen_databases(instance)
    results = compare_roles(client, instance, fingerprint)
    for database, expected in fingerprint["databases"].items():
        if chosen is not None and database not in chosen:
            continue
        try:
            found = describe_database(with_encoding(client, expected), database, None, like=expected["tables"])
            sequences = read_sequences(client, database)
        except SourceError as error:
            if not throwaway.is_alive(instance):
                raise CouldNotRunError(f"the instance ended during the comparison: {error.message}") from error
            results.append(CheckResult(f"database {database}", "readable", error.message, False, 4))
            continue
        results += compare_database(database, expected, found)
        results += compare_sequences(database, expected["sequences"], sequences)
    return results


def with_encoding(client: PostgresClient, expected: Mapping[str, Any]) -> PostgresClient:
    """Reading a database's rows in the encoding in which its fingerprint was taken."""
    encoding = expected.get("client_encoding")
    return replace(client, env={**client.env, "PGCLIENTENCODING": encoding}) if encoding else client


def compare_database(database: str, expected: dict[str, Any], found: dict[str, Any]) -> list[CheckResult]:
    results = compare_tables(f"{database}.", expected["tables"], found["tables"])
    results += compare_tables(
        "",
        {f"{database} large objects": expected["large_objects"]},
        {f"{database} large objects": found["large_objects"]},
    )
    want, have = expected["schema"], found["schema"]
    same = want["exact"] == have["exact"]
    detail = "" if same else "equal but for parentheses and text casts, which PostgreSQL prints anew after a reload"
    shown = ("exact", "exact") if same else ("normal", "normal")
    ok = want["normal"] == have["normal"]
    results.append(
        CheckResult(f"schema of {database}", want[shown[0]], have[shown[1]], ok, 4, detail=detail if ok else "")
    )
    for extension in sorted(expected["extensions"].keys() | found["extensions"].keys()):
        version, actual = (side["extensions"].get(extension, "missing") for side in (expected, found))
        note = "" if version == actual else "dumps carry no version: the host's own was installed"
        present = "missing" not in (version, actual)
        results.append(CheckResult(f"extension {extension} in {database}", version, actual, present, 4, detail=note))
    for key, value in expected["settings"].items():
        want_text, have_text = str(value), str(found["settings"][key])
        results.append(CheckResult(f"{key} of {database}", want_text, have_text, want_text == have_text, 4))
    results.append(
        CheckResult(
            f"invalid indexes in {database}", "0", str(found["invalid_indexes"]), found["invalid_indexes"] == 0, 4
        )
    )
    unvalidated, actual = str(expected["unvalidated_constraints"]), str(found["unvalidated_constraints"])
    results.append(CheckResult(f"unvalidated constraints in {database}", unvalidated, actual, unvalidated == actual, 4))
    return results


def compare_sequences(database: str, expected: dict[str, list[int]], found: dict[str, int]) -> list[CheckResult]:
    results = []
    for sequence, (low, high) in sorted(expected.items()):
        actual = found.get(sequence)
        want = str(low) if low == high else f"{low} to {high}"
        ok = actual is not None and low <= actual <= high
        results.append(CheckResult(f"sequence {database}.{sequence}", want, str(actual), ok, 4))
    return results


def compare_roles(client: PostgresClient, instance: Instance, fingerprint: Fingerprint) -> list[CheckResult]:
    found = read_roles(client, MAINTENANCE, passwords=fingerprint["role_passwords"])
    found.pop(instance.connection["user"], None)
    results = []
    for role in sorted(fingerprint["roles"].keys() | found.keys()):
        want, have = fingerprint["roles"].get(role), found.get(role)
        detail = ", ".join(key for key in want if want[key] != have.get(key)) if want and have and want != have else ""
        shown = [("missing" if side is None else "as recorded") for side in (want, have)]
        actual = f"differs in {detail}" if detail else shown[1]
        results.append(CheckResult(f"role {role}", shown[0], actual, want == have, 4))
    return results
