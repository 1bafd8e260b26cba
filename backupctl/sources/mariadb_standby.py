"""A MariaDB server that is kept warm: a physical backup restored, and stored binary logs replayed behind it, again and again.

Unlike a drill's, this server is there to be used: it writes durably and outlives us. It has a binary log of its own, and what is
replayed keeps its GTIDs there. The server commits that log and its tables together, so its own `gtid_binlog_pos` says what has been
replayed, wherever a refresh was killed. Its log is of rows alone: nothing is written to it for a temporary table that a session
leaves behind.
"""

from __future__ import annotations

import secrets
import signal
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from backupctl.errors import CouldNotRunError, DamageError
from backupctl.hosts.protocol import Host
from backupctl.hosts.unprivileged import unprivileged
from backupctl.sources import mariadb_physical_instance as physical
from backupctl.sources import throwaway
from backupctl.sources.mariadb_client import MariadbClient, find_client, literal, option_file, refused
from backupctl.sources.mariadb_family import MARIADB
from backupctl.sources.mariadb_instance import HOST_LACKS, is_ready
from backupctl.sources.mariadb_physical import beside
from backupctl.sources.mariadb_replay import Chain
from backupctl.sources.protocol import Fingerprint, Instance, SnapshotFiles
from backupctl.sources.streams import said

REBUILD = "see the log above; `backupctl standby refresh NAME --rebuild JOB/SOURCE` begins anew"
STOP_SECONDS = 600.0  # it writes its dirty pages first
LOCK = "backupctl_standby"
LOCK_SECONDS = 600
OTHER_ENGINES = (
    "SELECT COUNT(*) FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND IFNULL(engine, '') <> 'InnoDB'"
    " AND table_schema NOT IN ('information_schema', 'performance_schema', 'mysql', 'sys');"
)
RUN_WITH_PID = 'echo $$ > "$1"; shift; exec "$@"'
APPEND = 'file=$1; shift; exec "$@" >> "$file"'
FEED = 'file=$1; shift; exec "$@" < "$file"'


def build(
    name: str, host: Host, directory: bytes, files: SnapshotFiles, fingerprint: Fingerprint, bin_dir: str | None
) -> Instance:
    """Restore and prepare a physical backup, and check its pages; nothing runs yet. `directory` must not exist."""
    instance = physical.boot(name, host, directory, fingerprint, bin_dir)
    root = directory.decode()
    physical.place(name, instance, files)
    for path in ("temporary", "binlog"):
        host.make_directory(f"{root}/{path}".encode())
    identity = unprivileged(host, ["mysql"])
    identity.give(directory)
    physical.prepare(instance, identity)
    physical.check_pages(instance)
    password = secrets.token_urlsafe(24)
    account = f"{literal(instance.connection['user'])}@'localhost'"
    _write(host, f"{root}/password", password, mode=0o600)
    text = f"SET sql_log_bin = 0;\nCREATE OR REPLACE USER {account} IDENTIFIED BY {literal(password)};\n"
    _write(host, f"{root}/account.sql", f"{text}GRANT ALL ON *.* TO {account} WITH GRANT OPTION;\n", mode=0o600)
    return instance


def start(name: str, instance: Instance, remember: Callable[[], None]) -> None:
    """Unless it runs already. `remember` is called once `instance` says where it will listen. Returns when it answers. Raises
    CouldNotRunError with the end of its log."""
    host, root = instance.host, instance.directory.decode()
    account = f"{root}/account.sql"
    if not find(instance):
        _renew_sockets(instance)
        remember()
        _configure(instance, read_only=True)
        identity = unprivileged(host, ["mysql"])
        identity.give(instance.directory)
        argv = ["sh", "-c", RUN_WITH_PID, "sh", f"{root}/pid", instance.connection["program"], _defaults(instance)]
        if host.stat(account.encode()) is not None:
            argv.append(f"--init-file={account}")
        throwaway.start(instance, identity.command(argv), f"{root}/server.log")
    with client_of(instance, name) as client:
        throwaway.wait_until_ready(
            instance,
            lambda: find(instance) and is_ready(client),
            f"{root}/server.log",
            seconds=physical.RECOVERY_SECONDS,
            next_step=REBUILD,
        )
    host.remove_tree(account.encode())


