"""MariaDB databases by logical dump, one stream each, all in one view, with accounts and grants."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backupctl.clock import Clock, parse_iso
from backupctl.errors import CouldNotRunError, UsageError, UserError
from backupctl.hosts.protocol import Host
from backupctl.hosts.secret import SecretRef
from backupctl.sources import (
    mariadb_instance,
    mariadb_logs,
    mariadb_physical,
    mariadb_physical_instance,
    mariadb_recovery,
)
from backupctl.sources.binlog_receiver import BinlogReceiver
from backupctl.sources.discovery import Reached
from backupctl.sources.mariadb_client import SYSTEM_SCHEMAS, MariadbClient, series
from backupctl.sources.mariadb_family import MARIADB, Family
from backupctl.sources.mariadb_fingerprint import TRANSACTIONAL, lossy_columns, read_tables
from backupctl.sources.mariadb_logs import BinlogSession
from backupctl.sources.mariadb_physical import PhysicalSession
from backupctl.sources.mariadb_programs import choose_client
from backupctl.sources.mariadb_session import MariadbSession, connect, list_databases
from backupctl.sources.options import SecretFetcher, SourceOptions, Text, TlsOptions, near
from backupctl.sources.protocol import (
    CheckResult,
    Fingerprint,
    Instance,
    PreflightFinding,
    SnapshotFiles,
    StagingNeeds,
    StoredLogs,
    Target,
)

SHOWN_NAMES = 5
SESSIONS = {"logical": MariadbSession, "physical": PhysicalSession, "binlog": BinlogSession}
BLOCK_BYTES = {"16KiB": 16384, "64KiB": 65536}


EMPTY_INSTANCE_BYTES = 256 << 20


class BinlogOptions(BaseModel):
    """The binary logs, received as they are written by `backupctl binlog receive`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(default=10, ge=1, le=3600, description="seconds after which what came is stored")
    replica_id: int | None = Field(
        default=None,
        ge=1,
        le=4294967295,
        description="the number by which the server knows its replicas apart; by default made from the source's name",
    )


class MariadbTls(TlsOptions):
    """Paths on the source's host; the certificate must be for `address`."""

    ca: Text = Field(description="file of the authorities that may have signed the server's certificate")


