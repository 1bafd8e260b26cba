"""SQLite databases, each copied whole at one moment through the online backup API, under live writers and in WAL mode.

`cp` of a live database misses the WAL and can tear; `VACUUM INTO` repacks pages, so nothing of yesterday's copy is
recognised today (97 % new against 4.7 %). The copy lives in an unlinked temporary file on the source's host, is checked
and fingerprinted there, and is streamed in blocks that keep to pages.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Self

from pydantic import Field, model_validator

from backupctl.clock import Clock, iso, parse_iso
from backupctl.errors import CouldNotRunError, DamageError, SourceError, UserError
from backupctl.hosts.protocol import ByteSource, Host, Process
from backupctl.repository.entry import Chunking, Entry
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
from backupctl.sources.streams import (
    ProcessStream,
    choose_databases,
    chosen_databases,
    compare_tables,
    program_text,
    read_line,
    said,
    stream_node,
)

SMALL_BLOCK_BYTES = 8 * 1024
LARGE_BLOCK_BYTES = 64 * 1024
SMALL_DATABASE_BYTES = 4 * 1024**3
HEADER_LIMIT_BYTES = 64 * 1024**2
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


def block_size(page_size: int, size: int) -> int:
    """A whole number of pages (both are powers of two)."""
    return max(page_size, SMALL_BLOCK_BYTES if size <= SMALL_DATABASE_BYTES else LARGE_BLOCK_BYTES)


def far(host: Host, *arguments: str) -> list[str]:
    return [host.python, "-c", program_text(sqlite_program), *arguments]


def sqlite_version(host: Host) -> str:
    """Of the library that Python has there; "" for none."""
    completed = host.run([host.python, "-c", ASK_VERSION])
    return completed.stdout.decode().strip() if completed.returncode == 0 else ""


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


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
        return TogetherSession(self, host, clock) if self.options.together else SqliteSession(self, host, clock)

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
        found = self._ask(instance, "inspect", name)
        if "error" in found:
            return [CheckResult(f"database {name} opens and is intact", "ok", str(found["error"]), False, 3)]
        results = [CheckResult(f"database {name} opens and is intact", "ok", "ok", True, 3, detail=str(found["check"]))]
        for fact in ("schema", "foreign_key_violations", "user_version", "application_id", "page_size", "encoding"):
            want, have = str(expected[fact]), str(found[fact])
            results.append(CheckResult(f"{fact.replace('_', ' ')} of {name}", want, have, want == have, 4))
        return results + compare_tables(f"{name}.", expected["tables"], found["tables"])

    def query(self, instance: Instance, database: str, sql: str) -> list[list[str]]:
        found = self._ask(instance, "query", database, sql)
        if "error" in found:
            raise UserError(f"query on {database}: {found['error']}", next_step="correct the probe's SQL")
        rows: list[list[str]] = found["rows"]
        return rows

    def examine(self, instance: Instance, databases: Sequence[str]) -> list[CheckResult]:
        """`PRAGMA integrity_check`, or `quick_check` where an index needs what this library has not."""
        results = []
        for name in databases:
            found = self._ask(instance, "inspect", name)
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

    def _ask(self, instance: Instance, verb: str, name: str, stdin: str = "") -> dict[str, Any]:
        path = posixpath.join(instance.directory.decode("utf-8", "surrogateescape"), name)
        completed = instance.host.run(far(instance.host, verb, path), stdin=stdin.encode())
        try:
            answer: dict[str, Any] = json.loads(completed.stdout)
        except ValueError:
            raise CouldNotRunError(
                f"host {instance.host.name}: reading {path} ended with {said(completed)}",
                next_step=f"see whether {instance.host.python} works there: `backupctl host check {instance.host.name}`",
            ) from None
        return answer


class SqliteSession:
    """One process on the host per database, alive while its entry is read."""

    def __init__(self, source: SqliteSource, host: Host, clock: Clock) -> None:
        self._source, self._host, self._clock = source, host, clock
        self._databases: dict[str, Any] = {}
        self._unreadable: dict[str, str] = {}
        self._versions: dict[str, str] = {}
        self._time = ""
        self._process: Process | None = None

    def entries(self) -> Iterator[Entry]:
        for path in sorted(self._source.options.all_paths, key=lambda path: posixpath.basename(path).encode()):
            yield self._entry(path, posixpath.basename(path))
            self._end_process()

    def _entry(self, path: str, name: str) -> Entry:
        view_time = self._clock.now()
        process = self._host.start(far(self._host, "snapshot", path, self._source.options.scratch or ""))
        self._process = process
        line, rest = read_line(process, HEADER_LIMIT_BYTES)
        return self._described(path, name, view_time, line, rest, process)

    def _described(
        self, path: str, name: str, view_time: datetime, line: bytes, rest: bytes, process: Process
    ) -> Entry:
        """An entry from its header; `rest` was read beyond it."""
        node = stream_node(name.encode(), view_time)
        try:
            header: dict[str, Any] = json.loads(line)
        except ValueError:
            header = {"error": f"its copy {said(process.finish())}"}
        if "error" in header:
            self._unreadable[name] = header["error"]
            message = f"source {self._source.name}: SQLite database {path} on host {self._host.name}: {header['error']}"
            return Entry(name.encode(), node, error=message)
        self._versions = header.pop("versions")
        size = header["size"]
        self._databases[name] = {**header, "path": path, "time": iso(view_time)}
        self._time = self._time or iso(view_time)
        node.size = size
        stream = self._stream(process, rest, f"SQLite database {path}", size)
        return Entry(
            name.encode(), node, open=lambda: stream, chunking=Chunking("fixed", block_size(header["page_size"], size))
        )

    def _stream(self, process: Process, rest: bytes, item: str, size: int) -> ByteSource:
        return ProcessStream(process, already=rest, source=self._source.name, item=item, size=size)

    def fingerprint(self) -> Fingerprint:
        if not self._databases:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._unreadable.items())
            raise SourceError(
                f"source {self._source.name}: no SQLite database could be read ({reasons or 'none was reached'})",
                source=self._source.name,
                next_step="see that the file exists, is a database, and that nobody holds it locked",
            )
        return {
            "kind": "sqlite",
            "time": self._time,
            "versions": self._versions,
            "databases": self._databases,
            "unreadable": self._unreadable,
        }

    def _end_process(self) -> None:
        if self._process is not None:
            with suppress(OSError):
                self._process.kill()
            self._process.__exit__(None, None, None)
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end_process()


class TogetherSession(SqliteSession):
    """One process for all databases, which holds a view of each before it copies the first."""

    def entries(self) -> Iterator[Entry]:
        options = self._source.options
        paths = sorted(options.all_paths, key=lambda path: posixpath.basename(path).encode())
        view_time = self._clock.now()
        process = self._host.start(far(self._host, "together", options.scratch or "", *paths))
        self._process, rest = process, b""
        for path in paths:
            line, rest = read_line(process, HEADER_LIMIT_BYTES, rest)
            self._share: Share | None = None
            yield self._described(path, posixpath.basename(path), view_time, line, rest, process)
            if self._share is not None:
                self._share.drain()
                rest = self._share.beyond
        apart = [name for name, facts in self._databases.items() if not facts["together"]]
        if apart:
            raise SourceError(
                f"source {self._source.name}: {', '.join(apart)}: no one moment of all was found: written to too often,"
                " or with a WAL that this account may not lock",
                source=self._source.name,
                next_step="run the job when less is written, with an account that may write to the files; or leave out `together`",
            )
        self._end_process()

    def _stream(self, process: Process, rest: bytes, item: str, size: int) -> ByteSource:
        self._share = Share(process, rest, self._source.name, item, size)
        return self._share


class Share:
    """`size` bytes of what a process writes; `beyond` is what was read past them."""

    def __init__(self, process: Process, already: bytes, source: str, item: str, size: int) -> None:
        self._process, self._source, self._item = process, source, item
        self._left = size
        self.beyond = already

    def read(self, size: int = -1, /) -> bytes:
        if not self._left:
            return b""
        if size < 0:
            return b"".join(iter(lambda: self.read(COPY_BYTES), b""))
        data = self.beyond or self._process.stdout.read(max(1, size))
        if not data:
            raise SourceError(
                f"source {self._source}: {self._item} ended {self._left} bytes early with {said(self._process.finish())}",
                source=self._source,
                item=self._item,
                next_step=f"put it right, then run the job again; `{self._item}` was not stored",
            )
        taken = min(len(data), size, self._left)
        self._left -= taken
        self.beyond = data[taken:]
        return data[:taken]

    def drain(self) -> None:
        """To where the next one begins, whoever stopped reading."""
        with suppress(SourceError):
            while self.read(COPY_BYTES):
                pass

    def close(self) -> None:
        """The process goes on with the next one."""
