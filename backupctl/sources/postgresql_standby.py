"""A PostgreSQL server that is kept warm: a base backup restored, and the archived log replayed behind it for as long as it runs.

Unlike a drill's, this server is there to be used: it writes durably, survives us, and is found again by its data directory
alone. Settings of somebody's own are in `local.conf` beside ours, which is never touched.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from backupctl.clock import Clock, parse_iso
from backupctl.errors import CouldNotRunError, SourceError
from backupctl.hosts.protocol import Completed, Host
from backupctl.hosts.unprivileged import Identity, unprivileged
from backupctl.sources import postgresql_physical_instance as physical
from backupctl.sources import throwaway
from backupctl.sources.postgresql_client import PostgresClient
from backupctl.sources.postgresql_instance import MAINTENANCE, PORT, client_of, is_ready
from backupctl.sources.protocol import Fingerprint, Instance, SnapshotFiles
from backupctl.sources.streams import said
from backupctl.sources.wal_format import parse_lsn
from backupctl.sources.wal_index import history_name, parse_history

POLL_SECONDS = 0.2
REBUILD = "see the log above; `backupctl standby refresh NAME --rebuild JOB/SOURCE` begins anew"
STALL_SECONDS = 60.0
RUNNING = 0
CONTROLLED = {  # a hot standby needs at least what its primary had
    "max_connections": "max_connections",
    "max_worker_processes": "max_worker_processes",
    "max_wal_senders": "max_wal_senders",
    "max_prepared_xacts": "max_prepared_transactions",
    "max_locks_per_xact": "max_locks_per_transaction",
}
TIMELINE = "SELECT timeline_id AS timeline FROM pg_control_checkpoint()"
PROMOTE_SECONDS = 600
NEW = b".new"
AT_ONCE = 16
RENAME = """import os, sys
for name in os.listdir(sys.argv[1]):
    if name.endswith(sys.argv[2]):
        path = os.path.join(sys.argv[1], name)
        os.replace(path, path[: -len(sys.argv[2])])