def find(instance: Instance) -> bool:
    """Whether it runs: the process that its pid file names was started with its own option file. Puts pid and start time into the
    instance."""
    host = instance.host
    try:
        with host.open_read(instance.directory + b"/pid") as file:
            pid = file.read(32).strip().decode("ascii", "replace")
    except FileNotFoundError:
        return False
    shown = host.run(["cat", f"/proc/{pid}/stat", f"/proc/{pid}/cmdline"]) if pid.isdigit() else None
    if shown is None or shown.returncode != 0:
        return False
    stat, _, command = shown.stdout.partition(b"\n")
    fields = stat.rpartition(b")")[2].split()
    if fields[0] == b"Z" or _defaults(instance).encode() not in command.split(b"\0"):
        return False
    instance.pid, instance.connection["started"] = int(pid), fields[19].decode()
    return True


def process_of(instance: Instance) -> str:
    """Of a server that was found: another one after each start."""
    return f"{instance.pid} {instance.connection['started']}"


def stop(instance: Instance) -> None:
    """Idempotent."""
    if find(instance):
        throwaway.stop(instance, signal.SIGTERM, seconds=STOP_SECONDS)


@contextmanager
def client_of(instance: Instance, name: str) -> Iterator[MariadbClient]:
    host, connection = instance.host, instance.connection
    with host.open_read(instance.directory + b"/password") as file:
        password = file.read(1024)
    options = (*MARIADB.over_socket(connection["socket"]), f"--user={connection['user']}")
    with host.private_file(option_file(password)) as path:
        client = MariadbClient(host, name, options, f"--defaults-file={path}")
        yield find_client(client, connection.get("bin_dir") or None)


def settle(client: MariadbClient) -> None:
    """Wait for the replay of a refresh that was killed: its client may still run, and what it was given it ends. Raises
    CouldNotRunError when it takes long."""
    ((held,),) = client.rows(f"SELECT GET_LOCK('{LOCK}', {LOCK_SECONDS}); DO RELEASE_LOCK('{LOCK}');")
    if held != "1":
        raise CouldNotRunError(
            f"source {client.source}: the replay of a refresh that was killed still runs on host {client.host.name}",
            next_step="wait for it, then refresh again",
        )


def applied(client: MariadbClient) -> str:
    """The last transaction of each domain in the server's own log, as the server writes it."""
    ((text,),) = client.rows("SELECT @@GLOBAL.gtid_binlog_pos;")
    return text


def other_engines(client: MariadbClient) -> bool:
    """Whether there are tables that do not commit together with the log."""
    ((count,),) = client.rows(OTHER_ENGINES)
    return count != "0"


def replay(client: MariadbClient, chain: Chain, paths: Sequence[str], text: str, before: str) -> None:
    """All of the chain, whose files are `paths` on the host; `text`: a file there that is written. The statements are complete in
    it before the first is run: the client runs half of one, too, when its input ends there. Refused unless the server is at
    `before` and nobody else replays. Raises DamageError when the server does not take it."""
    host = client.host
    _write(host, text, _guard(before), mode=0o600)
    argv = [beside(client, "mariadb-binlog"), "--no-defaults", "--verify-binlog-checksum"]
    argv += [f"--start-position={chain.start.offset}", f"--stop-position={chain.end.offset}", *paths]
    written = host.run(["sh", "-c", APPEND, "sh", text, *argv])
    if written.returncode != 0:
        message = f"reading binary logs up to {chain.end} on host {host.name}: {said(written)}"
        if written.returncode >= 126 or HOST_LACKS.search(written.stderr):
            raise CouldNotRunError(message, next_step=f"give host {host.name} what is missing, then try again")
        raise DamageError(message, name=chain.end.file)
    feeding = [client.client, client.defaults, *client.options, "--binary-mode", "--skip-reconnect"]
    done = host.run(["sh", "-c", FEED, "sh", text, *feeding, "--max-allowed-packet=1G"])
    if done.returncode != 0:
        message = f"replay of binary logs up to {chain.end} on host {host.name}: {refused(done)}"
        if done.returncode >= 126 or HOST_LACKS.search(done.stderr) or "45000" in done.stderr:
            raise CouldNotRunError(message, next_step=f"see what host {host.name} lacks, then refresh again")
        raise DamageError(message, name=chain.end.file)


