"""PostgreSQL's own client programs on a host: which ones, how they connect, and what they answer."""

from __future__ import annotations

import csv
import io
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from backupctl.errors import SourceError, UserError
from backupctl.hosts.protocol import Completed, Host, Process
from backupctl.sources.streams import said

MAJOR = "{major}"
DUMP_OPTIONS = ("-Fc", "-Z0", "-C", "--no-password")
SESSION_SETTINGS = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "search_path": "pg_catalog",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}


def literal(text: str) -> str:
    """A standard SQL string, safe whatever standard_conforming_strings says."""
    quoted = text.replace("'", "''")
    return f" E'{quoted.replace(chr(92), chr(92) * 2)}'" if "\\" in quoted else f"'{quoted}'"


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def conninfo_value(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def view_script(snapshot: str | None) -> str:
    """Opens a transaction that sees one moment (`snapshot`, or now) and prints values in one way whatever the defaults."""
    lines = ["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"]
    if snapshot is not None:
        lines.append(f"SET TRANSACTION SNAPSHOT {literal(snapshot)};")
    lines += [f"SET {name} = '{value}';" for name, value in SESSION_SETTINGS.items()]
    return "\n".join([*lines, "SET row_security = off;", ""])


@dataclass(frozen=True)
class PostgresClient:
    """`conninfo` has no password; `env` names the password file. Every failure is a SourceError of `source`."""

    host: Host
    source: str
    conninfo: str
    directory: str = ""  # of the programs; "" means PATH
    dump_directory: str | None = None  # of pg_dump and pg_restore, where those are of another major version
    env: Mapping[str, str] = field(default_factory=dict)

    def program(self, name: str) -> str:
        directory = self.directory
        if self.dump_directory is not None and name in ("pg_dump", "pg_restore"):
            directory = self.dump_directory
        return f"{directory}/{name}" if directory else name

    def database(self, name: str | None) -> str:
        """The connection string for one database: in a libpq string the last `dbname` counts."""
        return self.conninfo if name is None else f"{self.conninfo} dbname={conninfo_value(name)}"

    def psql(self, database: str | None, *options: str) -> list[str]:
        connect = ["--no-password", "-d", self.database(database)]
        return [self.program("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *options, *connect]

    def run(self, argv: list[str], stdin: str = "", **env: str) -> Completed:
        return self.host.run(argv, stdin=stdin.encode(), env={**self.env, **env})

    def start(self, argv: list[str], **env: str) -> Process:
        return self.host.start(argv, env={**self.env, **env})

    def documents(self, database: str | None, script: str) -> list[Any]:
        """Run a script whose every printed line is a JSON document."""
        completed = self.run(self.psql(database), script, PGCLIENTENCODING="UTF8")
        if completed.returncode != 0:
            raise self.failure(database, completed)
        return [json.loads(line) for line in completed.stdout.splitlines() if line.strip()]

    def records(self, database: str | None, query: str, *, snapshot: str | None = None) -> list[dict[str, Any]]:
        """The rows of one query, each as a dictionary, seen in `snapshot`."""
        aggregate = f"SELECT coalesce(json_agg(row_to_json(r)), '[]')::text FROM (\n{query}\n) r;\n"  # noqa: S608 - our own
        (rows,) = self.documents(database, view_script(snapshot) + aggregate)
        return list(rows)

    def table(self, database: str, sql: str) -> list[list[str]]:
        """Any one statement, read-only, as rows of text."""
        completed = self.run(
            self.psql(database, "--csv"),
            sql.rstrip().rstrip(";") + ";\n",
            PGOPTIONS="-c default_transaction_read_only=on",
        )
        if completed.returncode != 0:
            raise UserError(f"query on database {database}: {said(completed)}", next_step="correct the probe's SQL")
        return list(csv.reader(io.StringIO(completed.stdout.decode("utf-8", "replace"), newline="")))

    def failure(self, database: str | None, completed: Completed) -> SourceError:
        where = f"database {database}" if database else "server"
        return SourceError(
            f"source {self.source}: PostgreSQL {where} on host {self.host.name}: {said(completed)}",
            source=self.source,
            item=database or "",
            next_step=self._advice(completed),
        )

    def _advice(self, completed: Completed) -> str:
        text = completed.stderr
        if completed.returncode == 127:
            return f"install postgresql-client on host {self.host.name}, or set `bin_dir` of source {self.source}"
        if "authentication failed" in text or "no password supplied" in text:
            return f"correct `password` or the user in `conninfo` of source {self.source}"
        if "does not exist" in text and "database" in text:
            return f"correct `databases` of source {self.source}"
        if "could not connect" in text or "connection to server" in text:
            return f"see that the server runs and that `conninfo` of source {self.source} reaches it"
        if "lock timeout" in text:
            return "somebody alters or truncates tables at that hour; run the job again, or at another time"
        if "permission denied" in text or "row-level security" in text or "row security" in text:
            return "GRANT pg_read_all_data to the backup role; large objects and row security need a superuser or BYPASSRLS"
        return "put it right, then run the job again"

    def version(self, program: str = "pg_dump") -> str:
        """Of a client program, e.g. "15.18"; "" when it is not there."""
        completed = self.host.run([self.program(program), "--version"])
        found = re.search(r"\b(\d+(?:\.\d+)*)", completed.stdout.decode("utf-8", "replace"))
        return found.group(1) if completed.returncode == 0 and found else ""

    def server_version(self, database: str | None) -> str:
        (row,) = self.records(database, "SELECT current_setting('server_version') AS v")
        return str(row["v"]).split()[0]

    def supports(self, program: str, option: str) -> bool:
        return option.encode() in self.host.run([self.program(program), "--help"]).stdout


class Conversation:
    """A psql that is asked several things, one after the other, in one session of the server."""

    def __init__(self, client: PostgresClient, database: str | None) -> None:
        self._client, self._database = client, database
        self._mark = f"backupctl-{secrets.token_hex(16)}"
        self._process = client.start(client.psql(database))

    def tell(self, sql: str) -> None:
        try:
            self._process.stdin.write(f"{sql}\n\\echo {self._mark}\n".encode())
        except OSError:
            self._fail()

    def hear(self) -> str:
        answer = b""
        while self._mark.encode() not in answer:
            data = self._process.stdout.read(65536)
            if not data:
                self._fail()
            answer += data
        return answer.partition(self._mark.encode())[0].decode().strip()

    def ask(self, sql: str) -> str:
        self.tell(sql)
        return self.hear()

    def _fail(self) -> NoReturn:
        completed = self._process.finish()
        self.close()
        raise self._client.failure(self._database, completed)

    def close(self) -> None:
        self._process.__exit__(None, None, None)


def major(version: str) -> int:
    return int(version.split(".")[0])


def program_directories(host: Host, bin_dir: str | None) -> list[str]:
    """Where PostgreSQL programs may be on a host, oldest major first, PATH (as "") last. With `bin_dir` only there; `{major}`
    in it stands for any number, for several majors side by side."""
    if bin_dir:
        return _numbered(host, bin_dir.rstrip("/")) if MAJOR in bin_dir else [bin_dir.rstrip("/")]
    found = _numbered(host, f"/usr/lib/postgresql/{MAJOR}/bin") + _numbered(host, f"/usr/pgsql-{MAJOR}/bin")
    return [*found, ""]


def _numbered(host: Host, pattern: str) -> list[str]:
    before, _, after = pattern.partition(MAJOR)
    parent, _, start = before.rpartition("/")
    end, slash, rest = after.partition("/")
    try:
        names = [name.decode("utf-8", "surrogateescape") for name in host.list_directory((parent or "/").encode())]
    except OSError:
        return []
    numbers = {
        name[len(start) : len(name) - len(end)]: name for name in names if name.startswith(start) and name.endswith(end)
    }
    known = sorted((float(number), name) for number, name in numbers.items() if re.fullmatch(r"\d+(\.\d+)?", number))
    return [f"{parent}/{name}{slash}{rest}" for _, name in known]


def choose_client(client: PostgresClient, bin_dir: str | None, server_version: str) -> PostgresClient:
    """The client whose pg_dump is of the server's major version, else the next newer one: an older pg_dump refuses."""
    found = []
    for directory in program_directories(client.host, bin_dir):
        candidate = replace(client, directory=directory)
        version = candidate.version()
        if version:
            found.append((major(version), candidate))
    suitable = sorted((pair for pair in found if pair[0] >= major(server_version)), key=lambda pair: pair[0])
    if not suitable:
        newest = f"the newest pg_dump there is {max(pair[0] for pair in found)}" if found else "there is no pg_dump"
        where = f" in {bin_dir}" if bin_dir else ""
        raise SourceError(
            f"source {client.source}: server is PostgreSQL {server_version}, and on host {client.host.name}{where} {newest}",
            source=client.source,
            next_step=f"install postgresql-client-{major(server_version)} on host {client.host.name}"
            + (f", or correct `bin_dir` of source {client.source}" if bin_dir else ""),
        )
    return suitable[0][1]


def find_psql(client: PostgresClient, bin_dir: str | None) -> PostgresClient:
    """Any psql will do to ask a server for its version; the newest is taken."""
    for directory in reversed(program_directories(client.host, bin_dir)):
        candidate = replace(client, directory=directory)
        if candidate.version("psql"):
            return candidate
    raise SourceError(
        f"source {client.source}: no psql on host {client.host.name}",
        source=client.source,
        next_step=f"install postgresql-client on host {client.host.name}, or set `bin_dir` of source {client.source}",
    )