class MariadbOptions(SourceOptions):
    """The client's own words: `socket`, or `address` and `port`; `user`; the password is a reference."""

    family: ClassVar[Family] = MARIADB

    socket: Text | None = None
    address: Text | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    user: Text | None = None
    password: SecretRef | None = None
    tls: MariadbTls | Literal[False] | None = Field(
        default=None,
        description="connect to `address` with TLS and verify the server's certificate. By default the client decides: before"
        " MariaDB 11.4 without TLS, from then on only with. `false`: without, for a connection that stays on the machine",
    )
    databases: list[Text] | Literal["all"] = "all"
    method: Literal["logical", "physical", "binlog"] = Field(
        default="logical",
        description="`logical`: each database by mariadb-dump; `physical`: the whole server, file by file, by mariadb-backup; "
        "`binlog`: its binary logs alone, for the time between two backups",
    )
    block_size: Literal["16KiB", "64KiB"] | None = Field(
        default=None, description="of `physical`; by default 16KiB below 20 GiB, which stores less, and 64KiB above"
    )
    users: bool = Field(default=True, description="also dump accounts, roles and grants")
    binlog: BinlogOptions | None = Field(
        default=None, description="its binary logs are received by `backupctl binlog receive`; `{}` for the defaults"
    )
    bin_dir: Text | None = Field(
        default=None,
        description="directory of MariaDB's programs on the host; by default the PATH. `{series}` in it stands for any version, "
        "for several side by side: /opt/mariadb-{series}/bin",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.socket and (self.address or self.port):
            raise ValueError("give either `socket` or `address` and `port`")
        if self.tls is not None and not (self.address or self.port):
            raise ValueError("`tls` is for `address` and `port`; a `socket` needs none")
        if self.method != "logical" and (self.databases != "all" or not self.users):
            raise ValueError(f"`method: {self.method}` takes the whole server: leave `databases` and `users` out")
        if self.method != "physical" and self.block_size is not None:
            raise ValueError("`block_size` belongs to `method: physical`")
        if self.binlog is not None and (self.method == "binlog" or self.databases != "all"):
            raise ValueError(
                "`binlog` belongs to a source that holds the whole server: `method: physical`, or `databases: all`"
            )
        if self.databases != "all":
            if not self.databases or len(set(self.databases)) != len(self.databases):
                raise ValueError("`databases` is `all` or a list of distinct names")
            system = sorted(set(self.databases) & set(SYSTEM_SCHEMAS))
            if system:
                raise ValueError(f"{', '.join(system)} belongs to the server; accounts are dumped by `users`")
        return self

    def listens(self) -> list[tuple[str, int]]:
        return [(near(self.address or ""), self.port or 3306)]

    def client_options(self) -> tuple[str, ...]:
        options = [*self.family.over_socket(self.socket)] if self.socket else []
        if isinstance(self.tls, MariadbTls):
            own = {"ca": self.tls.ca, "cert": self.tls.certificate, "key": self.tls.key}
            options += [*self.family.verified, *(f"--ssl-{word}={path}" for word, path in own.items() if path)]
        elif self.tls is False:
            options += self.family.unencrypted
        if self.address or self.port:
            options += ["--protocol=tcp", f"--host={self.address or '127.0.0.1'}", f"--port={self.port or 3306}"]
        return (*options, f"--user={self.user}") if self.user else tuple(options)


class MariadbSource:
    kind = "mariadb"

    def __init__(self, name: str, options: MariadbOptions, secrets: SecretFetcher) -> None:
        self.name = name
        self.options = options
        self._password = partial(secrets, options.password) if options.password else None

    def preflight(self, host: Host) -> list[PreflightFinding]:
        options = self.options
        try:
            with ExitStack() as stack:
                client = self._connect(host, stack)
                version = client.server_version()
                client = choose_client(client, options.bin_dir, version)
                names = list_databases(client) if options.databases == "all" else options.databases
                findings = [
                    PreflightFinding("info", f"server {options.family.name} {version}, {len(names)} database(s)")
                ]
                findings += self._rights(client) + self._tables(client, names)
                if options.method != "logical" or options.binlog is not None:
                    findings += mariadb_physical.preflight_logs(client)
                if options.method == "physical":
                    findings += mariadb_physical.preflight(client, host)
        except UserError as error:
            return [PreflightFinding("error", error.message, error.next_step)]
        return findings

    def staging_needs(self, host: Host, staging: Host) -> StagingNeeds:
        """A server of the same series there, and room for what all tables and indexes take here."""
        options = self.options
        with ExitStack() as stack:
            client = self._connect(host, stack)
            version = client.server_version()
            ((size,),) = client.rows(
                "SELECT COALESCE(SUM(data_length + index_length), 0) FROM information_schema.tables;"
            )
        needs = StagingNeeds(EMPTY_INSTANCE_BYTES + int(size))
        try:
            mariadb_instance.server_program(staging, options.bin_dir, series(version), self.name, options.family)
        except CouldNotRunError as error:
            needs.findings.append(PreflightFinding("error", error.message, error.next_step))
        return needs

    def _connect(self, host: Host, stack: ExitStack) -> MariadbClient:
        client = MariadbClient(host, self.name, self.options.client_options(), "", self.options.family)
        return connect(client, stack, self._password, self.options.bin_dir)

    def _rights(self, client: MariadbClient) -> list[PreflightFinding]:
        rows = client.rows(
            "SELECT privilege_type FROM information_schema.user_privileges WHERE grantee ="
            " CONCAT(QUOTE(SUBSTRING_INDEX(CURRENT_USER(), '@', 1)), '@', QUOTE(SUBSTRING_INDEX(CURRENT_USER(), '@', -1)));"
        )
        held = {row[0] for row in rows}
        right, step = client.family.position_right, f"{client.family.grant} the backup user;"
        findings = []
        if "RELOAD" not in held:
            findings.append(
                PreflightFinding("error", "RELOAD is missing: commits cannot be held up for one view", step)
            )
        if client.variable("log_bin") == "1" and not held & {"BINLOG MONITOR", "REPLICATION CLIENT", "SUPER"}:
            findings.append(PreflightFinding("error", f"{right} is missing: the log position is unknown", step))
        missing = [name for name in ("SELECT", "SHOW VIEW", "TRIGGER", "EVENT") if name not in held]
        if missing:
            message = f"{', '.join(missing)} not held on all databases: the dump may lack something"
            findings.append(PreflightFinding("warning", message, step))
        return findings

    def _tables(self, client: MariadbClient, databases: Sequence[str]) -> list[PreflightFinding]:
        findings = []
        tables = read_tables(client, databases)
        lossy = [f"{table}.{column}" for table, columns in lossy_columns(tables).items() for column in columns]
        if lossy:
            findings.append(
                PreflightFinding(
                    "warning",
                    f"FLOAT columns are dumped with six digits only: {shown(lossy)}",
                    "make them DOUBLE or DECIMAL if more digits matter",
                )
            )
        outside = [f"{table.full_name} ({table.engine})" for table in tables if table.engine != TRANSACTIONAL]
        if outside:
            findings.append(
                PreflightFinding(
                    "warning",
                    f"tables without transactions are not covered by the view: {shown(outside)}",
                    "ALTER TABLE … ENGINE=InnoDB;",
                )
            )
        return findings

    def discover(self, host: Host) -> Reached:
        with ExitStack() as stack:
            client = self._connect(host, stack)
            names = list_databases(client)
            port, directory = client.variable("port"), client.variable("datadir")
        protected = names if self.options.databases == "all" else self.options.databases
        return Reached(self.kind, port, directory, "", names, list(protected))

    def open(self, host: Host, clock: Clock) -> MariadbSession:
        options = self.options
        return SESSIONS[options.method](
            self.name,
            host,
            clock,
            family=options.family,
            options=options.client_options(),
            databases=None if options.databases == "all" else list(options.databases),
            users=options.users,
            bin_dir=options.bin_dir,
            password=self._password,
            block_bytes=BLOCK_BYTES[options.block_size] if options.block_size else None,
        )

    def receiver(self, host: Host) -> BinlogReceiver:
        """For a source with `binlog`."""
        options = self.options
        assert options.binlog is not None
        return BinlogReceiver(
            self.name,
            host,
            family=options.family,
            options=options.client_options(),
            bin_dir=options.bin_dir,
            password=self._password,
            replica_id=options.binlog.replica_id,
        )

    def boot(self, host: Host, directory: bytes, fingerprint: Fingerprint, *, log_bin: str = "") -> Instance:
        """`log_bin`: the server writes a binary log of that name, beside its data; not of `method: binlog`."""
        if fingerprint.get("method") == "binlog":
            return mariadb_logs.boot(self.name, host, directory, fingerprint)
        if fingerprint.get("method") == "physical":
            return mariadb_physical_instance.boot(
                self.name, host, directory, fingerprint, self.options.bin_dir, log_bin
            )
        return mariadb_instance.boot(self.name, host, directory, fingerprint, self.options.bin_dir, log_bin)

    def load(self, instance: Instance, files: SnapshotFiles, *, databases: Sequence[str] | None = None) -> list[str]:
        if instance.connection.get("method") == "binlog":
            return mariadb_logs.load(instance, files)
        if instance.connection.get("method") == "physical":
            return mariadb_physical_instance.load(self.name, instance, files, databases)
        return mariadb_instance.load(self.name, instance, files, databases)

    def log_time(self, fingerprint: Fingerprint, logs: StoredLogs) -> datetime | None:
        usable = "binary_log" in fingerprint and self.holds_all(fingerprint)
        return mariadb_recovery.log_time(fingerprint, logs) if usable else None

    def find(self, fingerprint: Fingerprint, logs: StoredLogs, until: Target | None) -> str:
        self._refuse_some(fingerprint)
        _, chain = mariadb_recovery.find(self.name, fingerprint, logs, until)
        return str(chain.end)

    def holds_all(self, fingerprint: Fingerprint) -> bool:
        """Binary logs are of all databases, and can be replayed only behind such a backup."""
        return fingerprint.get("method", "logical") != "logical" or self.options.databases == "all"

    def _refuse_some(self, fingerprint: Fingerprint) -> None:
        if not self.holds_all(fingerprint):
            raise UsageError(
                f"source {self.name} holds some databases only, and the binary logs are those of all",
                next_step="choose a backup itself, by its id; for the next time `databases: all` or `method: physical`",
            )

    def load_until(
        self, instance: Instance, files: SnapshotFiles, fingerprint: Fingerprint, logs: StoredLogs, until: Target | None
    ) -> list[str]:
        self._refuse_some(fingerprint)
        return mariadb_recovery.load_until(self.name, instance, files, fingerprint, logs, until)

    def compare(self, instance: Instance, fingerprint: Fingerprint) -> list[CheckResult]:
        if fingerprint.get("method") == "binlog":
            return mariadb_logs.compare(instance, fingerprint)
        return mariadb_instance.compare(self.name, instance, fingerprint)

    def query(self, instance: Instance, database: str, sql: str) -> list[list[str]]:
        if instance.connection.get("method") == "binlog":
            raise mariadb_logs.refuse(self.name)
        return mariadb_instance.query(self.name, instance, database, sql)

    def examine(self, instance: Instance, databases: Sequence[str]) -> list[CheckResult]:
        from backupctl.sources.mariadb_integrity import examine

        return examine(self.name, instance, databases)

    def client_command(self, instance: Instance, database: str) -> list[str]:
        return mariadb_instance.client_command(instance, database)

    def stop(self, instance: Instance) -> None:
        mariadb_instance.stop(instance)

    def data_time(self, fingerprint: Fingerprint) -> datetime:
        return parse_iso(fingerprint["time"])


def shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
