"""PostgreSQL databases by logical dump, with roles and tablespaces, in one snapshot each.

Dumps are pg_dump's custom format, uncompressed: the repository compresses, and unchanged pages are recognised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backupctl.clock import Clock, parse_iso
from backupctl.errors import UserError
from backupctl.hosts.protocol import Host
from backupctl.hosts.secret import SecretRef
from backupctl.sources import (
    postgresql_heartbeat,
    postgresql_instance,
    postgresql_load,
    postgresql_part,
    postgresql_physical,
    wal_watch,
)
from backupctl.sources import postgresql_physical_instance as physical_instance
from backupctl.sources.discovery import Reached
from backupctl.sources.options import SecretFetcher, SourceOptions, Text, near
from backupctl.sources.postgresql_client import PostgresClient, choose_client
from backupctl.sources.postgresql_physical import PhysicalSession
from backupctl.sources.postgresql_preflight import Examination
from backupctl.sources.postgresql_session import PostgresSession, connect, list_databases
from backupctl.sources.protocol import (
    CheckResult,
    Fingerprint,
    Instance,
    Part,
    PreflightFinding,
    SnapshotFiles,
    StagingNeeds,
)
from backupctl.sources.wal_archive import Goal
from backupctl.sources.wal_receiver import WalReceiver

PARALLEL = 2
POSTGRESQL_PORT = 5432
BLOCK_BYTES = {"8KiB": 8192, "32KiB": 32768}

OWN_TABLES = """
SELECT count(*) AS number FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
"""
WHERE = "SELECT name, setting FROM pg_settings WHERE name IN ('port', 'data_directory')"


def conninfo_words(conninfo: str) -> dict[str, str]:
    """By keyword, as libpq reads them; the last one counts."""
    return {
        key: re.sub(r"\\(.)", r"\1", value[1:-1] if value[:1] == "'" else value)
        for key, value in re.findall(r"(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s\\]|\\.)*)", conninfo)
    }


def conninfo_problem(conninfo: str) -> str | None:
    """Why a connection string is none that may be written down or typed."""
    if re.search(r"\bpassword\s*=", conninfo) or re.match(r"postgres(ql)?://[^@/]*:[^@]*@", conninfo):
        return "`conninfo` holds a password, which would show in process lists: use `password: {file: …}`"
    if "://" in conninfo:
        return "`conninfo` is a string of key=value pairs, for example `host=/run/postgresql user=backup`"
    return None


class WalOptions(BaseModel):
    """The log received over a replication slot. `spool` is a directory on the source's host."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slot: str = Field(pattern=r"^[a-z0-9_]{1,63}$", description="made when it is not there")
    spool: Text
    every: int = Field(
        default=10, ge=1, le=3600, description="seconds after which what is not a whole segment is stored too"
    )


