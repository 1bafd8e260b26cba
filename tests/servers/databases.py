"""Real PostgreSQL, MariaDB and MySQL servers for tests: own user, private directory, kernel ports, ended by pid; and writers."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from backupctl.hosts.local import LocalHost
from backupctl.sources.mariadb_family import MYSQL
from backupctl.sources.mariadb_instance import install_command

START_SECONDS = 120.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def unprivileged_prefix() -> list[str]:
    """Servers refuse to run as root: as root they get `nobody`."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]


def private_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="bctl-test-", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(directory, "nobody", "nogroup")
    return directory


def postgres_directory() -> Path | None:
    """Of the newest installed server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).parent if initdb else None


def mariadb_programs() -> bool:
    return all(shutil.which(name, path=SEARCH_PATH) for name in ("mariadbd", "mariadb-install-db", "mariadb-dump"))


SEARCH_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
ENVIRONMENT = {"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": "/tmp"}


def run(argv: Sequence[str], stdin: str = "") -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, env=ENVIRONMENT, cwd="/")
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


def wait_for(condition, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert process.poll() is None, f"server ended:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"server not ready:\n{log.read_text()}"
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes], number: int) -> None:
    process.send_signal(number)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(30)


@dataclass
class PostgresServer:
    directory: Path
    programs: Path
    port: int

    @property
    def conninfo(self) -> str:
        """Over the socket, as superuser, without a password."""
        return f"host={self.directory} port={self.port} user=postgres"

    def sql(self, script: str, database: str = "postgres") -> str:
        argv = [
            str(self.programs / "psql"),
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            f"{self.conninfo} dbname={database}",
        ]
        return run(argv, script).strip()

    @contextmanager
    def load(self, database: str, *, per_second: int = 0) -> Iterator[subprocess.Popen[bytes]]:
        """pgbench writes until the context ends, as fast as it can or so often; the database was prepared by `pgbench -i`."""
        argv = [str(self.programs / "pgbench"), "-n", "-c", "2", "-T", "600", "-h", str(self.directory)]
        argv += ["-R", str(per_second)] if per_second else []
        argv += ["-p", str(self.port), "-U", "postgres", database]
        process = subprocess.Popen(argv, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
        try:
            yield process
        finally:
            assert process.poll() is None, "pgbench ended while it was needed"
            process.kill()
            process.wait()

    def removals(self) -> list[str]:
        """The statements that take away what exists now, databases before roles."""
        databases = """SELECT format('DROP DATABASE IF EXISTS %I WITH (FORCE);', datname)
            FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY 1;"""
        roles = """SELECT format('DROP OWNED BY %1$I CASCADE; DROP ROLE IF EXISTS %1$I;', rolname)
            FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> 'postgres' ORDER BY 1;"""
        return [*self.sql(databases).splitlines(), *self.sql(roles).splitlines()]

    def pgbench_init(self, database: str) -> None:
        argv = [str(self.programs / "pgbench"), "-i", "-q", "-s", "1", "-h", str(self.directory), "-p", str(self.port)]
        run([*argv, "-U", "postgres", database])


@contextmanager
def postgres_server(programs: Path, *, initdb: Sequence[str] = (), **settings: str) -> Iterator[PostgresServer]:
    directory = private_directory()
    data = directory / "data"
    make = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", *initdb]
    try:
        run([*unprivileged_prefix(), *make])
        lines = ("local all all trust", "local replication all trust", "host all all 127.0.0.1/32 scram-sha-256")
        (data / "pg_hba.conf").write_text("\n".join(lines) + "\n")
        with postgres_started(programs, directory, **settings) as server:
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def postgres_started(programs: Path, directory: Path, **settings: str) -> Iterator[PostgresServer]:
    """A server on the data directory `directory`/data, ready for queries; ended at the end."""
    port = free_port()
    log = directory / "log"
    options = {"listen_addresses": "127.0.0.1", "port": str(port), "fsync": "off", "unix_socket_directories": directory}
    options |= settings
    argv = [*unprivileged_prefix(), str(programs / "postgres"), "-D", str(directory / "data")]
    argv += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, env=ENVIRONMENT, cwd="/")
    try:
        ready = [str(programs / "pg_isready"), "-q", "-h", str(directory), "-p", str(port)]
        wait_for(lambda: subprocess.run(ready, env=ENVIRONMENT).returncode == 0, process, log)
        yield PostgresServer(directory, programs, port)
    finally:
        end(process, signal.SIGINT)


DATABASE_REMOVALS = """SELECT concat('DROP DATABASE IF EXISTS `', replace(schema_name, '`', '``'), '`;')
    FROM information_schema.schemata ORDER BY 1;"""


@dataclass
class MariadbServer:
    directory: Path
    port: int
    program: str = "mariadb"

    @property
    def socket(self) -> str:
        return str(self.directory / "s")

    @property
    def client(self) -> list[str]:
        return [self.program, "--no-defaults", "-S", self.socket, "-u", "root", "--default-character-set=utf8mb4"]

    def sql(self, script: str, database: str = "") -> str:
        return run([*self.client, "--batch", "--skip-column-names", *([database] if database else [])], script).strip()

    def wait_for_more(self, query: str, before: int) -> None:
        """Until the number that `query` gives is greater than that."""
        deadline = time.monotonic() + 60
        while int(self.sql(query)) <= before:
            assert time.monotonic() < deadline

    def removals(self) -> list[str]:
        """The statements that take away what exists now, databases before users."""
        return [*self.sql(DATABASE_REMOVALS).splitlines(), *self.sql(self._user_removals()).splitlines()]

    def _user_removals(self) -> str:
        return """SELECT if(is_role = 'Y', concat('DROP ROLE IF EXISTS `', user, '`;'),
            concat('DROP USER IF EXISTS `', user, '`@`', host, '`;')) FROM mysql.user ORDER BY 1;"""

    @contextmanager
    def load(self, script: str) -> Iterator[subprocess.Popen[bytes]]:
        """`script` (SQL text ending in `;`) is sent over and over until the context ends."""
        argv = [*self.client, "--batch"]
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT, cwd="/"
        )
        assert process.stdin is not None
        feeder = subprocess.Popen(["yes", script], stdout=process.stdin, cwd="/")
        process.stdin.close()
        try:
            yield process
        finally:
            assert process.poll() is None, "the writer ended while it was needed"
            for each in (feeder, process):
                each.kill()
                each.wait()


AnyMariadbServer = TypeVar("AnyMariadbServer", bound=MariadbServer)


class MysqlServer(MariadbServer):
    def _user_removals(self) -> str:
        return "SELECT concat('DROP USER IF EXISTS `', user, '`@`', host, '`;') FROM mysql.user ORDER BY 1;"


@cache
def installed_once() -> list[str]:
    """What to put before the command that makes a data directory, so that it does its work once in a process's life."""
    templates = tempfile.mkdtemp(prefix="bctl-installed-", dir="/tmp")
    os.chmod(templates, 0o1777)
    atexit.register(shutil.rmtree, templates, ignore_errors=True)
    script = Path(templates) / "installed_once.sh"  # the servers' user may not reach the sources
    shutil.copy(Path(__file__).with_name("installed_once.sh"), script)
    script.chmod(0o755)
    return [str(script), templates]


