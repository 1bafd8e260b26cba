"""A restored data directory brought to life: verified against the server's manifest, recovered to an exact record, compared.

It never uses the source's own configuration, network, archive or paths: tablespaces stay inside the data directory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from backupctl.clock import iso
from backupctl.errors import CouldNotRunError, DamageError, SourceError
from backupctl.hosts.protocol import Host
from backupctl.hosts.unprivileged import unprivileged
from backupctl.sources import throwaway
from backupctl.sources.postgresql_client import PostgresClient
from backupctl.sources.postgresql_fingerprint import describe_database, read_roles, read_sequences
from backupctl.sources.postgresql_instance import (
    PORT,
    SETTINGS,
    client_of,
    compare_database,
    find_server,
    is_ready,
    stop,
)
from backupctl.sources.postgresql_load import read_all
from backupctl.sources.protocol import CheckResult, Fingerprint, Instance, SnapshotFiles
from backupctl.sources.streams import choose_databases, chosen_databases, said
from backupctl.sources.wal_archive import Goal
from backupctl.sources.wal_format import format_lsn, parse_lsn

RECOVERY_SECONDS = 86400.0  # a drill has its own, shorter patience
SEQUENCE_AHEAD = 32
"""Values that the log may be ahead of a sequence (SEQ_LOG_VALS in sequence.c): a recovery skips them, as after a crash."""
SHOWN_FILES = 5
OWN_SETTINGS = {
    **SETTINGS,
    "wal_level": "replica",
    "max_prepared_transactions": "256",
    "hot_standby": "off",
    "archive_command": "",
    "restore_command": "false",  # nothing more: all that is needed lies in pg_wal
    "recovery_target_action": "promote",
    "allow_in_place_tablespaces": "on",
    "ssl": "off",
    "jit": "off",
    "external_pid_file": "",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
}
BAD_LOG = re.compile(
    r"recovery ended before configured recovery target|could not find a valid checkpoint|could not locate a valid checkpoint"
    r"|could not locate required checkpoint|incorrect resource manager data checksum|invalid checkpoint|WAL ends before"
    r"|requested recovery stop point is before|requested timeline|invalid page in block|unexpected pageaddr"
    r"|backup_label contains|incorrect checksum in control file|database files are incompatible|invalid data in file"
    r"|PANIC:"
)
HOST_LACKS = re.compile(r"No space left|could not map anonymous shared memory|out of memory|locale|Permission denied")
STOPPED = re.compile(r"recovery stopping (?:after|before) (.*)")


def boot(name: str, host: Host, directory: bytes, fingerprint: Fingerprint, bin_dir: str | None) -> Instance:
    """The place and the programs; the server starts when its data directory is there."""
    wanted = int(fingerprint["versions"]["server_major"])
    client = find_server(PostgresClient(host, name, ""), bin_dir, wanted)
    user = superuser_of(name, fingerprint)
    _, sockets = throwaway.prepare(host, directory, "postgres")
    instance = Instance("postgresql", host, directory, client.version("postgres"))
    instance.connection = {
        "method": "physical",
        "sockets": sockets,
        "port": PORT,
        "user": user,
        "bin_dir": client.directory,
        "target_lsn": fingerprint["target_lsn"],
        "timeline": str(fingerprint["timeline"]),
        "databases_there": "\n".join(fingerprint["databases"]),
    }
    return instance


def superuser_of(name: str, fingerprint: Fingerprint) -> str:
    roles = fingerprint["roles"]
    found = [role for role, facts in roles.items() if facts["super"] and facts["login"]]
    if not found:
        raise CouldNotRunError(
            f"source {name} has no superuser that may log in: nobody could look into a restored server",
            next_step="ALTER ROLE postgres LOGIN; then run the job again",
        )
    return "postgres" if "postgres" in found else sorted(found)[0]


def load(name: str, instance: Instance, files: SnapshotFiles, databases: Sequence[str] | None) -> list[str]:
    """Restore, verify, recover, and leave the server running."""
    wanted = choose_databases(instance, databases, instance.connection["databases_there"].split("\n"), name)
    place(name, instance, files)
    verify(instance)
    start(name, instance)
    return [f"recovered to {instance.connection['stopped']}; databases: {', '.join(wanted)}"]


def recover(
    name: str,
    instance: Instance,
    files: SnapshotFiles,
    databases: Sequence[str] | None,
    forward: Callable[[Callable[[str, bytes], None], Callable[[str], bytes]], Goal],
) -> list[str]:
    """As `load`, to a point behind the base backup: `forward` is given a function that puts a segment into the server's log, and
    one that reads a segment of the base backup, and says where to stop."""
    wanted = choose_databases(instance, databases, instance.connection["databases_there"].split("\n"), name)
    place(name, instance, files)
    verify(instance)
    log = instance.directory + b"/data/pg_wal/"

    def put(segment: str, content: bytes) -> None:
        instance.host.remove_tree(log + segment.encode())  # what came with the base backup may be half of it
        write(instance.host, log + segment.encode(), content)

    goal = forward(put, lambda segment: read_all(files.open(b"data/pg_wal/" + segment.encode())))
    instance.connection |= {
        "target_lsn": format_lsn(goal.lsn),
        "timeline": str(goal.timeline),
        "inclusive": "on" if goal.inclusive else "off",
    }
    start(name, instance)
    check = stop_check(instance)
    if not check.ok:
        stop(instance)
        raise DamageError(
            f"the restored server stopped at {check.actual}, not at {check.expected}",
            name=name,
            next_step="restore an earlier point",
        )
    # the server's own pg_last_xact_replay_timestamp() leaves out the transaction whose commit it stopped at
    last = (
        f"the last transaction in it committed at {iso(goal.last_commit)}"
        if goal.last_commit
        else "no later transaction"
    )
    where = f"LSN {format_lsn(goal.lsn)} on timeline {goal.timeline}, over {goal.segments} segment(s) of log"
    return [f"recovered to {where}; {last}; databases: {', '.join(wanted)}"]


def place(name: str, instance: Instance, files: SnapshotFiles) -> None:
    host, data = instance.host, instance.directory + b"/data"
    host.make_directory(data, mode=0o700)
    with host.placer(data) as placer:
        problems = files.restore(placer, b"data")
    if problems:
        more = f" and {len(problems) - SHOWN_FILES} more" if len(problems) > SHOWN_FILES else ""
        raise DamageError(
            f"data directory of {name}: {'; '.join(problems[:SHOWN_FILES])}{more}",
            name=name,
            next_step="restore an older snapshot, and run `backupctl check --read-data`",
        )


def verify(instance: Instance) -> None:
    """Every file against the manifest that the server wrote, by the server's own program."""
    client = client_of(instance, "")
    root = instance.directory.decode()
    completed = instance.host.run([client.program("pg_verifybackup"), "--no-parse-wal", "--quiet", f"{root}/data"])
    if completed.returncode >= 126:
        raise CouldNotRunError(f"pg_verifybackup on host {instance.host.name}: {said(completed)}")
    if completed.returncode != 0:
        raise DamageError(
            f"the restored data directory does not match its backup_manifest: {said(completed)}",
            name="backup_manifest",
            next_step="restore an older snapshot",
        )