class PostgresqlOptions(SourceOptions):
    """`conninfo` is a libpq string such as `port=5432 user=backup`; the password is a reference beside it."""

    conninfo: str = ""
    password: SecretRef | None = None
    databases: list[Text] | Literal["all"] = "all"
    method: Literal["dump", "ordered", "physical"] = Field(
        default="dump",
        description="`dump`: each database by pg_dump; `ordered`: each table by itself in key order, which stores less; "
        "`physical`: the whole server, file by file",
    )
    parallel: int | None = Field(
        default=None, ge=1, le=6, description="of `ordered`: tables read at a time; 2 by default"
    )
    block_size: Literal["8KiB", "32KiB"] | None = Field(
        default=None, description="of `physical`; by default 8KiB below 20 GiB, which stores less, and 32KiB above"
    )
    wal: Literal["archive"] | WalOptions | None = Field(
        default=None,
        description="of `physical`: `archive` when the server's archive_command is `backupctl wal-push`; a slot and a spool when "
        "`backupctl wal receive` runs",
    )
    heartbeat: Text | None = Field(
        default=None,
        description="database in which `backupctl heartbeat` keeps a row with the time; drills read it back and count the RPO "
        "from it",
    )
    bin_dir: Text | None = Field(
        default=None,
        description="directory of PostgreSQL's programs on the host, `{major}` in it for any major version: "
        "/opt/postgresql/{major}/bin; by default where the packages of Debian and of PostgreSQL put them, then PATH",
    )

    @model_validator(mode="after")
    def _plain(self) -> Self:
        if (problem := conninfo_problem(self.conninfo)) is not None:
            raise ValueError(problem)
        if self.method != "ordered" and self.parallel is not None:
            raise ValueError("`parallel` belongs to `method: ordered`")
        if self.method == "physical" and self.databases != "all":
            raise ValueError("`method: physical` takes the whole server: leave `databases` out")
        if self.method != "physical" and self.block_size is not None:
            raise ValueError("`block_size` belongs to `method: physical`")
        if self.method != "physical" and self.wal is not None:
            raise ValueError("`wal` belongs to `method: physical`: a dump cannot be rolled forward")
        if self.heartbeat is not None and self.databases != "all" and self.heartbeat not in self.databases:
            raise ValueError(
                "`heartbeat` names a database that `databases` leaves out: its row would not be in the backup"
            )
        if self.databases != "all" and (not self.databases or len(set(self.databases)) != len(self.databases)):
            raise ValueError("`databases` is `all` or a list of distinct names")
        return self

    def listens(self) -> list[tuple[str, int]]:
        words = conninfo_words(self.conninfo)
        ports = [int(one) for one in words.get("port", "").split(",") if one.isdigit()] or [POSTGRESQL_PORT]
        found: list[tuple[str, int]] = []
        for key in ("host", "hostaddr"):
            hosts = [near(one) for one in words.get(key, "").split(",")]
            found += zip(hosts, ports if len(ports) == len(hosts) else ports[:1] * len(hosts), strict=True)
        elsewhere = [one for one in found if one[0]]
        return list(dict.fromkeys(elsewhere or found))