"""
POSITION = """
SELECT pg_is_in_recovery() AS recovering,
  CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() = 'paused' ELSE false END AS paused,
  pg_last_xact_replay_timestamp() AS commit,
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text AS lsn
"""


@dataclass(frozen=True, slots=True)
class Replay:
    """Where a server is. `commit`: of the last transaction it replayed since it started; None when there was none. `paused`: it
    goes no further by itself, as its `local.conf` may say."""

    lsn: int
    commit: datetime | None
    recovering: bool
    paused: bool = False


@dataclass(frozen=True, slots=True)
class LogCommands:
    """What the server calls, command lines without the segment. What `feed` has put beside it is taken too."""

    fetch: tuple[str, ...] = ()
    push: tuple[str, ...] = ()  # empty: the log is received from it by others, once it is a primary


def build(
    name: str, host: Host, directory: bytes, files: SnapshotFiles, fingerprint: Fingerprint, bin_dir: str | None
) -> Instance:
    """Restore and verify a base backup, as a standby; nothing runs yet. `directory` must not exist."""
    instance = physical.boot(name, host, directory, fingerprint, bin_dir)
    physical.place(name, instance, files)
    physical.verify(instance)
    data = directory + b"/data/"
    for leftover in (b"recovery.signal", b"postgresql.auto.conf", b"standby.signal", b"postmaster.pid"):
        host.remove_tree(data + leftover)
    physical.write(host, data + b"standby.signal", b"")
    return instance


def start(name: str, instance: Instance, log: LogCommands) -> None:
    """Unless it runs already; one that was promoted goes on as what it is. Returns when it answers. Raises CouldNotRunError with
    the end of its log."""
    host, root = instance.host, instance.directory.decode()
    if not is_running(instance):
        _renew_sockets(instance)
        _configure(instance, log)
        identity = unprivileged(host, ["postgres"])
        identity.give(instance.directory)
        client = client_of(instance, name)
        argv = [client.program("postgres"), "-D", f"{root}/data", "-c", f"config_file={root}/postgresql.conf"]
        throwaway.start(instance, identity.command(argv), f"{root}/server.log")
    throwaway.wait_until_ready(
        instance,
        lambda: find(instance) and is_ready(client_of(instance, name)),
        f"{root}/server.log",
        seconds=physical.RECOVERY_SECONDS,
        alive=is_running,
        next_step=REBUILD,
    )


def find(instance: Instance) -> bool:
    """Put where a running server listens into the instance, as its pid file says; False while that is not written yet."""
    try:
        with instance.host.open_read(instance.directory + b"/data/postmaster.pid") as file:
            lines = file.read(4096).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return False
    if len(lines) < 5 or not (lines[0].isdigit() and lines[3].strip().isdigit()) or not lines[4].strip():
        return False
    instance.connection |= {"port": lines[3].strip(), "sockets": lines[4].strip()}
    instance.pid = int(lines[0])
    return True


def is_running(instance: Instance) -> bool:
    return _control(instance, "status").returncode == RUNNING


def stop(instance: Instance) -> None:
    """Idempotent."""
    if not is_running(instance):
        return
    ended = _control(instance, "stop", "-m", "fast", "-w")
    if ended.returncode != 0:
        raise CouldNotRunError(
            f"the standby server in {instance.directory.decode()} on host {instance.host.name} cannot be stopped: {said(ended)}",
            next_step="stop it there by hand with pg_ctl",
        )


def position(name: str, instance: Instance) -> Replay:
    """Raises SourceError when it does not answer."""
    (row,) = client_of(instance, name).records(MAINTENANCE, POSITION)
    commit = parse_iso(row["commit"]) if row["commit"] else None
    return Replay(parse_lsn(row["lsn"]), commit, bool(row["recovering"]), bool(row["paused"]))


def catch_up(
    name: str, instance: Instance, lsn: int, clock: Clock, tell: Callable[[Replay], None] = lambda where: None
) -> Replay:
    """Wake it, and wait until it has replayed up to `lsn`, or has not moved for a minute."""
    _query(name, instance, "SELECT pg_reload_conf()")  # it looks for log every few seconds; this makes it look now
    where = position(name, instance)
    moved = clock.monotonic()
    while where.lsn < lsn and where.recovering and not where.paused and clock.monotonic() - moved < STALL_SECONDS:
        clock.sleep(POLL_SECONDS)
        before, where = where, position(name, instance)
        if where.lsn != before.lsn:
            moved = clock.monotonic()
            tell(where)
    return where


def require_log(name: str, host: Host, log: LogCommands, system: str) -> None:
    """Try, as the server's own user, whether log can be fetched there: before a night's bytes are restored. Raises
    CouldNotRunError that says what is missing."""
    identity = unprivileged(host, ["postgres"])
    argv = [*log.fetch, "00000001.history", "/dev/null", "--system", system]  # no server has that file
    tried = host.run(identity.command(argv))
    if tried.returncode not in (0, 10):
        raise CouldNotRunError(
            f"source {name}: {identity.user} on host {host.name} cannot fetch the archived log: {said(tried)}",
            next_step=f"see what it lacks, as {identity.user}: {shlex.join(argv)}; docs/how-to/standby.md",
        )


def _query(name: str, instance: Instance, sql: str) -> None:
    client = client_of(instance, name)
    completed = client.run(client.psql(MAINTENANCE), sql + ";\n")
    if completed.returncode != 0:
        raise client.failure(MAINTENANCE, completed)


def _control(instance: Instance, verb: str, *options: str) -> Completed:
    host = instance.host
    client = client_of(instance, "")
    argv = [client.program("pg_ctl"), verb, "-D", f"{instance.directory.decode()}/data", *options]
    return host.run(unprivileged(host, ["postgres"]).command(argv))


def _renew_sockets(instance: Instance) -> None:
    """A directory below /tmp does not outlive the machine's next start."""
    host, sockets = instance.host, instance.connection["sockets"]
    if not sockets or host.stat(sockets.encode()) is None:
        made = host.run([host.python, "-c", throwaway.MAKE_SOCKET_DIRECTORY], check=True).stdout.decode().strip()
        instance.connection["sockets"] = made
        unprivileged(host, ["postgres"]).give(made.encode())


def _configure(instance: Instance, log: LogCommands) -> None:
    host, root = instance.host, instance.directory.decode()
    data = f"{root}/data"
    settings = {
        "hba_file": f"{root}/pg_hba.conf",
        "ident_file": f"{root}/pg_ident.conf",
        "listen_addresses": "",
        "port": PORT,
        "unix_socket_directories": instance.connection["sockets"],
        "unix_socket_permissions": "0700",
        "log_destination": "stderr",
        "hot_standby": "on",
        "restore_command": restore_command(log.fetch, f"{root}/log"),
        "wal_retrieve_retry_interval": "5s" if log.fetch else "60s",  # `catch_up` wakes it
        "archive_cleanup_command": cleaning(client_of(instance, ""), f"{root}/log"),
        "recovery_target_timeline": "latest",
        "allow_in_place_tablespaces": "on",
        **({"archive_mode": "on", "archive_command": _escaped(log.push, "%p")} if log.push else {}),
        **_of_primary(instance),
    }
    lines = ["# written by backupctl at each start; settings of your own go into local.conf, which it never touches"]
    lines += [f"{key} = {quoted(value)}" for key, value in settings.items()]
    lines += ["include_if_exists = 'local.conf'", ""]
    _replace(host, f"{root}/postgresql.conf", "\n".join(lines))
    access = "local all all trust\nlocal replication all trust\n"  # a new primary is backed up over the same socket
    for path, text in ((f"{root}/pg_hba.conf", access), (f"{root}/pg_ident.conf", "")):
        if host.stat(path.encode()) is None:
            physical.write(host, path.encode(), text.encode())
    host.remove_tree(f"{data}/postmaster.pid".encode())  # nothing runs: we have asked


