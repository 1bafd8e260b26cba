"""What is on the hosts and in no job: databases, database servers, directories, whole hosts. Asked of the hosts themselves, so it
needs their logins; the repositories cannot know what was never told to them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from backupctl.config.models import LOCAL, Job
from backupctl.errors import UserError
from backupctl.hosts.protocol import Host
from backupctl.operations.context import Context
from backupctl.sources.discovery import Discovering, Reached, RunningServer, running_servers

MOST = 50  # of one host; who has more has another problem


@dataclass(frozen=True, slots=True)
class Unprotected:
    """`kind`: directory, file, database kinds such as postgresql, or host. `name`: its path, its database, `server`."""

    host: str
    kind: str
    name: str
    message: str

    @property
    def key(self) -> str:
        """As `coverage.accepted` names it."""
        if self.kind == "host":
            return f"{self.host}:host"
        return f"{self.host}:{self.name}" if self.name.startswith("/") else f"{self.host}:{self.kind}:{self.name}"


@dataclass(slots=True)
class Coverage:
    """`unknown`: (host, why) of what could not be asked; nothing is said of that."""

    hosts: list[str] = field(default_factory=list)
    unprotected: list[Unprotected] = field(default_factory=list)
    accepted: int = 0
    unknown: list[tuple[str, str]] = field(default_factory=list)


def look_around(context: Context) -> Coverage:
    """Every host that a job names, and every configured one that is no staging host."""
    jobs = list(context.settings.jobs.values())
    used = {source.host for job in jobs for source in job.sources.values()}
    warm = {one.host for one in context.settings.standby.values()}  # they hold what is backed up elsewhere
    patterns = context.settings.coverage.accepted
    found = Coverage()
    for name, options in context.settings.hosts.items():
        if name not in used and (name == LOCAL or options.role == "staging"):
            continue
        found.hosts.append(name)
        if name not in used | warm:
            here = [Unprotected(name, "host", "host", "no job backs up anything of it")]
        else:
            here = []
            try:
                host = context.resources.host(name)
                here += _databases(context, jobs, host, found)
                here += _directories(context, jobs, host)
            except (UserError, OSError) as error:
                found.unknown.append((name, getattr(error, "message", str(error))))
        accepted = [one for one in here if any(fnmatchcase(one.key, pattern) for pattern in patterns)]
        found.accepted += len(accepted)
        found.unprotected += [one for one in here if one not in accepted]
    return found


def _databases(context: Context, jobs: list[Job], host: Host, found: Coverage) -> list[Unprotected]:
    """Databases that no source takes, of servers that some source reaches; and servers that none does."""
    reached: list[Reached] = []
    silent: list[str] = []  # kinds of which a source could not be asked
    for job in jobs:
        for name, settings in job.sources.items():
            source = context.resources.source(job, name) if settings.host == host.name else None
            if not isinstance(source, Discovering):
                continue
            try:
                reached.append(source.discover(host))
            except UserError as error:
                silent.append(settings.kind)
                found.unknown.append((host.name, f"source {name} of {job.job}: {error.message}"))
    bare = list(_bare_databases(host.name, reached))
    running = [one for one in running_servers(host) if not _is_warm(context, host.name, one)]
    for kind in sorted({one.kind for one in running}):
        left = _left(kind, running, reached)
        # a source that did not answer may be for any of them: nothing is known then
        if left and kind not in silent:
            message = "a database server runs, and no job reaches it"
            bare += [Unprotected(host.name, kind, "server", f"{message}: {one.words}") for one in left]
    return bare


def _is_warm(context: Context, host: str, server: RunningServer) -> bool:
    """A standby's own server: a copy of one that is backed up."""
    directories = [one.directory.rstrip("/") for one in context.settings.standby.values() if one.host == host]
    return any(server.directory.startswith(f"{one}/") for one in directories)