class PostgresqlSource:
    kind = "postgresql"

    def __init__(self, name: str, options: PostgresqlOptions, secrets: SecretFetcher) -> None:
        self.name = name
        self.options = options
        self._password = partial(secrets, options.password) if options.password else None

    def preflight(self, host: Host) -> list[PreflightFinding]:
        options = self.options
        try:
            with ExitStack() as stack:
                client, names, server = self._connected(stack, host)
                dumper = choose_client(client, options.bin_dir, server)
                told = f"server PostgreSQL {server}, pg_dump {dumper.version()}, {len(names)} database(s)"
                findings = [PreflightFinding("info", told)]
                examination = Examination(client, server, options.method, options.parallel or PARALLEL)
                findings += examination.server_findings(names[0])
                for name in names:
                    findings += examination.database_findings(name)
                if options.method == "physical":
                    findings += postgresql_physical.preflight(dumper, names[0], server)
                    if options.wal is not None:
                        slot = options.wal.slot if isinstance(options.wal, WalOptions) else ""
                        findings += wal_watch.findings(dumper, names[0], slot)
                if options.heartbeat is not None:
                    findings += postgresql_heartbeat.findings(
                        client, options.heartbeat, f"backupctl heartbeat JOB/{self.name}"
                    )
        except UserError as error:
            return [PreflightFinding("error", error.message, error.next_step)]
        return findings

    def beat(self, host: Host) -> datetime:
        """Write the heartbeat's row; the server's time in it. For a source with `heartbeat`. Raises SourceError."""
        assert self.options.heartbeat is not None
        with ExitStack() as stack:
            client = PostgresClient(host, self.name, self.options.conninfo)
            client = connect(client, stack, self._password, self.options.bin_dir)
            return postgresql_heartbeat.beat(client, self.options.heartbeat)

    def staging_needs(self, host: Host, staging: Host) -> StagingNeeds:
        with ExitStack() as stack:
            client, names, server = self._connected(stack, host)
            return Examination(client, server, self.options.method).staging_needs(names, staging, self.options.bin_dir)

    def _connected(self, stack: ExitStack, host: Host) -> tuple[PostgresClient, list[str], str]:
        """A client, the databases to back up, and the server's version."""
        client = PostgresClient(host, self.name, self.options.conninfo)
        client = connect(client, stack, self._password, self.options.bin_dir)
        names = list_databases(client) if self.options.databases == "all" else list(self.options.databases)
        return client, names, client.server_version(names[0])

    def discover(self, host: Host) -> Reached:
        """The database `postgres` counts when somebody has put tables into it."""
        with ExitStack() as stack:
            client = PostgresClient(host, self.name, self.options.conninfo)
            client = connect(client, stack, self._password, self.options.bin_dir)
            names = list_databases(client)
            if "postgres" in names and not client.records("postgres", OWN_TABLES)[0]["number"]:
                names.remove("postgres")
            # a role without rights gets no row for the directory
            told = {row["name"]: row["setting"] for row in client.records(names[0] if names else "postgres", WHERE)}
        protected = names if self.options.databases == "all" else self.options.databases
        return Reached(self.kind, told.get("port", ""), told.get("data_directory", ""), "", names, list(protected))

    def open(self, host: Host, clock: Clock) -> PostgresSession | PhysicalSession:
        options = self.options
        if options.method == "physical":
            return PhysicalSession(
                self.name,
                host,
                clock,
                conninfo=options.conninfo,
                bin_dir=options.bin_dir,
                password=self._password,
                block_bytes=BLOCK_BYTES[options.block_size] if options.block_size else None,
            )
        return PostgresSession(
            self.name,
            host,
            clock,
            conninfo=options.conninfo,
            databases=None if options.databases == "all" else list(options.databases),
            bin_dir=options.bin_dir,
            password=self._password,
            parallel=(options.parallel or PARALLEL) if options.method == "ordered" else 0,
        )

    def receiver(self, host: Host) -> WalReceiver:
        """For a source with a slot and a spool."""
        options = self.options
        assert isinstance(options.wal, WalOptions)
        return WalReceiver(
            self.name,
            host,
            conninfo=options.conninfo,
            bin_dir=options.bin_dir,
            password=self._password,
            slot=options.wal.slot,
            spool=options.wal.spool,
        )

    def boot(self, host: Host, directory: bytes, fingerprint: Fingerprint) -> Instance:
        if fingerprint.get("method") == "physical":
            return physical_instance.boot(self.name, host, directory, fingerprint, self.options.bin_dir)
        return postgresql_instance.boot(self.name, host, directory, fingerprint, self.options.bin_dir)

    def load(self, instance: Instance, files: SnapshotFiles, *, databases: Sequence[str] | None = None) -> list[str]:
        if instance.connection.get("method") == "physical":
            return physical_instance.load(self.name, instance, files, databases)
        return postgresql_load.load(self.name, instance, files, databases)

    def load_part(self, instance: Instance, files: SnapshotFiles, part: Part, fingerprint: Fingerprint) -> list[str]:
        if instance.connection.get("method") == "physical":
            return self.load(instance, files, databases=[part.database])
        return postgresql_part.load_part(self.name, instance, files, part, fingerprint["databases"][part.database])

    def recover(
        self,
        instance: Instance,
        files: SnapshotFiles,
        forward: Callable[[Callable[[str, bytes], None], Callable[[str], bytes]], Goal],
        *,
        databases: Sequence[str] | None = None,
    ) -> list[str]:
        """As `load` of a physical backup, and then as far along the archived log as `forward` says."""
        return physical_instance.recover(self.name, instance, files, databases, forward)

    def compare(self, instance: Instance, fingerprint: Fingerprint) -> list[CheckResult]:
        if fingerprint.get("method") == "physical":
            return physical_instance.compare(self.name, instance, fingerprint)
        return postgresql_instance.compare(self.name, instance, fingerprint)

    def query(self, instance: Instance, database: str, sql: str) -> list[list[str]]:
        return postgresql_instance.client_of(instance, self.name).table(database, sql)

    def examine(self, instance: Instance, databases: Sequence[str]) -> list[CheckResult]:
        from backupctl.sources.postgresql_integrity import examine

        return examine(self.name, instance, databases)

    def client_command(self, instance: Instance, database: str) -> list[str]:
        return postgresql_instance.client_command(instance, database)

    def stop(self, instance: Instance) -> None:
        postgresql_instance.stop(instance)

    def data_time(self, fingerprint: Fingerprint) -> datetime:
        return parse_iso(fingerprint["time"])
