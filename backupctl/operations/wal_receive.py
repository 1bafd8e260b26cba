"""Receive a server's log over a slot, and store it: whole segments at once, the newest one every few seconds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import cast

from backupctl.config.models import Job
from backupctl.errors import Denied, UsageError
from backupctl.operations.context import Context
from backupctl.operations.wal import damage_words, epoch_of, push_content
from backupctl.repository.fence import refuse_diverged
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.repository import Repository
from backupctl.sources.postgresql import PostgresqlOptions, PostgresqlSource, WalOptions
from backupctl.sources.wal_archive import open_name, opened_objects
from backupctl.sources.wal_format import WalFormatError, describe_segment, parse_lsn
from backupctl.sources.wal_receiver import PARTIAL, WalReceiver

POLL_SECONDS = 0.5


def receive(context: Context, job: Job, source_name: str = "", *, stop: Callable[[], bool] = lambda: False) -> int:
    """Until `stop` says so; the number of segments stored. Raises SourceError when the server's side ends, and whatever the
    store says: what was received stays in the spool and is stored by the next call."""
    source = _source(context, job, source_name)
    host = context.resources.host(job.sources[source.name].host)
    options = cast(WalOptions, source.options.wal)
    storing = _Storing(context, context.resources.repository(job.repository), job)
    with source.receiver(host) as receiver:
        context.reporter.event("receiving", f"receiving the log of {source.name} over slot {options.slot}", job=job.job)
        next_partial = 0.0
        try:
            while not stop():
                storing.whole(receiver)
                if context.clock.monotonic() >= next_partial:
                    storing.partial(receiver)
                    next_partial = context.clock.monotonic() + options.every
                receiver.require_running()
                context.clock.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            storing.everything(receiver)  # what came since the last time
            raise
        storing.everything(receiver)
        return storing.segments


class _Storing:
    def __init__(self, context: Context, repository: Repository, job: Job) -> None:
        self._context, self._repository, self._job = context, repository, job
        self._began = epoch_of(repository, job)
        self._server = ""
        self._stored: tuple[str, int] = ("", 0)  # the newest segment, and how much of it
        self.segments = 0

    def _archive(self, server: str) -> LogArchive:
        self._server = server
        return LogArchive(self._repository, server)

    def everything(self, receiver: WalReceiver) -> None:
        self.whole(receiver)
        self.partial(receiver)

    def whole(self, receiver: WalReceiver) -> None:
        for name in receiver.finished():
            if name.endswith(".history") and not self._server:
                continue  # a segment says whose it is
            self._began = epoch_of(self._repository, self._job)
            server = self._server if name.endswith(".history") else ""
            pushed = push_content(self._archive, name, receiver.read(name), server, self._began)
            receiver.remove(name)
            self.segments += not name.endswith(".history")
            self._forget_opened(name)
            self._context.reporter.event("stored", f"{name} stored", name=name)
            if pushed.damage:
                self._context.reporter.event("warning", damage_words(name, pushed, self._job.job), name=name)

    def partial(self, receiver: WalReceiver) -> None:
        name = receiver.partial()
        if not name:
            return
        segment = name.removesuffix(PARTIAL)
        try:
            data = receiver.read(name)
            facts = describe_segment(data)
        except (FileNotFoundError, WalFormatError):
            return  # it has just become whole, or holds nothing yet
        used = parse_lsn(facts["end"]) - parse_lsn(facts["start"])
        if (segment, used) == self._stored or used <= 0:
            return
        self._began = epoch_of(self._repository, self._job)
        refuse_diverged(self._began, facts["system"], int(segment[:8], 16), parse_lsn(facts["end"]))
        archive = self._archive(facts["system"])
        archive.put(open_name(segment, used), data, facts)
        self._stored = (segment, used)
        self._forget_opened(segment, but=open_name(segment, used))

    def _forget_opened(self, segment: str, but: str = "") -> None:
        """What was stored of a segment before there was more of it. A store that keeps everything keeps these too."""
        if not self._server:
            return
        archive = LogArchive(self._repository, self._server)
        for name in opened_objects(archive, segment):
            if name != but:
                with suppress(Denied):
                    archive.delete(name)


def _source(context: Context, job: Job, name: str) -> PostgresqlSource:
    fitting = [
        one
        for one, settings in job.sources.items()
        if isinstance(settings.options, PostgresqlOptions)
        and isinstance(settings.options.wal, WalOptions)
        and name in ("", one)
    ]
    if len(fitting) != 1:
        raise UsageError(
            f"job {job.job} has {len(fitting)} sources whose log could be received",
            next_step="give one `method: physical` and `wal: {slot: backupctl, spool: /var/lib/backupctl/wal}`; name it JOB/SOURCE",
        )
    return cast(PostgresqlSource, context.resources.source(job, fitting[0]))