def start(name: str, instance: Instance) -> None:
    """Recovery up to the target, then a server of its own that others may write to."""
    host, root, connection = instance.host, instance.directory.decode(), instance.connection
    data = f"{root}/data"
    files = {
        f"{root}/postgresql.conf": "# set on the command line\n",
        f"{root}/pg_hba.conf": "local all all trust\n",
        f"{root}/pg_ident.conf": "",
        f"{data}/recovery.signal": "",
    }
    for leftover in ("standby.signal", "recovery.signal", "postgresql.auto.conf", "postmaster.pid"):
        host.remove_tree(f"{data}/{leftover}".encode())
    for path, text in files.items():
        write(host, path.encode(), text.encode())
    identity = unprivileged(host, ["postgres"])
    identity.give(instance.directory)
    target = connection["target_lsn"]
    settings = {
        **OWN_SETTINGS,
        "config_file": f"{root}/postgresql.conf",
        "hba_file": f"{root}/pg_hba.conf",
        "ident_file": f"{root}/pg_ident.conf",
        "recovery_target_timeline": connection["timeline"],
        "recovery_target_inclusive": connection.get("inclusive", "on"),
        **({"recovery_target_lsn": target} if target else {"recovery_target": "immediate"}),
    }
    client = client_of(instance, name)
    options = [part for item in settings.items() for part in ("-c", "=".join(item))]
    argv = [client.program("postgres"), "-D", data, "-k", connection["sockets"], *options]
    log = f"{root}/server.log"
    throwaway.start(instance, identity.command(argv), log)
    try:
        throwaway.wait_until_ready(instance, lambda: is_ready(client), log, seconds=RECOVERY_SECONDS)
    except CouldNotRunError as error:
        text = throwaway.log_tail(host, log, 1 << 16)
        stop(instance)
        if BAD_LOG.search(text) and not HOST_LACKS.search(text):
            raise DamageError(
                f"the restored server cannot recover to {target or 'the end of its base backup'}: {last_words(text)}",
                name=name,
                next_step="restore an older snapshot, or an earlier point",
            ) from error
        raise
    stopped = STOPPED.findall(throwaway.log_tail(host, log, 1 << 20))
    connection["stopped"] = stopped[-1].strip() if stopped else "nothing in its log"


