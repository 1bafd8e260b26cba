"""Restore by ops: all of a snapshot, one path, a database or a part of one; into a directory here or on an SSH host, or into
a private database server started there. `plan` shows; `apply` does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

from backupctl.config.models import Job
from backupctl.config.resources import Resources
from backupctl.errors import NoSuchError, UsageError
from backupctl.hosts.protocol import Host
from backupctl.operations.context import Context
from backupctl.operations.database_part import choose_part, databases_of, is_part
from backupctl.operations.fallback import Fallback, open_snapshot
from backupctl.operations.records import SnapshotTags, fingerprint_of
from backupctl.operations.recovery import StoredLogsOrder, stored_logs_order
from backupctl.operations.restore_send import SendOrder, send_order
from backupctl.operations.select import select_snapshot
from backupctl.operations.wal_recovery import PointOrder, point_order, refuse_point
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.restore import RestoreProblem, restore
from backupctl.repository.restore_plan import plan_restore, stated_plan
from backupctl.sources.protocol import DatabaseSource, Instance, Part, PartSource

LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Target:
    """A directory on a host: `DIR` here, `HOST:DIR` there."""

    host: str
    directory: str

    @classmethod
    def parse(cls, text: str, resources: Resources) -> Target:
        name, colon, directory = text.partition(":")
        if colon and name in resources.settings.hosts:
            if not PurePosixPath(directory).is_absolute():
                raise UsageError(
                    f"{text!r}: the directory on {name} must be absolute", next_step=f"--into {name}:/srv/…"
                )
            return cls(name, directory)
        if colon and "/" not in name:
            known = ", ".join(sorted(resources.settings.hosts))
            raise NoSuchError(f"no host named {name!r}; known hosts: {known}", next_step="backupctl host list")
        return cls(LOCAL, str(Path(text).absolute()))

    def __str__(self) -> str:
        return self.directory if self.host == LOCAL else f"{self.host}:{self.directory}"


@dataclass(slots=True)
class RestoreOrder:
    """What is to be restored where, decided and not yet begun. `path` is inside the snapshot, b"" for all of it."""

    repository: Repository
    snapshot: Snapshot
    fallback: Fallback | None
    path: bytes
    target: Target
    job: Job | None
    source: str = ""
    part: Part | None = None  # of the source, which is then a database; None for files, or for all its databases
    shown: str = ""  # the part in words
    start_database: bool = False
    overwrite: bool = False
    point: PointOrder | StoredLogsOrder | None = None  # behind the snapshot, along the log
    send: SendOrder | None = None  # from the private server on, into one that others use
    files: int = 0
    bytes: int = 0
    directories: int | None = None  # not counted
    free_bytes: int = 0
    problems: list[str] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        return {
            "snapshot": self.snapshot.id,
            "snapshot_time": self.snapshot.time,
            "complete": SnapshotTags.of(self.snapshot).complete,
            "repository": self.fallback.name if self.fallback is not None else "",
            "path": "/" + self.path.decode("utf-8", "backslashreplace"),
            "target": str(self.target),
            "files": self.files,
            "bytes": self.bytes,
            "directories": self.directories,
            "free_bytes": self.free_bytes,
            "start_database": self.start_database,
            "part": self.shown,
            "point": self.point.shown if self.point is not None else "",
            "into_server": self.send.conninfo if self.send is not None else "",
        }


@dataclass(slots=True)
class Restored:
    files: int = 0
    bytes: int = 0
    problems: list[RestoreProblem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    instance: Instance | None = None
    connect: list[str] = field(default_factory=list)  # the client's command line, typed on the target's host
    sent: list[str] = field(default_factory=list)  # what came into a live server, for people

    @property
    def leftovers(self) -> list[str]:
        """What a private server leaves on its host when its process has ended, for a person to remove."""
        if self.instance is None:
            return []
        sockets = self.instance.connection.get("sockets")
        return [self.instance.directory.decode("utf-8", "surrogateescape"), *([sockets] if sockets else [])]


def plan(
    context: Context,
    job_name: str | None,
    *,
    at: str,
    only: str | None,
    into: str,
    start_database: bool = False,
    rename: str = "",
    overwrite: bool = False,
    origin: str | None = None,
    into_server: str | None = None,
    exact: bool = True,
) -> RestoreOrder:
    """Decide everything and touch nothing. Without `exact` a whole snapshot is counted as it states itself, and its trees are
    opened by the restore alone. `into_server`: the connection string of a server, as seen from the target's host, that
    gets the database as `rename` in the end. `origin` is the repository to read from; by default the job's, and its copies
    for what that cannot give. Raises NoSuchError, UsageError; a target that is not empty is refused unless
    `overwrite`."""
    send = send_order(into_server, rename, only) if into_server is not None else None
    if send is not None:
        start_database, rename = True, ""
    point = _point(context, job_name, at, only, origin) if start_database else None
    if point is not None:
        at = point.snapshot.id
    elif not start_database:
        refuse_point(at)
    repository, snapshot, job, fallback = _find(context, job_name, at, origin)
    target = Target.parse(into, context.resources)
    order = RestoreOrder(
        repository,
        snapshot,
        fallback,
        b"",
        target,
        job,
        start_database=start_database,
        overwrite=overwrite,
        point=point,
        send=send,
    )
    _narrow(order, only, rename)
    host = context.resources.host(target.host)
    _refuse_filled(host, order)
    if send is not None:
        assert order.job is not None
        send.look(host, context.resources.source(order.job, order.source))
    order.free_bytes = host.free_bytes(_existing_parent(host, target.directory))
    _count(order, exact)
    if order.bytes > order.free_bytes:
        # no refusal: sparse files need less than their size, and who restores under stress may know better
        context.reporter.event(
            "warning", f"{target} has {order.free_bytes:,} bytes free; the restore may need {order.bytes:,}"
        )
    return order


def _count(order: RestoreOrder, exact: bool) -> None:
    counted = None if exact or order.path else stated_plan(order.snapshot)
    if counted is None or counted.bytes > order.free_bytes:  # hard links may make it less
        with SnapshotReader(order.repository, order.snapshot) as reader:
            counted = plan_restore(reader, order.path)
        order.directories = counted.directories
    order.files, order.bytes = counted.files, counted.bytes
    order.problems = [f"/{one.path}: {one.message}" for one in counted.problems]


def apply(context: Context, order: RestoreOrder) -> Restored:
    """Do it. Problems of single files are in the result; the rest is restored. Restoring is an audited act."""
    host = context.resources.host(order.target.host)
    lock = order.repository.lock(settled=False)
    with lock as held, SnapshotReader(order.repository, order.snapshot) as reader:
        context.audit("restore.started", order.snapshot.id, path=order.fields()["path"], target=str(order.target))
        held.settle()
        done = (
            _into_server(context, order, host, reader) if order.start_database else _files(context, order, host, reader)
        )
    context.audit("restore.finished", order.snapshot.id, files=done.files, problems=len(done.problems))
    return done


def _files(context: Context, order: RestoreOrder, host: Host, reader: SnapshotReader) -> Restored:
    root = order.target.directory.encode("utf-8", "surrogateescape")
    host.make_directory(root, mode=0o700)

    def progress(files: int, done: int, path: bytes) -> None:
        context.reporter.progress("restoring", done, order.bytes, item=path.decode("utf-8", "backslashreplace"))

    def problem(one: RestoreProblem) -> None:
        context.reporter.event("problem", f"/{one.path}: {one.message}", path=one.path)

    with host.placer(root) as placer:
        stats = restore(reader, placer, path=order.path, progress=progress, on_problem=problem)
    return Restored(stats.restored_files, stats.restored_bytes, stats.problems, stats.warnings)


def _into_server(context: Context, order: RestoreOrder, host: Host, reader: SnapshotReader) -> Restored:
    assert order.job is not None
    source = cast(DatabaseSource, context.resources.source(order.job, order.source))
    facts = _fingerprint(order)["sources"][order.source]["fingerprint"]
    directory = order.target.directory.encode("utf-8", "surrogateescape")
    context.reporter.event("boot", f"preparing a private {source.kind} in {order.target}")
    instance = source.boot(host, directory, facts)
    part, files = order.part, reader.files(order.source)
    try:
        context.reporter.event("load", f"loading {order.shown}")
        if order.point is not None:
            databases = [part.database] if part is not None else None
            notes = order.point.load(source, instance, files, databases)
        elif part is None:
            notes = source.load(instance, files)
        elif isinstance(source, PartSource):
            notes = source.load_part(instance, files, part, facts)
        else:
            notes = source.load(instance, files, databases=[part.database])
    except BaseException:
        source.stop(instance)
        raise
    for note in notes:
        context.reporter.event("note", note)
    database = next(iter(facts["databases"])) if part is None else part.database
    if part is not None and part.rename and not part.tables:
        database = part.rename
    if order.send is not None:
        return _sent(context, order, source, instance, database)
    connect = source.client_command(instance, database)
    return Restored(order.files, order.bytes, instance=instance, connect=connect)


def _sent(context: Context, order: RestoreOrder, source: DatabaseSource, instance: Instance, database: str) -> Restored:
    """On into the live server; the private one is gone afterwards, whatever happened."""
    assert order.send is not None
    context.reporter.event("send", f"sending {database} into the server {order.send.conninfo} as {order.send.name}")
    try:
        notes = order.send.apply(source, instance, database)
    finally:
        source.stop(instance)
        instance.host.remove_tree(instance.directory)
    context.audit(
        "restore.sent", order.snapshot.id, database=database, server=order.send.conninfo, name=order.send.name
    )
    return Restored(order.files, order.bytes, sent=notes)


def _point(
    context: Context, job_name: str | None, at: str, only: str | None, origin: str | None
) -> PointOrder | StoredLogsOrder | None:
    if only is None:
        return None
    job = context.one_job(job_name)
    repository = context.resources.repository(origin or job.repository)
    stored = stored_logs_order(context, job, at, only, repository)
    return stored or point_order(context, job, at, only, repository)


def _find(
    context: Context, job_name: str | None, at: str, origin: str | None
) -> tuple[Repository, Snapshot, Job | None, Fallback | None]:
    if job_name is None and len(context.settings.jobs) == 1:
        job_name = next(iter(context.settings.jobs))
    if job_name is not None:
        job = context.job(job_name)
        found = open_snapshot(
            context,
            job,
            lambda repository: select_snapshot(context, repository, job.job, at, job.timezone),
            origin=origin,
        )
        made_for = SnapshotTags.of(found.snapshot).job
        if made_for and made_for != job.job:
            job = context.settings.jobs.get(made_for, job)
        return found.repository, found.snapshot, job, found.fallback
    if at == "latest":
        raise UsageError("name the job, or give a snapshot id with --at", next_step="backupctl snapshots")
    from backupctl.operations.browse import locate

    if origin is not None:
        repository = context.resources.repository(origin)
        snapshot = repository.load_snapshot(at)
    else:
        repository, snapshot = locate(context, at)
    return repository, snapshot, context.settings.jobs.get(SnapshotTags.of(snapshot).job), None


def _fingerprint(order: RestoreOrder) -> dict[str, Any]:
    if order.fallback is None:
        return fingerprint_of(order.repository, order.snapshot)
    return order.fallback.records(order.repository, order.snapshot, lambda holder, facts: facts)


def _narrow(order: RestoreOrder, only: str | None, rename: str) -> None:
    """--only PATH, or a part of a database; a PATH that is a source of databases, for all of them in one server."""
    if only is not None and is_part(only):
        chosen = choose_part(only, _fingerprint(order)["sources"], rename, order.snapshot.short_id)
        order.source, order.part, order.shown = chosen.source, chosen.part, chosen.shown
        order.path = f"{chosen.source}/{chosen.path}".rstrip("/").encode("utf-8", "surrogateescape")
        if not order.start_database and (rename or not chosen.is_file):
            what = "another name" if rename else chosen.shown
            raise UsageError(f"{what} needs a server to load it into", next_step=f"--only {only} --start-database")
        return
    order.path = (only or "").strip("/").encode("utf-8", "surrogateescape")
    if not order.start_database and not rename:
        return
    source = order.path.decode("utf-8", "surrogateescape")
    facts = _fingerprint(order)["sources"].get(source)
    if rename or facts is None or not databases_of(facts):
        raise UsageError(
            "--as needs one database, schema or table" if rename else "--start-database needs a database",
            next_step="--only db:NAME --start-database",
        )
    order.source, order.shown = source, f"every database of {source}"


def _refuse_filled(host: Host, order: RestoreOrder) -> None:
    path = order.target.directory.encode("utf-8", "surrogateescape")
    there = host.stat(path)
    if there is None:
        return
    if there.kind != "dir":
        raise UsageError(f"{order.target} is there and is no directory", next_step="choose another --into")
    if order.start_database:
        raise UsageError(
            f"{order.target} exists", next_step="name a directory that does not exist yet for a new server"
        )
    if not order.overwrite and host.list_directory(path):
        raise UsageError(
            f"{order.target} is not empty; nothing was restored",
            next_step="choose an empty directory, or say --overwrite to write among what is there",
        )


def _existing_parent(host: Host, directory: str) -> bytes:
    path = PurePosixPath(directory)
    while str(path) != path.root and host.stat(str(path).encode("utf-8", "surrogateescape")) is None:
        path = path.parent
    return str(path).encode("utf-8", "surrogateescape")
