"""The client programs of MariaDB or MySQL on a host: which ones, how they connect, and what they answer."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from backupctl.errors import SourceError
from backupctl.hosts.protocol import Completed, Host, Process
from backupctl.sources.mariadb_family import MARIADB, MYSQL, Family, family_of_program
from backupctl.sources.streams import said

SYSTEM_SCHEMAS = ("information_schema", "performance_schema", "mysql", "sys")


def literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def identifier(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


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
    """`options` say where the server is, `defaults` is the first argument and holds the password file. `client` and `dumper` are
    there once `find_client` has found them."""

    host: Host
    source: str
    options: tuple[str, ...]
    defaults: str
    family: Family = MARIADB
    client: str = ""
    dumper: str = ""

    def argv(self, *more: str) -> list[str]:
        """The client in batch mode: tab-separated, unescaped, each result as soon as there is one."""
        batch = ["--batch", "--raw", "--quick", "--unbuffered", "--skip-column-names", "--max-allowed-packet=1G"]
        return [self.client, self.defaults, *self.options, *batch, "--default-character-set=utf8mb4", *more]

    def dump_argv(self, *more: str) -> list[str]:
        fixed = ["--default-character-set=utf8mb4", "--max-allowed-packet=512M", "--skip-dump-date"]
        return [self.dumper, self.defaults, *self.options, *fixed, *self.family.dump, *more]

    def start(self, argv: list[str]) -> Process:
        return self.host.start(argv)

    def rows(self, script: str, database: str = "") -> list[list[str]]:
        """Rows of text of all statements; SQL's NULL is the word NULL."""
        completed = self.host.run(
            self.argv(*([database] if database else [])), stdin=(self.family.session + script).encode()
        )
        if completed.returncode != 0:
            raise self.failure(completed)
        text = completed.stdout.decode("utf-8", "surrogateescape")
        return [line.split("\t") for line in text.split("\n")[:-1]]

    def failure(self, completed: Completed, item: str = "") -> SourceError:
        return SourceError(
            f"source {self.source}: {self.family.name} on host {self.host.name}{': ' + item if item else ''}: {said(completed)}",
            source=self.source,
            item=item,
            next_step=self._advice(completed),
        )

    def _advice(self, completed: Completed) -> str:
        text = completed.stderr
        if completed.returncode == 127:
            return f"install {self.family.client_package} on host {self.host.name}, or set `bin_dir` of source {self.source}"
        if self.family is MARIADB and "caching_sha2_password" in text:
            return f"MySQL asks for that: name the kind of source {self.source} `mysql`"
        if self.family is MYSQL and "mysql_native_password" in text:
            return (
                f"if the server is MariaDB, name the kind of source {self.source} `mariadb`; if it is MySQL, let the account use"
                " caching_sha2_password"
            )
        if "1045" in text or "1698" in text:
            return f"correct `user` or `password` of source {self.source}"
        if "1049" in text or "1102" in text:
            return f"correct `databases` of source {self.source}"
        if "1205" in text:
            return (
                "a statement that runs long is in the way (SHOW FULL PROCESSLIST;): run the job again when it is over"
            )
        if "2026" in text:
            return (
                f"give source {self.source} `tls: {{ca: FILE}}` with the authority of the server's certificate; `tls: false`"
                " where the connection stays on the machine"
            )
        if re.search(r"\b(2002|2003|2005|2013)\b", text):
            return f"see that the server runs and that `socket` or `address` of source {self.source} reaches it"
        if re.search(r"\b(1044|1142|1143|1227|1419)\b", text):
            return f"{self.family.grant} the backup user;"
        return "put it right, then run the job again"

    def server_version(self) -> str:
        """E.g. "10.11.19". Raises SourceError for a server of another family, and for one that is too old."""
        asked = b"SELECT VERSION();"  # without `session`, whose variables only one family knows
        completed = self.host.run(self.argv(), stdin=asked)
        if completed.returncode != 0:
            raise self.failure(completed)
        text = completed.stdout.decode("utf-8", "replace").strip()
        family = MARIADB if "mariadb" in text.lower() else MYSQL
        if family != self.family:
            raise SourceError(
                f"source {self.source}: the server is {family.name} {text}, not {self.family.name}",
                source=self.source,
                next_step=f"name the source's kind `{family.kind}` instead of `{self.family.kind}`",
            )
        version = text.split("-")[0]
        if numbers(version) < family.oldest_server:
            wanted = ".".join(map(str, family.oldest_server))
            raise SourceError(
                f"source {self.source}: the server is {family.name} {version}, older than {wanted}",
                source=self.source,
                next_step=f"upgrade the server to {wanted} or newer",
            )
        return version

    def variable(self, name: str) -> str:
        return self.variables(name)[name]

    def variables(self, *names: str) -> dict[str, str]:
        """Of the server, as it goes by them now."""
        (values,) = self.rows(f"SELECT {', '.join(f'@@GLOBAL.{name}' for name in names)};")
        return dict(zip(names, values, strict=True))


def find_client(client: MariadbClient, bin_dir: str | None) -> MariadbClient:
    """Fills in the names of the programs that the host has, old or new. Those of another family that go by the same names will
    not do: they leave out what their own servers do not have."""
    family, host = client.family, client.host
    prefix = bin_dir.rstrip("/") + "/" if bin_dir else ""
    found = []
    for names in (family.clients, family.dumpers):
        others = ""
        for name in names:
            completed = host.run([prefix + name, "--version"])
            owner = family_of_program(completed.stdout.decode("utf-8", "replace"))
            if completed.returncode == 0 and owner in (family, None):
                found.append(prefix + name)
                break
            others = others or (f"; {prefix}{name} is {owner.name}'s" if owner else "")
        else:
            raise SourceError(
                f"source {client.source}: {family.name}'s {prefix}{' or '.join(names)} is not on host {host.name}{others}",
                source=client.source,
                next_step=f"install {family.client_package} on host {host.name}, or set `bin_dir` of source {client.source}",
            )
    return replace(client, client=found[0], dumper=found[1])


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def series(version: str) -> str:
    """E.g. "10.11"."""
    return ".".join(version.split(".")[:2])
