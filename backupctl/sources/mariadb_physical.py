"""A MariaDB server as it lies on disk: `mariadb-backup` streams it, we store it file by file in blocks of whole pages, so that an
unchanged page costs nothing the next day. `mariadb-backup` must run beside the server and read its data directory.

The backup is the moment of its end, which nobody can look at. So afterwards commits are held up while a view of all tables opens,
the position of the binary log is noted, and the logs from the backup up to there are stored with it. A restore replays them and
must then hold what that view held, row by row, however busy the server was.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

from backupctl.errors import SourceError
from backupctl.hosts.protocol import Completed, Host, Process
from backupctl.repository.entry import Chunking, Entry
from backupctl.sources.binlog_format import BinlogFile
from backupctl.sources.mariadb_binlog import DIRECTORY, LogStream, Position, facts_of, first_gap, logs_between, now_at
from backupctl.sources.mariadb_client import MariadbClient
from backupctl.sources.mariadb_programs import refuse_other_series
from backupctl.sources.mariadb_session import MariadbSession, refuse_changed_accounts
from backupctl.sources.protocol import Fingerprint, PreflightFinding
from backupctl.sources.streams import ProcessStream, stream_node
from backupctl.sources.xbstream import XbStream

DATA = b"data"
POSITION_FILES = ("xtrabackup_binlog_info", "mariadb_backup_binlog_info")
PAGE_FILE = re.compile(r"(?:^|/)(?:[^/]+\.(?:ibd|new|MAD|MAI)|ibdata\d+|undo\d+)$")
LARGE_BYTES = 20 << 30
"""From here on the index of 16 KiB blocks (6.5 million for 100 GB) costs more than the bytes that smaller blocks save."""
COMPLETED_OK = "completed OK!"
RIGHTS = (
    "GRANT RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, REPLICATION SLAVE, CONNECTION ADMIN ON *.* TO the backup user;"
)
MAKE_DIRECTORY = "import tempfile; print(tempfile.mkdtemp(prefix='bctl-'))"


class PhysicalSession(MariadbSession):
    """Of the whole server."""

    _base: Position | None = None
    _view_at = Position("", 0)

    def __enter__(self) -> Self:
        with self._stack as stack:
            self._connect(stack)
            client = self._client
            now_at(client)  # refuses now what would be refused later
            self._program = beside(client, "mariadb-backup")
            refuse_other_series(client, self._program, self._version)
            self._binlog_program = beside(client, "mariadb-binlog")
            size = int(
                client.rows("SELECT IFNULL(SUM(data_length + index_length), 0) FROM information_schema.tables;")[0][0]
            )
            self._chunking = Chunking("fixed", self._block_bytes or block_bytes_for(size))
            settings = ("datadir", "lower_case_table_names", "innodb_page_size", "log_bin_basename")
            self._settings = client.variables(*settings)
            # replays begin in the log that is written to when the backup ends, and that log is stored whole: let it be a young one
            client.rows("FLUSH LOCAL BINARY LOGS;")
            made = client.host.run([client.host.python, "-c", MAKE_DIRECTORY], check=True).stdout.decode().strip()
            stack.callback(client.host.remove_tree, made.encode())
            argv = [self._program, client.defaults, *client.options, "--backup", "--stream=xbstream", "--parallel=1"]
            argv += [f"--datadir={self._settings['datadir']}", f"--target-dir={made}/target"]
            self._process: Process = client.start(argv)
            stack.callback(self._process.__exit__, None, None, None)
            self._logs: list[tuple[str, BinlogFile]] = []
            self._stack = stack.pop_all()
        return self

    def stream(self) -> Iterator[Entry]:
        """The files of the backup in the order in which they come, then the logs."""
        yield from self._data_files()
        self._look(self._stack)
        refuse_changed_accounts(self._client, self._accounts)  # a replay gives them as they were at the view
        base, view = self._base, self._view_at
        assert base is not None
        for name in logs_between(self._client, base, view):
            stream = LogStream(self._client, self._binlog_program, name, view.offset if name == view.file else None)
            node = stream_node(name.encode(), self._time)
            yield Entry(DIRECTORY + b"/" + name.encode(), node, open=stream.open)
            if stream.found is None:
                raise self._failure(f"binary log {name} was not read to its end", "see the problem above it")
            self._logs.append((name, stream.found))
        if gap := first_gap(self._logs):
            raise self._failure(f"binary logs have a gap: {gap}", "run the job again; see who removed that log")
        if self._logs[-1][1].end < view.offset:
            raise self._failure(f"binary log {view.file} ends before {view}", "run the job again")
        yield from self._describe()

    def _data_files(self) -> Iterator[Entry]:
        step = f"see its words above; it must be able to read the data directory; {RIGHTS}"
        item = "the stream of mariadb-backup"
        stream = ProcessStream(self._process, source=self._name, item=item, judge=not_completed, next_step=step)
        for file in XbStream(stream, self._name).files():
            path = file.path.encode("utf-8", "surrogateescape")
            node = stream_node(path.rpartition(b"/")[2], self._time)
            if file.path in POSITION_FILES:
                text = file.read()
                self._base = parse_position(text.decode(), self._name)
                yield Entry(DATA + b"/" + path, node, open=partial(io.BytesIO, text))
                continue
            chunking = self._chunking if PAGE_FILE.search(file.path) else Chunking()
            yield Entry(DATA + b"/" + path, node, open=file.open, chunking=chunking)
        if self._base is None:
            raise self._failure("mariadb-backup sent no position of the binary log", "see that log_bin is set")

    def entries(self) -> Iterator[Entry]:
        return self.stream()

    def _start_dumps(self, stack: ExitStack, options: list[str]) -> None:
        """There are none: the view is for the fingerprint alone."""

    def _wait_for_dumps(self) -> None:
        self._view_at = now_at(self._client)

    def _compare_positions(self, logging: bool) -> None:
        self._facts["binary_log"] = [self._view_at.file, self._view_at.offset]

    def fingerprint(self) -> Fingerprint:
        if self._base is None or not self._logs:
            raise self._failure("the backup was not read to its end", "see the problem above it")
        more: dict[str, Any] = {
            "method": "physical",
            "block_bytes": self._chunking.block_size,
            "settings": self._settings,
            "base": [self._base.file, self._base.offset],
            "logs": [facts_of(name, found) for name, found in self._logs],
        }
        return {**super().fingerprint(), **more}

    def _failure(self, what: str, next_step: str) -> SourceError:
        return SourceError(f"source {self._name}: {what}", source=self._name, item="data", next_step=next_step)


def not_completed(completed: Completed) -> str:
    """Exit status 0 is not enough: mariadb-backup must have said so, too."""
    last = completed.stderr.rstrip().rpartition("\n")[2]
    return "" if last.endswith(COMPLETED_OK) else f"has no {COMPLETED_OK!r} at its end"


def beside(client: MariadbClient, name: str) -> str:
    """The program `name`, from where the client's programs are."""
    prefix = client.client.rpartition("/")[0]
    for candidate in (name, name.replace("mariadb-backup", "mariabackup").replace("mariadb-binlog", "mysqlbinlog")):
        path = f"{prefix}/{candidate}" if prefix else candidate
        if client.host.run([path, "--version"]).returncode == 0:
            return path
    package = name if name == "mariadb-backup" else client.family.client_package
    raise SourceError(
        f"source {client.source}: no {name} on host {client.host.name}",
        source=client.source,
        next_step=f"install {package} on host {client.host.name}, or set `bin_dir` of source {client.source}",
    )


