"""A restored MariaDB data directory brought to life: prepared, its pages checked, started, and led by its binary logs to the very
position at which the source was looked at."""

from __future__ import annotations

import json
from collections.abc import Sequence

from backupctl.errors import CouldNotRunError, DamageError
from backupctl.hosts.protocol import Host
from backupctl.hosts.unprivileged import Identity, unprivileged
from backupctl.sources import page_check_program, throwaway
from backupctl.sources.mariadb_binlog import DIRECTORY, Position
from backupctl.sources.mariadb_client import literal, series
from backupctl.sources.mariadb_instance import (
    HOST_LACKS,
    SERVER_OPTIONS,
    administrator_beside,
    based,
    client_of,
    clients_beside,
    is_ready,
    logging,
    server_program,
    stop,
)
from backupctl.sources.mariadb_physical import COMPLETED_OK, beside
from backupctl.sources.mariadb_programs import directories, inside, version_of
from backupctl.sources.mariadb_replay import Logs, replay, stop_at
from backupctl.sources.protocol import Fingerprint, Instance, SnapshotFiles
from backupctl.sources.streams import choose_databases, program_text, said

SHOWN_FILES = 5
RECOVERY_SECONDS = 86400.0  # a drill has its own, shorter patience
OLDER = "restore an older snapshot, and run `backupctl check --read-data`"


def boot(
    name: str, host: Host, directory: bytes, fingerprint: Fingerprint, bin_dir: str | None, log_bin: str = ""
) -> Instance:
    """The place and the programs; the server starts when its data directory is there."""
    program, version = server_program(host, bin_dir, fingerprint["versions"]["server_series"], name)
    backup = backup_program(name, host, bin_dir, version)
    _, sockets = throwaway.prepare(host, directory, "mysql")
    instance = Instance("mariadb", host, directory, version)
    instance.connection = {
        "method": "physical",
        "program": program,
        "bin_dir": clients_beside(host, program),
        "backup": backup,
        "sockets": sockets,
        "socket": f"{sockets}/s",
        "user": administrator_beside(fingerprint["accounts"]),
        "base": json.dumps(fingerprint["base"]),
        "target": json.dumps(fingerprint["binary_log"]),
        "log_bin": log_bin,
        "lower_case_table_names": fingerprint["settings"]["lower_case_table_names"],
        "databases_there": json.dumps(sorted(fingerprint["databases"])),
    }
    return instance


def backup_program(name: str, host: Host, bin_dir: str | None, version: str) -> str:
    """mariadb-backup of the series of a server `version`: it prepares the files."""
    found = []
    for directory in [*reversed(directories(host, bin_dir)), ""]:
        program = inside(directory, "mariadb-backup")
        if host.run([program, "--version"]).returncode != 0:
            continue
        there = version_of(host, program)
        if not there or series(there) == series(version):
            return program
        found.append(there)
    has = f"has mariadb-backup {', '.join(found)}" if found else "has no mariadb-backup"
    raise CouldNotRunError(
        f"source {name} is physical, of MariaDB {series(version)}; host {host.name} {has}",
        next_step=f"install mariadb-backup {version} on host {host.name}",
    )


def load(name: str, instance: Instance, files: SnapshotFiles, databases: Sequence[str] | None) -> list[str]:
    """Restore, prepare, check pages, start, replay; the server is left running."""
    there = json.loads(instance.connection["databases_there"])
    wanted = choose_databases(instance, databases, there, name)
    host, root = instance.host, instance.directory.decode()
    identity = unprivileged(host, ["mysql"])
    place(name, instance, files)
    for path in ("temporary", "binlog"):
        host.make_directory(f"{root}/{path}".encode())
    account = f"{literal(instance.connection['user'])}@'localhost'"
    sink = host.open_write(f"{root}/account.sql".encode())
    sink.write(f"CREATE USER {account};\nGRANT ALL ON *.* TO {account} WITH GRANT OPTION;\n".encode())
    sink.close()
    identity.give(instance.directory)
    prepare(instance, identity)
    check_pages(instance)
    start(name, instance, identity)
    base, target = (Position(*json.loads(instance.connection[one])) for one in ("base", "target"))
    names = [one.decode() for one in files.names(DIRECTORY)]
    logs = Logs(names, lambda one: files.open(DIRECTORY + b"/" + one.encode()))
    chain = stop_at(logs, base, target)
    with client_of(instance, name) as client:
        paths = logs.place(host, f"{root}/binlog", chain.files)
        replay(client, beside(client, "mariadb-binlog"), chain, paths)
    return [f"prepared, replayed from {base} to {target}; databases: {', '.join(wanted)}"]


