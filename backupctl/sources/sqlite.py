"""SQLite databases, each copied whole at one moment, under live writers and in WAL mode.

`cp` of a live database misses the WAL and can tear; `VACUUM INTO` repacks pages, so nothing of yesterday's copy is
recognised today (97 % new against 4.7 %). The copy lives in an unlinked temporary file on the source's host, is checked
and fingerprinted there, and is streamed in blocks that keep to pages.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from pydantic import Field, model_validator

from backupctl.clock import Clock, parse_iso
from backupctl.errors import CouldNotRunError, DamageError, UserError
from backupctl.hosts.protocol import Host
from backupctl.sources import sqlite_program
from backupctl.sources.options import SourceOptions, Text
from backupctl.sources.protocol import (
    CheckResult,
    Fingerprint,
    Instance,
    PreflightFinding,
    SnapshotFiles,
    StagingNeeds,
)
from backupctl.sources.sqlite_session import SqliteSession, TogetherSession, far
from backupctl.sources.streams import choose_databases, chosen_databases, compare_tables, said

COPY_BYTES = 1 << 20
MAGIC = b"SQLite format 3\0"


class SqliteOptions(SourceOptions):
    """Give `path` for one database or `paths` for several; their base names name them in the snapshot."""

    path: Text | None = None
    paths: list[Text] = Field(default_factory=list)
    scratch: Text | None = Field(
        default=None, description="directory on the host for the temporary copy; default: TMPDIR"
    )

    together: bool = Field(
        default=False,
        description="copy all `paths` as of one moment, for an application that attaches them and writes to several at once",
    )

    @model_validator(mode="after")
    def _one_way_and_distinct(self) -> Self:
        if bool(self.path) == bool(self.paths):
            raise ValueError("give either `path` or `paths`")
        if self.together and len(self.all_paths) < 2:
            raise ValueError("`together` is for several `paths`")
        names = [posixpath.basename(path) for path in self.all_paths]
        for path, name in zip(self.all_paths, names, strict=True):
            if not path.startswith("/") or not name:
                raise ValueError(f"{path!r} is not the absolute path of a file")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two databases would both be called {', '.join(twice)}: put them into separate sources")
        return self

    @property
    def all_paths(self) -> list[str]:
        return [self.path] if self.path else self.paths


ASK_VERSION = "import sqlite3; print(sqlite3.sqlite_version)"


def sqlite_version(host: Host) -> str:
    """Of the library that Python has there; "" for none."""
    completed = host.run([host.python, "-c", ASK_VERSION])
    return completed.stdout.decode().strip() if completed.returncode == 0 else ""


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def way_of(tables: Mapping[str, Mapping[str, object]]) -> str:
    """How the digests of a fingerprint were made: what stands before their colon."""
    return next(
        (str(table["digest"]).partition(":")[0] for table in tables.values() if ":" in str(table["digest"])), "1"
    )


class SqliteSource:
    kind = "sqlite"

    def __init__(self, name: str, options: SqliteOptions) -> None:
        self.name = name
        self.options = options

    def preflight(self, host: Host) -> list[PreflightFinding]:
        return [finding for path in self.options.all_paths for finding in self._look(host, path)]

    def _look(self, host: Host, path: str) -> Iterator[PreflightFinding]:
        try:
            info = host.stat(path.encode())
            scratch = (self.options.scratch or "/tmp").encode()  # noqa: S108 - where the far Python's tempfile goes too
            room = host.free_bytes(scratch) if host.stat(scratch) is not None else None
        except OSError as error:
            yield PreflightFinding(
                "error",
                f"{path} on host {host.name}: {error.strerror or error}",
                f"correct `path` or `scratch` of source {self.name}, or the permissions on host {host.name}",
            )
            return
        if info is None:
            yield PreflightFinding("error", f"{path}: no such file on host {host.name}", "correct `path`")
        elif room is not None and room < info.size * 1.1:
            yield PreflightFinding(
                "error",
                f"{path}: its copy needs {info.size} bytes, {scratch.decode()} on host {host.name} has less",
                f"set `scratch` of source {self.name} to a directory with room",
            )

    def staging_needs(self, host: Host, staging: Host) -> StagingNeeds:
        """Room for the files, and a library there that is not older than the one that reads them here."""
        needs = StagingNeeds(sum(info.size for path in self.options.all_paths if (info := host.stat(path.encode()))))
        here, there = sqlite_version(host), sqlite_version(staging)
        if not there:
            needs.findings.append(
                PreflightFinding(
                    "error",
                    f"host {staging.name}: {staging.python} has no sqlite3 module",
                    f"install libpython3-stdlib on host {staging.name}",
                )
            )
        elif numbers(there) < numbers(here):
            needs.findings.append(
                PreflightFinding(
                    "warning",
                    f"host {staging.name} has SQLite {there}, host {host.name} {here}: newer schemas may not open there",
                    f"install a newer libsqlite3-0 on host {staging.name}",
                )
            )
        return needs

    def open(self, host: Host, clock: Clock) -> SqliteSession:
        kind = TogetherSession if self.options.together else SqliteSession
        return kind(self.name, self.options.all_paths, self.options.scratch or "", host, clock)

    def boot(self, host: Host, directory: bytes, fingerprint: Fingerprint) -> Instance:
        if host.stat(directory) is not None:
            raise CouldNotRunError(
                f"{directory.decode()} on host {host.name} exists already",
                next_step="name a directory that does not exist",
            )
        version = sqlite_version(host)
        if not version:
            raise CouldNotRunError(
                f"host {host.name}: {host.python} has no sqlite3 module",
                next_step=f"install libpython3-stdlib on {host.name}",
            )
        host.make_directory(directory)
        return Instance(self.kind, host, directory, version)

    def load(self, instance: Instance, files: SnapshotFiles, *, databases: Sequence[str] | None = None) -> list[str]:
        present = {name.decode("utf-8", "backslashreplace"): name for name in files.names()}
        wanted = choose_databases(instance, databases, present, self.name)
        for shown in wanted:
            name = present[shown]
            source, sink = files.open(name), instance.host.open_write(instance.directory + b"/" + name)
            try:
                data = source.read(COPY_BYTES)
                if not data.startswith(MAGIC):
                    raise DamageError(f"{shown} in the snapshot is not a SQLite database", name=shown)
                while data:
                    sink.write(data)
                    data = source.read(COPY_BYTES)
            finally:
                source.close()
                sink.close()
        return [f"{len(wanted)} database file(s) placed"]

    def compare(self, instance: Instance, fingerprint: Fingerprint) -> list[CheckResult]:
        present = set(instance.host.list_directory(instance.directory))
        chosen = chosen_databases(instance)
        results = []
        for name, expected in fingerprint["databases"].items():
            if chosen is not None and name not in chosen:
                continue
            if name.encode() in present:
                results += self._compare_one(instance, name, expected)
            else:
                results.append(CheckResult(f"database {name}", "present", "missing", False, 3))
        return results

    def _compare_one(self, instance: Instance, name: str, expected: dict[str, Any]) -> list[CheckResult]:
        found = self._ask(instance, "inspect", name, way_of(expected["tables"]))
        if "error" in found:
            return [CheckResult(f"database {name} opens and is intact", "ok", str(found["error"]), False, 3)]
        results = [CheckResult(f"database {name} opens and is intact", "ok", "ok", True, 3, detail=str(found["check"]))]
        for fact in ("schema", "foreign_key_violations", "user_version", "application_id", "page_size", "encoding"):
            want, have = str(expected[fact]), str(found[fact])
            results.append(CheckResult(f"{fact.replace('_', ' ')} of {name}", want, have, want == have, 4))
        return results + compare_tables(f"{name}.", expected["tables"], found["tables"])

    def query(self, instance: Instance, database: str, sql: str) -> list[list[str]]:
        found = self._ask(instance, "query", database, stdin=sql)
        if "error" in found:
            raise UserError(f"query on {database}: {found['error']}", next_step="correct the probe's SQL")
        rows: list[list[str]] = found["rows"]
        return rows

    def examine(self, instance: Instance, databases: Sequence[str]) -> list[CheckResult]:
        """`PRAGMA integrity_check`, or `quick_check` where an index needs what this library has not."""
        results = []
        for name in databases:
            found = self._ask(instance, "inspect", name, sqlite_program.NEWEST_WAY)
            bad = str(found.get("error", ""))
            detail = "" if bad else str(found["check"])
            evidence = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
            results.append(
                CheckResult(f"integrity_check of {name}", "ok", bad or "ok", not bad, 4, 0.0, detail, evidence)
            )
        return results

    def client_command(self, instance: Instance, database: str) -> list[str]:
        return ["sqlite3", posixpath.join(instance.directory.decode("utf-8", "surrogateescape"), database)]

    def stop(self, instance: Instance) -> None:
        """Nothing runs; the files belong to whoever gave the directory."""

    def data_time(self, fingerprint: Fingerprint) -> datetime:
        return parse_iso(fingerprint["time"])

    def _ask(self, instance: Instance, verb: str, name: str, *arguments: str, stdin: str = "") -> dict[str, Any]:
        path = posixpath.join(instance.directory.decode("utf-8", "surrogateescape"), name)
        completed = instance.host.run(far(instance.host, verb, path, *arguments), stdin=stdin.encode())
        try:
            answer: dict[str, Any] = json.loads(completed.stdout)
        except ValueError:
            raise CouldNotRunError(
                f"host {instance.host.name}: reading {path} ended with {said(completed)}",
                next_step=f"see whether {instance.host.python} works there: `backupctl host check {instance.host.name}`",
            ) from None
        return answer
