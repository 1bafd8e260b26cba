"""MariaDB's own client programs on a host: which ones, how they connect, and what they answer."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from backupctl.errors import SourceError
from backupctl.hosts.protocol import Completed, Host, Process
from backupctl.sources.streams import said

CLIENT_NAMES = ("mariadb", "mysql")
DUMP_NAMES = ("mariadb-dump", "mysqldump")
SYSTEM_SCHEMAS = ("information_schema", "performance_schema", "mysql", "sys")
GRANT = "GRANT SELECT, RELOAD, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES, BINLOG MONITOR ON *.* TO"
SESSION = (  # a slow reader must not make the server hang up; values are printed alike everywhere
    "SET SESSION net_write_timeout = 86400, net_read_timeout = 86400, wait_timeout = 86400, max_statement_time = 0,"
    " lock_wait_timeout = 20, time_zone = '+00:00', sql_mode = '', group_concat_max_len = 1048576;\n"
)


def literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def identifier(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


UNENCRYPTED = "--skip-ssl"


def over_socket(path: str) -> tuple[str, str]:
    """The options for a connection that stays on the machine. From MariaDB 11.4 on the clients would ask for TLS even there, and
    refuse a server without."""
    return (f"--socket={path}", UNENCRYPTED)


def option_file(password: bytes | None) -> bytes:
    """A client option file; in it `#` and quotes are special unless quoted, and backslash escapes."""
    if password is None:
        return b"[client]\n"
    text = password.decode().rstrip("\r\n").replace("\\", "\\\\").replace('"', '\\"')
    return f'[client]\npassword="{text}"\n'.encode()


def refused(client: Completed) -> str:
    """Why the client stopped, for a message. Before its error it says the whole statement, which holds anything."""
    errors = [line for line in client.stderr.splitlines() if line.startswith("ERROR")]
    return errors[-1] if errors else said(client)


@dataclass(frozen=True)
class MariadbClient:
    """`options` say where the server is, `defaults` is the first argument and holds the password file."""

    host: Host
    source: str
    options: tuple[str, ...]
    defaults: str
    client: str = "mariadb"
    dumper: str = "mariadb-dump"

    def argv(self, *more: str) -> list[str]:
        """The client in batch mode: tab-separated, unescaped, each result as soon as there is one."""
        batch = ["--batch", "--raw", "--quick", "--unbuffered", "--skip-column-names", "--max-allowed-packet=1G"]
        return [self.client, self.defaults, *self.options, *batch, "--default-character-set=utf8mb4", *more]

    def dump_argv(self, *more: str) -> list[str]:
        fixed = ["--default-character-set=utf8mb4", "--max-allowed-packet=512M", "--skip-dump-date"]
        return [self.dumper, self.defaults, *self.options, *fixed, *more]

    def start(self, argv: list[str]) -> Process:
        return self.host.start(argv)

    def rows(self, script: str, database: str = "") -> list[list[str]]:
        """Rows of text of all statements; SQL's NULL is the word NULL."""
        completed = self.host.run(self.argv(*([database] if database else [])), stdin=(SESSION + script).encode())
        if completed.returncode != 0:
            raise self.failure(completed)
        text = completed.stdout.decode("utf-8", "surrogateescape")
        return [line.split("\t") for line in text.split("\n")[:-1]]

    def failure(self, completed: Completed, item: str = "") -> SourceError:
        return SourceError(
            f"source {self.source}: MariaDB on host {self.host.name}{': ' + item if item else ''}: {said(completed)}",
            source=self.source,
            item=item,
            next_step=self._advice(completed),
        )

    def _advice(self, completed: Completed) -> str:
        text = completed.stderr
        if completed.returncode == 127:
            return f"install mariadb-client on host {self.host.name}, or set `bin_dir` of source {self.source}"
        if "1045" in text or "1698" in text:
            return f"correct `user` or `password` of source {self.source}"
        if "1049" in text or "1102" in text:
            return f"correct `databases` of source {self.source}"
        if "2026" in text:
            return (
                f"give source {self.source} `tls: {{ca: FILE}}` with the authority of the server's certificate; `tls: false`"
                " where the connection stays on the machine"
            )
        if re.search(r"\b(2002|2003|2005|2013)\b", text):
            return f"see that the server runs and that `socket` or `address` of source {self.source} reaches it"
        if re.search(r"\b(1044|1142|1143|1227|1419)\b", text):
            return f"{GRANT} the backup user;"
        return "put it right, then run the job again"

    def server_version(self) -> str:
        """E.g. "10.11.19". Raises SourceError for a server that is not MariaDB."""
        ((text,),) = self.rows("SELECT VERSION();")
        if "mariadb" not in text.lower():
            raise SourceError(
                f"source {self.source}: the server is {text}, not MariaDB",
                source=self.source,
                next_step="only MariaDB is supported by kind `mariadb`",
            )
        return text.split("-")[0]

    def variable(self, name: str) -> str:
        return self.variables(name)[name]

    def variables(self, *names: str) -> dict[str, str]:
        """Of the server, as it goes by them now."""
        (values,) = self.rows(f"SELECT {', '.join(f'@@GLOBAL.{name}' for name in names)};")
        return dict(zip(names, values, strict=True))


def find_client(client: MariadbClient, bin_dir: str | None) -> MariadbClient:
    """Fills in the names of the programs that the host has, old or new."""
    prefix = bin_dir.rstrip("/") + "/" if bin_dir else ""
    found = []
    for names, package in ((CLIENT_NAMES, "mariadb-client"), (DUMP_NAMES, "mariadb-client")):
        for name in names:
            if client.host.run([prefix + name, "--version"]).returncode == 0:
                found.append(prefix + name)
                break
        else:
            raise SourceError(
                f"source {client.source}: neither {prefix}{' nor '.join(names)} on host {client.host.name}",
                source=client.source,
                next_step=f"install {package} on host {client.host.name}, or set `bin_dir` of source {client.source}",
            )
    return replace(client, client=found[0], dumper=found[1])


def refuse_older(client: MariadbClient, server: str) -> None:
    """A dump program that is older than the server may leave out what it has never heard of, and say nothing. Raises
    SourceError; one that does not say its version as MariaDB's do passes."""
    said = client.host.run([client.dumper, "--version"]).stdout.decode("utf-8", "replace")
    found = re.search(r"(\d+\.\d+\.\d+)-MariaDB", said)
    if found and numbers(found.group(1)) < numbers(series(server)):
        raise SourceError(
            f"source {client.source}: {client.dumper} {found.group(1)} is older than the server, {server}",
            source=client.source,
            next_step=f"install mariadb-client {series(server)} or newer on host {client.host.name}, or set `bin_dir`",
        )


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def series(version: str) -> str:
    """E.g. "10.11"."""
    return ".".join(version.split(".")[:2])