@contextmanager
def mariadb_server(*options: str, base: Path | None = None) -> Iterator[MariadbServer]:
    """`base`: what is above the `bin` that holds its programs; by default those of the PATH."""
    bin_directory, based = (f"{base}/bin/", [f"--basedir={base}"]) if base else ("", [])
    directory, port = private_directory(), free_port()
    prefix = unprivileged_prefix()
    data = directory / "data"
    # a server that starts removes every temporary table in its directory for them, another server's too
    temporary = f"--tmpdir={directory}"
    install = [*installed_once(), f"{bin_directory}mariadb-install-db", "--no-defaults", f"--datadir={data}", temporary]
    install += ["--skip-test-db", *based]
    run([*prefix, *install, "--auth-root-authentication-method=normal"])
    argv = [f"{bin_directory}mariadbd", "--no-defaults", *based]
    with mariadb_started(MariadbServer(directory, port), argv, options) as server:
        yield server


@contextmanager
def mysql_server(base: Path, *options: str) -> Iterator[MysqlServer]:
    """`base`: what is above the `bin` that holds its programs."""
    directory, program = private_directory(), str(base / "bin" / "mysqld")
    install = [*installed_once(), *install_command(LocalHost(), program, MYSQL), *MYSQL.install]
    run([*unprivileged_prefix(), *install, f"--datadir={directory}/data", f"--tmpdir={directory}"])
    argv = [program, "--no-defaults", f"--basedir={base}", "--secure-file-priv=NULL", "--event-scheduler=OFF"]
    argv.append("--mysqlx=OFF")
    with mariadb_started(MysqlServer(directory, free_port(), str(base / "bin" / "mysql")), argv, options) as server:
        yield server


@contextmanager
def mariadb_started(
    server: AnyMariadbServer, argv: Sequence[str], options: Sequence[str]
) -> Iterator[AnyMariadbServer]:
    """On the data directory that was made; all of the server's directory is gone afterwards."""
    log = server.directory / "log"
    argv = [*unprivileged_prefix(), *argv, f"--datadir={server.directory}/data", f"--tmpdir={server.directory}"]
    argv += [
        f"--socket={server.socket}",
        f"--port={server.port}",
        "--bind-address=127.0.0.1",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-buffer-pool-size=64M",
        *options,
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, env=ENVIRONMENT, cwd="/")
    try:
        ping = [*server.client, "-e", "SELECT 1"]
        wait_for(lambda: subprocess.run(ping, env=ENVIRONMENT, capture_output=True).returncode == 0, process, log)
        yield server
    finally:
        end(process, signal.SIGTERM)
        shutil.rmtree(server.directory, ignore_errors=True)


@contextmanager
def given_back(server: PostgresServer | MariadbServer) -> Iterator[None]:
    """Databases, roles and users that appear in the context are gone after it."""
    before = set(server.removals())
    yield
    for statement in server.removals():
        if statement not in before:
            server.sql(statement)