def _guard(before: str) -> str:
    """The first statement. A client that a killed refresh had just started may connect only after we have looked."""
    return (
        f"DELIMITER //\nBEGIN NOT ATOMIC\nIF NOT (GET_LOCK('{LOCK}', 10) AND @@GLOBAL.gtid_binlog_pos = {literal(before)}) THEN\n"
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'another replay has been here';\nEND IF;\nEND//\nDELIMITER ;\n"
    )


def promote(name: str, instance: Instance) -> None:
    """Let it be written to, now and at each start."""
    _configure(instance, read_only=False)
    with client_of(instance, name) as client:
        client.rows("SET GLOBAL read_only = OFF;")


def lend_account(name: str, instance: Instance) -> str:
    """Another account like our own, with no password, for who looks at a drill's server once ours is gone; its name."""
    user = f"{instance.connection['user']}_lent"
    if instance.host.stat(instance.directory + b"/password") is not None:
        account = f"{literal(user)}@'localhost'"
        with client_of(instance, name) as client:
            client.rows(
                f"SET sql_log_bin = 0; CREATE USER IF NOT EXISTS {account}; GRANT ALL ON *.* TO {account} WITH GRANT OPTION;"
            )
    return user


def forget_account(name: str, instance: Instance) -> None:
    """Our own account was for the standby alone. Idempotent. Raises SourceError."""
    secret = instance.directory + b"/password"
    if instance.host.stat(secret) is None:
        return
    with client_of(instance, name) as client:
        if is_ready(client):  # else it is gone already, and only its password is left
            account = f"{literal(instance.connection['user'])}@'localhost'"
            client.rows(f"SET sql_log_bin = 0; DROP USER {account};")
    instance.host.remove_tree(secret)


def _defaults(instance: Instance) -> str:
    return f"--defaults-file={instance.directory.decode()}/my.cnf"


def _renew_sockets(instance: Instance) -> None:
    """A directory below /tmp does not outlive the machine's next start, nor a stop."""
    host, sockets = instance.host, instance.connection["sockets"]
    if host.stat(sockets.encode()) is None:
        made = host.run([host.python, "-c", throwaway.MAKE_SOCKET_DIRECTORY], check=True).stdout.decode().strip()
        unprivileged(host, ["mysql"]).give(made.encode())
        instance.connection |= {"sockets": made, "socket": f"{made}/s"}


def _configure(instance: Instance, *, read_only: bool) -> None:
    host, root, connection = instance.host, instance.directory.decode(), instance.connection
    settings = {
        "datadir": f"{root}/data",
        "tmpdir": f"{root}/temporary",
        "secure_file_priv": f"{root}/temporary",
        "socket": connection["socket"],
        "pid_file": f"{root}/pid",
        "lower_case_table_names": connection["lower_case_table_names"],
        "server_id": connection["server_id"],
        "log_bin": f"{root}/binlog/{connection['log_name']}",
        "binlog_format": "ROW",
        "sync_binlog": "1",
        "innodb_flush_log_at_trx_commit": "1",
        "binlog_expire_logs_seconds": "604800",
        "gtid_strict_mode": "OFF",
        "max_allowed_packet": "1G",
        "local_infile": "OFF",
        "event_scheduler": "OFF",
        "read_only": "ON" if read_only else "OFF",
    }
    lines = ["# written by backupctl; settings of your own go into local.cnf, which it never touches"]
    lines += [f"!include {root}/data/backup-my.cnf", "[mysqld]", "skip_networking", "skip_slave_start"]
    lines += [f"{key} = {value}" for key, value in settings.items()]
    lines += [f"!include {root}/local.cnf", ""]
    _write(host, f"{root}/my.cnf", "\n".join(lines))
    if host.stat(f"{root}/local.cnf".encode()) is None:
        _write(host, f"{root}/local.cnf", "[mysqld]\n")


def server_id(title: str) -> str:
    """Another than the primary's most likely: it stands in the GTIDs of what is written here after a promotion."""
    return str(zlib.crc32(title.encode()) or 1)


def log_name(snapshot: str) -> str:
    """Another for each server that is built: two with logs of one name could be taken for each other."""
    return f"bin-{snapshot[:8]}"


def _write(host: Host, path: str, text: str, *, mode: int = 0o644) -> None:
    host.remove_tree(path.encode())
    sink = host.open_write(path.encode(), mode=mode)
    sink.write(text.encode())
    sink.close()