def write(host: Host, path: bytes, content: bytes) -> None:
    sink = host.open_write(path)
    sink.write(content)
    sink.close()


def last_words(log: str) -> str:
    """The lines of a server's log that say why it gave up."""
    lines = [line for line in log.splitlines() if re.search(r"FATAL|PANIC|ERROR|invalid|incorrect|could not", line)]
    return " / ".join(line.partition("] ")[2] or line for line in lines[-4:])


def compare(name: str, instance: Instance, fingerprint: Fingerprint) -> list[CheckResult]:
    client = client_of(instance, name)
    chosen = chosen_databases(instance)
    results = [compare_server(client, fingerprint), stop_check(instance)]
    results += roles(client, fingerprint)
    for database, why in fingerprint["unread"].items():
        results.append(CheckResult(f"database {database}", "read when it was saved", why, False, 4))
    for database, expected in fingerprint["databases"].items():
        if chosen is not None and database not in chosen:
            continue
        if not expected["exact"]:
            why = "commits of that instant were visible in another order than that of the log"
            results.append(CheckResult(f"content of {database}", "compared", f"not compared: {why}", True, 3))
            continue
        try:
            found = describe_database(client, database, None)
            sequences = read_sequences(client, database)
        except SourceError as error:
            if not throwaway.is_alive(instance):
                raise CouldNotRunError(f"the instance ended during the comparison: {error.message}") from error
            results.append(CheckResult(f"database {database}", "readable", error.message, False, 4))
            continue
        for table in expected["unlogged"]:  # empty after every recovery, by design
            found["tables"].pop(table, None)
        kept = {table: facts for table, facts in expected["tables"].items() if table not in expected["unlogged"]}
        results += compare_database(database, {**expected, "tables": kept}, found)
        results += compare_sequences(database, expected, sequences)
        results += collation(client, database, expected)
    return results


def compare_server(client: PostgresClient, fingerprint: Fingerprint) -> CheckResult:
    query = "SELECT system_identifier::text AS system FROM pg_control_system()"
    (row,) = client.records("template1", query)
    want, have = fingerprint["system_identifier"], row["system"]
    return CheckResult("system identifier", want, have, want == have, 3)


def stop_check(instance: Instance) -> CheckResult:
    """The server's own words about where recovery stopped: without them it may have ended early and started all the same."""
    target, have = instance.connection["target_lsn"], instance.connection["stopped"]
    if not target:
        return CheckResult("recovery stopped after", "reaching consistency", have, have == "reaching consistency", 3)
    found = re.match(r'WAL location \(LSN\) "([0-9A-F/]+)"', have)
    ok = found is not None and parse_lsn(found[1]) >= parse_lsn(
        target
    )  # at the first record that begins there or later
    return CheckResult("recovery stopped", f'WAL location (LSN) "{target}"', have, ok, 3)


def roles(client: PostgresClient, fingerprint: Fingerprint) -> list[CheckResult]:
    found = read_roles(client, "template1", passwords=fingerprint["role_passwords"])
    results = []
    for role in sorted(fingerprint["roles"].keys() | found.keys()):
        want, have = fingerprint["roles"].get(role), found.get(role)
        keys = [key for key in want if want[key] != have.get(key)] if want and have else []
        shown = "missing" if have is None else f"differs in {', '.join(keys)}" if keys else "as recorded"
        results.append(
            CheckResult(f"role {role}", "missing" if want is None else "as recorded", shown, want == have, 4)
        )
    return results


def compare_sequences(database: str, expected: dict[str, Any], found: dict[str, int]) -> list[CheckResult]:
    results = []
    for sequence, (low, high) in sorted(expected["sequences"].items()):
        ahead = SEQUENCE_AHEAD * int(expected["sequence_steps"].get(sequence, 1))
        low, high = min(low, high + ahead), max(high, low, high + ahead)
        actual = found.get(sequence)
        ok = actual is not None and low <= actual <= high
        results.append(CheckResult(f"sequence {database}.{sequence}", f"{low} to {high}", str(actual), ok, 4))
    return results


def collation(client: PostgresClient, database: str, expected: dict[str, Any]) -> list[CheckResult]:
    """Text indexes are in the order of the system that built them: another version of its collation makes them suspect."""
    recorded = expected["collation"]["version"]
    if not recorded:
        return []
    query = "SELECT pg_database_collation_actual_version(oid) AS v FROM pg_database WHERE datname = current_database()"
    (row,) = client.records(database, query)
    same = recorded == row["v"]
    detail = (
        "" if same else f"REINDEX DATABASE {database}; before this server is used: its text is ordered otherwise here"
    )
    return [
        CheckResult(
            f"collation of {database}",
            "told, whatever it is",
            f"{recorded} there, {row['v']} here",
            True,
            3,
            detail=detail,
        )
    ]