def _replace(host: Host, path: str, text: str) -> None:
    host.remove_tree(path.encode())
    physical.write(host, path.encode(), text.encode())


def restore_command(fetch: Sequence[str], spool: str) -> str:
    """A standby takes no failure for the end of the log: it asks again. A code above 125 would end it instead."""
    place = shlex.quote(spool).replace("%", "%%")
    beside = f"test -f {place}/%f && cp {place}/%f %p"
    return f"{_escaped(fetch, '%f %p')} || {{ {beside}; }} || exit 1" if fetch else f"{beside} || exit 1"


def cleaning(client: PostgresClient, spool: str) -> str:
    return _escaped([client.program("pg_archivecleanup"), spool], "%r")


def _escaped(argv: Sequence[str], places: str) -> str:
    return f"{shlex.join(argv).replace('%', '%%')} {places}"


def feed(instance: Instance, pieces: Iterable[tuple[str, bytes]]) -> int:
    """Put log beside the server, each piece whole or not at all; how many there were."""
    host, spool = instance.host, instance.directory + b"/log"
    identity = unprivileged(host, ["postgres"])
    host.make_directory(spool, mode=0o700)
    count = waiting = 0
    for name, content in pieces:
        path = spool + b"/" + name.encode() + NEW
        host.remove_tree(path)
        physical.write(host, path, content)
        count, waiting = count + 1, waiting + 1
        if waiting == AT_ONCE:
            _show(instance, identity)
            waiting = 0
    if waiting:
        _show(instance, identity)
    return count


def spooled(instance: Instance) -> set[str]:
    try:
        return {name.decode("utf-8", "replace") for name in instance.host.list_directory(instance.directory + b"/log")}
    except FileNotFoundError:
        return set()


def _show(instance: Instance, identity: Identity) -> None:
    spool = instance.directory + b"/log"
    identity.give(spool)
    instance.host.run([instance.host.python, "-c", RENAME, spool.decode(), NEW.decode()], check=True)


def quoted(value: str) -> str:
    """A value as postgresql.conf has it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _of_primary(instance: Instance) -> dict[str, str]:
    client = client_of(instance, "")
    completed = instance.host.run([client.program("pg_controldata"), f"{instance.directory.decode()}/data"])
    if completed.returncode != 0:
        raise SourceError(f"pg_controldata on host {instance.host.name}: {said(completed)}")
    told = dict(re.findall(r"^(\w+) setting: +(\d+)$", completed.stdout.decode("utf-8", "replace"), re.M))
    return {ours: told[theirs] for theirs, ours in CONTROLLED.items() if theirs in told}


@dataclass(frozen=True, slots=True)
class Promoted:
    """`lsn`: where the timeline that it had followed was left."""

    timeline: int
    old_timeline: int
    lsn: int


def promote(name: str, instance: Instance) -> Promoted:
    """Make it a primary, on a timeline of its own, unless it is one. Raises CouldNotRunError, SourceError."""
    if position(name, instance).recovering:
        client = client_of(instance, name)
        sql = f"SELECT pg_promote(true, {PROMOTE_SECONDS});\n"
        completed = client.run(client.psql(MAINTENANCE), sql)
        if completed.returncode != 0:
            raise client.failure(MAINTENANCE, completed)
        if completed.stdout.strip() != b"t":
            raise CouldNotRunError(
                f"{name}: the standby server does not end its recovery: {throwaway.log_tail(instance.host, _log(instance))}",
                next_step="see its log, then promote again: what is done is not done twice",
            )
    _query(name, instance, "CHECKPOINT")
    (row,) = client_of(instance, name).records(MAINTENANCE, TIMELINE)
    history = f"{instance.directory.decode()}/data/pg_wal/{history_name(row['timeline'])}"
    with instance.host.open_read(history.encode()) as file:
        parent = parse_history(file.read(1 << 20).decode("utf-8", "replace"))[-1]
    return Promoted(row["timeline"], parent.timeline, parent.end)


def stopped_at(instance: Instance) -> str:
    """In the server's own words, where a recovery with a target ended; "" when it says nothing of it."""
    found = physical.STOPPED.findall(throwaway.log_tail(instance.host, _log(instance), 1 << 20))
    return str(found[-1]).strip() if found else ""


def _log(instance: Instance) -> str:
    return f"{instance.directory.decode()}/server.log"