def place(name: str, instance: Instance, files: SnapshotFiles) -> None:
    host, data = instance.host, instance.directory + b"/data"
    host.make_directory(data)
    with host.placer(data) as placer:
        problems = files.restore(placer, b"data")
    if problems:
        more = f" and {len(problems) - SHOWN_FILES} more" if len(problems) > SHOWN_FILES else ""
        message = f"data directory of {name}: {'; '.join(problems[:SHOWN_FILES])}{more}"
        raise DamageError(message, name=name, next_step=OLDER)


def prepare(instance: Instance, identity: Identity) -> None:
    """Crash recovery by the program that made the backup."""
    root, connection = instance.directory.decode(), instance.connection
    argv = [
        connection["backup"],
        "--no-defaults",
        "--prepare",
        f"--target-dir={root}/data",
        f"--tmpdir={root}/temporary",
    ]
    completed = instance.host.run(identity.command(argv))
    last = completed.stderr.rstrip().rpartition("\n")[2]
    if completed.returncode == 0 and last.endswith(COMPLETED_OK):
        return
    message = f"mariadb-backup --prepare on host {instance.host.name}: {said(completed)}"
    if completed.returncode >= 126 or HOST_LACKS.search(completed.stderr):
        raise CouldNotRunError(message, next_step=f"give host {instance.host.name} what is missing, then try again")
    raise DamageError(message, name="data", next_step=OLDER)


def check_pages(instance: Instance) -> None:
    """Every page of every tablespace by the server's own program: comparing rows does not read secondary indexes."""
    host, root = instance.host, instance.directory.decode()
    completed = host.run([host.python, "-c", program_text(page_check_program), f"{root}/data"], check=True)
    found = json.loads(completed.stdout)
    if found["missing"]:
        raise CouldNotRunError(f"host {host.name} has no innochecksum", next_step="install mariadb-server there")
    if found["bad"]:
        shown = "; ".join(f"{path}: {why}" for path, why in list(found["bad"].items())[:SHOWN_FILES])
        raise DamageError(f"pages of the restored tablespaces are damaged: {shown}", name="data", next_step=OLDER)


def start(name: str, instance: Instance, identity: Identity) -> None:
    """The source's accounts are in force; one of our own is made before anybody can connect. Not with --skip-grant-tables:
    that would take the event scheduler away, and events with it."""
    root, connection = instance.directory.decode(), instance.connection
    log = f"{root}/server.log"
    argv = [connection["program"], f"--defaults-file={root}/data/backup-my.cnf", f"--datadir={root}/data"]
    argv += [f"--tmpdir={root}/temporary", f"--socket={connection['socket']}", f"--pid-file={root}/pid"]
    argv += based(connection["program"])
    argv += [f"--secure-file-priv={root}/temporary", f"--lower-case-table-names={connection['lower_case_table_names']}"]
    argv += [f"--init-file={root}/account.sql", *SERVER_OPTIONS, *logging(connection["log_bin"])]
    throwaway.start(instance, identity.command(argv), log)
    try:
        with client_of(instance, name) as client:
            throwaway.wait_until_ready(instance, lambda: is_ready(client), log, seconds=RECOVERY_SECONDS)
    except BaseException:
        stop(instance)
        raise