def _bare_databases(host: str, reached: list[Reached]) -> Iterator[Unprotected]:
    servers: dict[tuple[str, str, str], list[Reached]] = {}
    for one in reached:
        servers.setdefault((one.kind, one.port, one.pid), []).append(one)
    for (kind, port, _), same in servers.items():
        known = {name for one in same for name in one.protected}
        for name in sorted({name for one in same for name in one.databases} - known):
            yield Unprotected(host, kind, name, f"the database {name} of the server at port {port} is in no job")


def _left(kind: str, running: list[RunningServer], reached: list[Reached]) -> list[RunningServer]:
    """Servers that no source reaches. One that tells neither its directory nor its port is taken for one of those that are
    reached and that no process was found for."""
    mine = [one for one in reached if one.kind == kind]
    servers = [one for one in running if one.kind == kind]
    left = [one for one in servers if not any(each.is_same(one) for each in mine)]
    unplaced = {(one.port, one.pid) for one in mine if not any(one.is_same(server) for server in servers)}
    mute = [one for one in left if not one.port][: len(unplaced)]
    return [one for one in left if one not in mute]


def _directories(context: Context, jobs: list[Job], host: Host) -> list[Unprotected]:
    covered = [posixpath.normpath(one) for one in _own(context, host.name)]
    for job in jobs:
        for name, settings in job.sources.items():
            if settings.host == host.name:
                covered += _paths(job, name)
    found: list[Unprotected] = []
    for pattern in context.settings.coverage.directories:
        for path in _matching(host, pattern):
            for kind, bare in _bare(host, path, covered):
                if len(found) == MOST:
                    return found
                found.append(Unprotected(host.name, kind, bare, f"{bare} is in no job"))
    return found


def _own(context: Context, host: str) -> Iterator[str]:
    """What backupctl itself keeps there: standbys, repositories, scratch directories."""
    settings = context.settings
    yield from (one.directory for one in settings.standby.values() if one.host == host)
    if host == LOCAL or settings.hosts[host].local is not None:
        for repository in settings.repositories.values():
            if repository.storage.local is not None:
                yield str(settings.base / repository.storage.local.path.expanduser())
    for other in settings.hosts.values():
        same = other.ssh == settings.hosts[host].ssh
        if same and other.scratch:
            yield str(other.scratch)


def _paths(job: Job, name: str) -> list[str]:
    """What the source takes of the file system, and what it leaves out on purpose."""
    options = job.sources[name].options
    found = [*getattr(options, "paths", []), *getattr(options, "trees", [])]
    found += [options.path] if getattr(options, "path", None) else []  # type: ignore[attr-defined]  # a kind's own field
    return found + [one for one in getattr(options, "exclude", []) if one.startswith("/")]


def _matching(host: Host, pattern: str) -> Iterator[str]:
    """Directories that hold something."""
    paths = [""]
    for part in pattern.strip("/").split("/"):
        paths = [f"{path}/{name}" for path in paths for name in _names(host, path or "/", part)]
    for path in paths:
        info = host.stat(path.encode("utf-8", "surrogateescape"))
        if info is not None and info.kind == "dir" and _list(host, path):
            yield path


def _names(host: Host, directory: str, part: str) -> list[str]:
    if "*" not in part:
        return [part]
    return [name for name in _list(host, directory) if fnmatchcase(name, part)]


def _list(host: Host, directory: str) -> list[str]:
    try:
        names = host.list_directory(directory.encode("utf-8", "surrogateescape"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [name.decode("utf-8", "surrogateescape") for name in names]


def _bare(host: Host, path: str, covered: list[str]) -> Iterator[tuple[str, str]]:
    """`path`, or what of it is not covered where a job takes a part of it only."""
    if any(path == one or path.startswith(f"{one.rstrip('/')}/") or fnmatchcase(path, one) for one in covered):
        return
    info = host.stat(path.encode("utf-8", "surrogateescape"))
    if info is None or info.kind not in ("dir", "file"):
        return
    if info.kind == "dir" and any(one.startswith(f"{path}/") for one in covered):
        for name in _list(host, path):
            yield from _bare(host, f"{path}/{name}", covered)
    elif info.kind == "file" or _list(host, path):
        yield "directory" if info.kind == "dir" else "file", path
