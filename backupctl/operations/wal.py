"""The write-ahead log of PostgreSQL sources in the repository's bucket: put there, got back, and what there is without holes.

Works without the catalog: a server's `archive_command` runs it as the server's own user.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backupctl.config.models import Job, Settings
from backupctl.config.resources import Resources
from backupctl.errors import NoSuchError, UsageError, UserError
from backupctl.repository.fence import Began, find_began, refuse_diverged, require_epoch
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.repository import Repository
from backupctl.sources.wal_archive import DAMAGED, opened_objects
from backupctl.sources.wal_check import broken_record
from backupctl.sources.wal_format import (
    WalFormatError,
    describe_segment,
    is_segment_name,
    parse_lsn,
    read_header,
    segment_name,
)

_ARCHIVED = re.compile(r"[0-9A-F]{24}(\.partial|\.[0-9A-F]{8}\.backup)?|[0-9A-F]{8}\.history")


def archive_of(resources: Resources, settings: Settings, name: str, server: str) -> LogArchive:
    """Of JOB/SOURCE, or of JOB when it has one PostgreSQL source. Raises NoSuchError, UsageError."""
    return LogArchive(repository_of(resources, settings, name), server)


def repository_of(resources: Resources, settings: Settings, name: str) -> Repository:
    job_name, _, source = name.partition("/")
    if job_name not in settings.jobs:
        known = ", ".join(sorted(settings.jobs)) or "none"
        raise NoSuchError(f"no job named {job_name!r}; known jobs: {known}", next_step="backupctl config show")
    job = settings.jobs[job_name]
    fitting = [one for one, options in job.sources.items() if options.kind == "postgresql" and source in ("", one)]
    if len(fitting) != 1:
        raise UsageError(
            f"job {job_name} has {len(fitting)} PostgreSQL sources that could be meant by {name!r}",
            next_step=f"name one: {job_name}/SOURCE",
        )
    return resources.repository(job.repository)


def writable_archive(
    resources: Resources, settings: Settings, name: str
) -> tuple[Callable[[str], LogArchive], Began | None]:
    """To push to: (the archive of a server, where the epoch of the job began). Raises FencedOffError when the job has another
    primary by now."""
    repository, job = repository_of(resources, settings, name), settings.jobs[name.partition("/")[0]]
    return (lambda server: LogArchive(repository, server)), epoch_of(repository, job)


def epoch_of(repository: Repository, job: Job) -> Began | None:
    require_epoch(repository, job.job, job.epoch)
    return find_began(repository, job.job, job.epoch) if job.epoch > 1 else None


def server_of(directory: Path) -> str:
    """The identifier of the server whose data directory this is: the first eight bytes of its control file. "" elsewhere."""
    try:
        with (directory / "global" / "pg_control").open("rb") as file:
            return str(struct.unpack("<Q", file.read(8))[0])
    except (OSError, struct.error):
        return ""


@dataclass(frozen=True, slots=True)
class Pushed:
    """`new`: it was not there already. `damage`: what is wrong with it; "" when nothing is known to be. It is stored all the same:
    a server that cannot archive stops."""

    new: bool
    damage: str = ""


def push(open_archive: Callable[[str], LogArchive], path: Path, server: str = "", began: Began | None = None) -> Pushed:
    """Store one file of `pg_wal` under its name. `server` where the file does not say it and no data
    directory is above it; `began` as in `writable_archive`. Raises UserError for anything that must be tried again, and for
    what must not be stored."""
    refuse_other_names(path.name)
    server = server_of(path.absolute().parent.parent) or server
    return push_content(open_archive, path.name, path.read_bytes(), server, began)


def refuse_other_names(name: str) -> None:
    if not _ARCHIVED.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of a log segment, timeline history or backup label",
            next_step="archive_command = 'backupctl wal-push JOB/SOURCE %p'",
        )


def push_content(
    open_archive: Callable[[str], LogArchive], name: str, data: bytes, server: str, began: Began | None = None
) -> Pushed:
    """The segment first, then what marks it as damaged: who is killed between them pushes it again."""
    facts: dict[str, Any] = {}
    if is_segment_name(name):
        facts = segment_facts(name, data)
        if len(data) != facts["segment_bytes"]:
            raise UserError(f"{name} has {len(data)} bytes, a segment of this server has {facts['segment_bytes']}")
        refuse_diverged(began, facts["system"], int(name[:8], 16), parse_lsn(facts["end"]))
    said = str(facts.get("system", ""))
    if said and server and said != server:
        raise UserError(f"{name} was written by server {said}, and is sent as one of server {server}")
    if not (said or server):
        raise UsageError(
            f"whose {name} is, nobody knows: it is not in a server's `pg_wal`", next_step="give --system IDENTIFIER"
        )
    archive = open_archive(said or server)
    new = archive.put(name, data, facts)
    if "broken" not in facts:
        return Pushed(new)
    archive.put(name + DAMAGED, b"", {"broken": facts["broken"]})
    return Pushed(new, broken_record(parse_lsn(facts["broken"])))


def damage_words(name: str, pushed: Pushed, source: str) -> str:
    """For whoever watches an archiver."""
    job = source.partition("/")[0]
    return f"{source}: {name} is stored, but {pushed.damage}; no recovery leads past it: back up again (backupctl run {job})"


def segment_facts(name: str, data: bytes) -> dict[str, Any]:
    """What a segment says of itself, checked against its name. Raises UserError."""
    try:
        facts = describe_segment(data)
        header = read_header(data)
    except WalFormatError as error:
        raise UserError(
            f"{name} is no segment that can be archived: {error}",
            next_step="see the server's log; is the disk damaged?",
        ) from None
    timeline = int(name[:8], 16)  # its first pages may be an older one's: a promotion copies what came before it
    if header.timeline > timeline or segment_name(timeline, header.lsn, header.size) != name:
        actual = segment_name(header.timeline, header.lsn, header.size)
        raise UserError(f"the file called {name} is segment {actual}: it was not stored")
    return facts


def fetch(archive: LogArchive, name: str) -> bytes:
    """The content of a segment or history file; of a segment that is not whole yet, what was received of it, filled up with
    zeros. Raises NoSuchError when, and only when, the archive does not hold it."""
    try:
        return archive.get(name)
    except NoSuchError:
        opened = newest_open(archive, name) if is_segment_name(name) else ""
        if not opened:
            raise
        return archive.get(opened)


def newest_open(archive: LogArchive, segment: str) -> str:
    return max(opened_objects(archive, segment), default="")
