"""Redis and Valkey: the whole server as one RDB, fetched over its own replication protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from backupctl.clock import Clock, parse_iso
from backupctl.errors import CouldNotRunError, UserError
from backupctl.hosts.protocol import Host
from backupctl.hosts.secret import SecretRef
from backupctl.sources import redis_instance
from backupctl.sources.discovery import Reached
from backupctl.sources.options import SecretFetcher, SourceOptions, Text, TlsOptions, near
from backupctl.sources.protocol import CheckResult, Fingerprint, Instance, PreflightFinding, SnapshotFiles, StagingNeeds
from backupctl.sources.redis_client import GRANT, RedisClient, find_server, number, version_of
from backupctl.sources.redis_session import RedisSession

OLDEST = (6, 0)
NEARLY_FULL = 0.9
LAG_SECONDS = 60


class RedisTls(TlsOptions):
    """Paths on the source's host. An empty mapping trusts the authorities that host trusts."""

    name: Text | None = Field(default=None, description="the name in the server's certificate; by default `address`")


class RedisOptions(SourceOptions):
    """The client's own words: `socket`, or `address` and `port` (default 127.0.0.1, 6379); the password is a reference."""

    socket: Text | None = None
    address: Text | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    user: Text | None = Field(default=None, description="an ACL user; default: the user `default`")
    password: SecretRef | None = None
    tls: RedisTls | None = Field(
        default=None, description="connect with TLS; the server's certificate is always verified"
    )
    bin_dir: Text | None = Field(
        default=None, description="directory of redis-server or valkey-server on a staging host"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.socket and (self.address or self.port):
            raise ValueError("give either `socket` or `address` and `port`")
        if self.socket and self.tls:
            raise ValueError("`tls` is for `address` and `port`; a `socket` needs none")
        if self.user and not self.password:
            raise ValueError("`user` needs a `password`")
        return self

    def listens(self) -> list[tuple[str, int]]:
        return [(near(self.address or ""), self.port or 6379)]

    def where(self) -> dict[str, Any]:
        user: dict[str, Any] = {"user": self.user} if self.user else {}
        if self.tls is not None:
            user["tls"] = self.tls.model_dump()
        if self.socket:
            return {"socket": self.socket, **user}
        return {"address": self.address or "127.0.0.1", "port": self.port or 6379, **user}


class RedisSource:
    kind = "redis"

    def __init__(self, name: str, options: RedisOptions, secrets: SecretFetcher) -> None:
        self.name = name
        self.options = options
        self._password = partial(secrets, options.password) if options.password else None

    def _client(self, host: Host) -> RedisClient:
        return RedisClient(host, self.name, self.options.where(), self._password)

    def preflight(self, host: Host) -> list[PreflightFinding]:
        try:
            facts = self._client(host).facts()
            return list(self._judge(host, facts))
        except UserError as error:
            return [PreflightFinding("error", error.message, error.next_step)]

    def _judge(self, host: Host, facts: Mapping[str, Any]) -> Iterator[PreflightFinding]:
        info, settings = facts["info"], facts["settings"]
        product, version = version_of(info)
        keys = [
            f"{name} {value.split(',')[0]}"
            for name, value in info.items()
            if name.startswith("db") and name[2:].isdigit()
        ]
        yield PreflightFinding("info", f"server {product.title()} {version}, {', '.join(keys) or 'no key'}")
        if product == "redis" and number(version) < OLDEST:
            yield PreflightFinding(
                "error", f"Redis {version} is older than 6.0, the oldest that is tried", "upgrade it"
            )
        yield from _rights(facts)
        yield from _role(info)
        yield from _content(info, settings)
        yield from self._programs(host, product, version)
        room = settings.get("dir")
        if settings.get("repl-diskless-sync") == "no" and self.options.socket and room:
            used, free = int(info.get("used_memory", 0)), host.free_bytes(room.encode())
            if free < used:
                yield PreflightFinding(
                    "error",
                    f"the server writes the RDB to {room} first, which has {free} bytes free for up to {used}",
                    "CONFIG SET repl-diskless-sync yes",
                )

    def _programs(self, host: Host, product: str, version: str) -> Iterator[PreflightFinding]:
        """The staging host is another one, often; where the server runs there is a program to compare with."""
        found = find_server(host, self.options.bin_dir, product)
        if found is not None and number(found[1]) < number(version):
            yield PreflightFinding(
                "warning",
                f"{found[0]} on host {host.name} is {found[1]}, older than the running server {version}: it may not load its RDB",
                f"install {product}-server {version} or newer where it is restored",
            )

    def staging_needs(self, host: Host, staging: Host) -> StagingNeeds:
        info = self._client(host).facts()["info"]
        product, version = version_of(info)
        used = int(info.get("used_memory", 0))
        needs = StagingNeeds(used)
        try:
            redis_instance.server_program(self.name, staging, self.options.bin_dir, product, version)
            redis_instance.refuse_too_little_memory(self.name, staging, {"used_memory_bytes": used})
        except CouldNotRunError as error:
            needs.findings.append(PreflightFinding("error", error.message, error.next_step))
        return needs

    def discover(self, host: Host) -> Reached:
        """One server is one whole: an RDB holds every database of it."""
        info = self._client(host).facts()["info"]
        return Reached(self.kind, info.get("tcp_port", ""), "", info.get("process_id", ""))

    def open(self, host: Host, clock: Clock) -> RedisSession:
        return RedisSession(self._client(host), clock)

    def boot(self, host: Host, directory: bytes, fingerprint: Fingerprint) -> Instance:
        return redis_instance.boot(self.name, host, directory, fingerprint, self.options.bin_dir)

    def load(self, instance: Instance, files: SnapshotFiles, *, databases: Sequence[str] | None = None) -> list[str]:
        return redis_instance.load(self.name, instance, files, databases)

    def compare(self, instance: Instance, fingerprint: Fingerprint) -> list[CheckResult]:
        return redis_instance.compare(self.name, instance, fingerprint)

    def query(self, instance: Instance, database: str, sql: str) -> list[list[str]]:
        return redis_instance.query(self.name, instance, database, sql)

    def examine(self, instance: Instance, databases: Sequence[str]) -> list[CheckResult]:
        """Loading reads every value and its checksum; the server has no other checker."""
        return []

    def client_command(self, instance: Instance, database: str) -> list[str]:
        return redis_instance.client_command(instance, database)

    def stop(self, instance: Instance) -> None:
        redis_instance.stop(instance)

    def data_time(self, fingerprint: Fingerprint) -> datetime:
        return parse_iso(fingerprint["time"])


def _rights(facts: Mapping[str, Any]) -> Iterator[PreflightFinding]:
    refused, may = facts["refused"], facts["may_replicate"]
    if may not in (None, "OK"):
        yield PreflightFinding("error", f"the right to ask for an RDB is missing: {may}", GRANT)
    elif may is None:
        yield PreflightFinding("info", "whether PSYNC is allowed was not tried: the server cannot say (ACL DRYRUN)")
    if "CONFIG GET" in refused:
        message = f"CONFIG GET is refused, so the server's settings are not looked at: {refused['CONFIG GET']}"
        yield PreflightFinding("warning", message, GRANT)


def _role(info: Mapping[str, str]) -> Iterator[PreflightFinding]:
    if info.get("role") == "slave":
        lag = int(info.get("master_last_io_seconds_ago", -1))
        if info.get("master_link_status") != "up":
            yield PreflightFinding(
                "error",
                "it is a replica without a link to its master, and gives no RDB as long as that lasts",
                "see `INFO replication` there, or back up the master",
            )
        elif lag > LAG_SECONDS:
            message = f"it is a replica that heard nothing from its master for {lag} s: what it holds may be old"
            yield PreflightFinding("warning", message, "see `INFO replication` there")
        else:
            yield PreflightFinding("info", f"it is a replica; its master was heard {lag} s ago")
    if info.get("cluster_enabled") == "1":
        yield PreflightFinding(
            "warning", "it is one node of a cluster: the RDB holds its slots only", "make a source of every master node"
        )


def _content(info: Mapping[str, str], settings: Mapping[str, str]) -> Iterator[PreflightFinding]:
    if settings.get("save") == "" and settings.get("appendonly") == "no":
        yield PreflightFinding(
            "warning",
            "persistence is off: a restart of the server empties it, and the next backup would hold nothing",
            "CONFIG SET save '3600 1 300 100 60 10000', and write it into its configuration file",
        )
    if settings.get("rdbchecksum") == "no":
        yield PreflightFinding(
            "warning",
            "rdbchecksum is off: a flipped byte in the RDB cannot be found",
            "set `rdbchecksum yes` and restart",
        )
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if limit and used > NEARLY_FULL * limit:
        message = f"{used} of {limit} bytes of maxmemory are in use: a fork and its copies may not fit"
        yield PreflightFinding("warning", message, "raise maxmemory, or remove keys")
    policy = info.get("maxmemory_policy", "noeviction")
    if limit and policy != "noeviction":
        yield PreflightFinding(
            "warning", f"maxmemory-policy is {policy}: the server drops keys by itself, and no backup knows which"
        )
    if info.get("modules"):
        yield PreflightFinding(
            "warning",
            f"modules are loaded: {info['modules']}: their values are counted and not compared, and a drill needs the same modules",
        )
