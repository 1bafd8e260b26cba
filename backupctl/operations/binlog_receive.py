"""Receive a MariaDB server's binary logs as they are written, and store what came every few seconds."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import cast

from backupctl.config.models import Job
from backupctl.errors import SourceError, StoreUnreachableError, UnreachableError, UsageError, UserError
from backupctl.operations.context import Context
from backupctl.repository.fence import require_epoch
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.repository import Repository
from backupctl.sources.binlog_archive import PIECE_BYTES, Piece, ReceivedLogs, archive_of, compact
from backupctl.sources.binlog_format import BinlogDamage, BinlogReader
from backupctl.sources.binlog_receiver import BinlogReceiver
from backupctl.sources.mariadb import MariadbOptions, MariadbSource
from backupctl.sources.mariadb_binlog import facts_of
from backupctl.sources.mariadb_replay import sequence

POLL_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0
FLAGS_AT = 21  # in the first event's header: whether the server has the file open, which is no part of its content


def receive(context: Context, job: Job, source_name: str = "", *, stop: Callable[[], bool] = lambda: False) -> int:
    """Until `stop` says so; the bytes stored. A connection that ends is made again; one that never stood raises SourceError. Raises
    whatever the store says, UserError for a server whose logs are others than those that are stored, FencedOffError for an old
    primary."""
    source = _source(context, job, source_name)
    host = context.resources.host(job.sources[source.name].host)
    assert source.options.binlog is not None
    every = source.options.binlog.every
    storing = _Storing(context, context.resources.repository(job.repository), job, source.name)
    wait = 1.0
    while not stop():
        try:
            with source.receiver(host) as receiver:
                receiver.begin(storing.begin(receiver))
                context.reporter.event("receiving", f"receiving the binary logs of {source.name}", job=job.job)
                next_time = 0.0
                while not stop():
                    if (came := receiver.next(POLL_SECONDS)) is not None:
                        storing.take(*came)
                        wait = 1.0
                    if context.clock.monotonic() >= next_time:
                        storing.store()
                        next_time = context.clock.monotonic() + every
        except StoreUnreachableError:
            raise
        except (SourceError, UnreachableError) as error:
            storing.store()
            if not storing.received:
                raise
            context.reporter.event("warning", f"{error.message}; trying again in {wait:.0f} s", job=job.job)
            until = context.clock.monotonic() + wait
            while not stop() and context.clock.monotonic() < until:
                context.clock.sleep(POLL_SECONDS)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        except KeyboardInterrupt:
            storing.store()
            raise
    storing.store()
    return storing.bytes


class _Storing:
    def __init__(self, context: Context, repository: Repository, job: Job, source: str) -> None:
        self._context, self._repository, self._job, self._source = context, repository, job, source
        self._require_epoch()
        self._archive: LogArchive | None = None
        self._held: ReceivedLogs | None = None
        self._log: ReceivedLog | None = None
        self.received = False
        self.bytes = 0

    def begin(self, receiver: BinlogReceiver) -> str:
        """The log from which on everything is needed."""
        self._archive, self._log = archive_of(self._repository, receiver.server_uid), None
        self._held = held = ReceivedLogs(self._archive)
        there = receiver.there()
        if not there:
            raise SourceError(
                f"source {self._source}: the server writes no binary log",
                source=self._source,
                next_step="set log_bin in its configuration and restart it",
            )
        names = list(there)
        stored = [file for file, pieces in held.files.items() if pieces]
        if not stored:
            return names[0]
        last = stored[-1]
        if last not in there:
            self._tell_hole(last, names[0])
            return names[0]
        complete = last != names[-1] and there[last] == held.end(last)
        return names[names.index(last) + 1] if complete else last

    def _tell_hole(self, last: str, oldest: str) -> None:
        assert self._held is not None
        if self._held.facts(last)["next_name"] != oldest and sequence(oldest) > sequence(last):
            self._context.reporter.event(
                "warning",
                f"{self._source}: the server has purged what came after {last} before it was stored; it goes on with {oldest}. No "
                "recovery leads across this hole: back up the databases again",
            )

    def take(self, name: str, data: bytes) -> None:
        assert self._archive is not None and self._held is not None
        self.received = True
        if self._log is None or self._log.name != name:
            if self._log is not None:
                self._finish(self._log)
            self._log = ReceivedLog(self._archive, name, self._held.files.get(name, []))
        self._log.feed(data)
        if self._log.waiting >= PIECE_BYTES:
            self.store()

    def store(self) -> None:
        if self._log is not None:
            self._require_epoch()
            self.bytes += self._log.store()

    def _require_epoch(self) -> None:
        require_epoch(self._repository, self._job.job, self._job.epoch)

    def _finish(self, log: ReceivedLog) -> None:
        self._require_epoch()
        self.bytes += log.store()
        if log.broken:
            text = f"{self._source}: binary log {log.name} {log.broken}; no recovery leads across: back up the databases again"
            self._context.reporter.event("warning", text, name=log.name)
            return
        if log.pieces:
            compact(log.archive, log.pieces)
        self._context.reporter.event("stored", f"{log.name} stored", name=log.name)


class ReceivedLog:
    """One file while it comes, from its beginning. `pieces`: those that are stored; what they hold has to come again, the same."""

    def __init__(self, archive: LogArchive, name: str, pieces: list[Piece]) -> None:
        self.archive, self.name, self.pieces = archive, name, list(pieces)
        self._again = list(pieces)
        self._reader = BinlogReader()
        self._data = bytearray()
        self._start = self._seen = 0
        self.broken = ""

    @property
    def waiting(self) -> int:
        return len(self._data)

    def feed(self, data: bytes) -> None:
        if self.broken and not self._again:
            return
        content = bytearray(data)
        if self._seen <= FLAGS_AT < self._seen + len(content):
            content[FLAGS_AT - self._seen] &= 0xFE
        self._seen += len(content)
        self._data += content
        try:
            if not self.broken:
                self._reader.feed(bytes(content))
        except BinlogDamage as error:
            self.broken = str(error)
        while self._again and self._seen >= self._again[0].end:
            self._compare(self._again.pop(0))

    def _compare(self, piece: Piece) -> None:
        content = self._cut(piece.end)
        if sha256(content).hexdigest() != self.archive.look(piece.name).sha256:
            raise UserError(
                f"binary log {self.name} is not the one of that name that is stored: bytes {piece.start} to {piece.end} differ",
                next_step="was the server set up anew, or its logs reset? Use another repository for them",
            )

    def _cut(self, end: int) -> bytes:
        size = end - self._start
        content = bytes(self._data[:size])
        del self._data[:size]
        self._start = end
        return content

    def store(self) -> int:
        """Up to the end of the last event that came whole; how many bytes that were."""
        end = self._reader.good_end
        if self._again or end <= self._start:
            return 0
        piece = Piece(self.name, self._start, end)
        facts = {**facts_of(self.name, self._reader.found), "end": end}
        self.archive.put(piece.name, self._cut(end), {"log": facts})
        self.pieces.append(piece)
        return piece.end - piece.start


def _source(context: Context, job: Job, name: str) -> MariadbSource:
    fitting = [
        one
        for one, settings in job.sources.items()
        if isinstance(settings.options, MariadbOptions) and settings.options.binlog is not None and name in ("", one)
    ]
    if len(fitting) != 1:
        raise UsageError(
            f"job {job.job} has {len(fitting)} sources whose binary logs could be received",
            next_step="give one `binlog: {}`, beside `method: physical` or `databases: all`; name it JOB/SOURCE",
        )
    return cast(MariadbSource, context.resources.source(job, fitting[0]))