def parse_position(text: str, source: str) -> Position:
    """File, position and GTID, separated by tabs."""
    words = text.split()
    if len(words) < 2 or not words[1].isdigit():
        raise SourceError(f"source {source}: mariadb-backup gave the position {text!r}", source=source)
    return Position(words[0], int(words[1]))


def block_bytes_for(size: int) -> int:
    return 16384 if size < LARGE_BYTES else 65536


def preflight_logs(client: MariadbClient) -> list[PreflightFinding]:
    """What reading binary logs needs."""
    findings = []
    try:
        beside(client, client.family.log_reader)
        now_at(client)
    except SourceError as error:
        return [PreflightFinding("error", error.message, error.next_step)]
    if client.family.executed is not None and client.variable("gtid_mode") != "ON":
        message = "gtid_mode is not ON: a binary log that is missing after a restart of the server cannot be told"
        findings.append(PreflightFinding("warning", message, "SET gtid_mode=ON and enforce_gtid_consistency=ON"))
    settings = client.variables("binlog_checksum", "binlog_format")
    if settings["binlog_checksum"] == "NONE":
        message = "binlog_checksum is NONE: a flipped byte in a binary log cannot be found"
        findings.append(PreflightFinding("warning", message, "SET GLOBAL binlog_checksum = 'CRC32';"))
    if settings["binlog_format"] == "STATEMENT":
        message = "binlog_format is STATEMENT: a replay may not give what the source held"
        findings.append(PreflightFinding("warning", message, "SET GLOBAL binlog_format = 'MIXED';"))
    return findings


def preflight(client: MariadbClient, host: Host) -> list[PreflightFinding]:
    """What a physical backup needs besides."""
    findings = []
    try:
        refuse_other_series(client, beside(client, "mariadb-backup"), client.server_version())
    except SourceError as error:
        return [PreflightFinding("error", error.message, error.next_step)]
    if host.run(["test", "-r", client.variable("datadir") + "/ibdata1"]).returncode != 0:
        message = f"{host.facts().user} on host {host.name} cannot read the data directory {client.variable('datadir')}"
        findings.append(
            PreflightFinding("error", message, "run as the server's user or root there, or use `method: logical`")
        )
    return findings
