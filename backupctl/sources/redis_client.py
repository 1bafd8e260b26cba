"""How a Redis or Valkey server is spoken to: by our own program on the host that reaches it, so that no client need be there
and the password is in no argument and in no environment."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backupctl.errors import SourceError
from backupctl.hosts.protocol import Host
from backupctl.sources import rdb_format, rdb_program, redis_program
from backupctl.sources.streams import program_text, programs_text, said

GRANT = "ACL SETUSER backup on >PASSPHRASE +ping +info +psync +replconf +config|get +acl|whoami +acl|dryrun"
RDB_NAME = b"dump.rdb"


@dataclass(frozen=True)
class RedisClient:
    """`where`: `socket`, or `address` and `port`, with `tls`; `user`."""

    host: Host
    source: str
    where: Mapping[str, Any]
    password: Callable[[], bytes] | None = None

    @property
    def shown(self) -> str:
        """The server for people."""
        where = self.where.get("socket") or f"{self.where.get('address')}:{self.where.get('port')}"
        return f"Redis at {where} on host {self.host.name}"

    def argv(self, verb: str) -> list[str]:
        return [self.host.python, "-c", program_text(redis_program), verb]

    def greeting(self, **more: Any) -> bytes:
        """The program's first line of input."""
        secret = {} if self.password is None else {"password": self.password().decode().rstrip("\r\n")}
        return json.dumps({**self.where, **secret, **more}).encode() + b"\n"

    def facts(self) -> dict[str, Any]:
        return self._ask("facts")

    def command(self, *words: str, database: str = "") -> Any:
        """The answer: text, a number, None or a list of these. Raises SourceError for a refusal."""
        return self._ask("command", arguments=words, database=database)["answer"]

    def _ask(self, verb: str, **more: Any) -> dict[str, Any]:
        completed = self.host.run(self.argv(verb), stdin=self.greeting(**more))
        try:
            answer: dict[str, Any] = json.loads(completed.stdout)
        except ValueError:
            raise self.failure(said(completed)) from None
        if "error" in answer:
            raise self.failure(answer["error"])
        return answer

    def failure(self, what: str) -> SourceError:
        return SourceError(
            f"source {self.source}: {self.shown}: {what}",
            source=self.source,
            item=RDB_NAME.decode(),
            next_step=self._advice(what),
        )

    def _advice(self, what: str) -> str:
        if re.search(r"WRONGPASS|NOAUTH|AUTH |invalid password", what):
            return f"correct `user` or `password` of source {self.source}"
        if re.search(r"certificate|ssl|SSL|TLS", what):
            return f"correct `tls` of source {self.source}: `ca` holds who signed the server's certificate, `name` what it says"
        if "NOPERM" in what:
            return GRANT
        if "unknown command" in what:
            return "give the command back its name, or back up from a replica that has it"
        if re.search(r"Connection refused|No such file|not known|timed out|Permission denied", what):
            return f"see that the server runs and that `socket` or `address` of source {self.source} reaches it"
        return "put it right, then run the job again"


def rdb_reader(host: Host, base: str, path: str) -> list[str]:
    """The command that reads an RDB on `host`; see `rdb_program`."""
    return [host.python, "-c", programs_text(rdb_program, rdb_format), base, path]


def version_of(info: Mapping[str, str]) -> tuple[str, str]:
    """("redis" or "valkey", version)."""
    if info.get("server_name") == "valkey" and "valkey_version" in info:
        return "valkey", info["valkey_version"]
    return "redis", info["redis_version"]


def number(version: str) -> tuple[int, ...]:
    """Major and minor, for comparing."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def find_server(host: Host, bin_dir: str | None, product: str) -> tuple[str, str] | None:
    """(program, version) of the newest server program of that product on the host."""
    found = []
    for name in (f"{product}-server", "valkey-server", "redis-server"):
        for path in [f"{bin_dir.rstrip('/')}/{name}"] if bin_dir else [name]:
            completed = host.run([path, "--version"])
            match = re.match(rb"(Redis|Valkey) server v=(\d+\.\d+\.\d+)", completed.stdout)
            if completed.returncode == 0 and match and match.group(1).decode().lower() == product:
                found.append((path, match.group(2).decode()))
    return max(found, key=lambda one: number(one[1]), default=None)


def readable_words(answer: Any) -> Sequence[list[str]]:
    """An answer as rows of text: what is absent is no row, a list is one row for each of its members."""
    if answer is None:
        return []
    if isinstance(answer, list):
        return [["" if one is None else json.dumps(one) if isinstance(one, list) else str(one)] for one in answer]
    return [[str(answer)]]
