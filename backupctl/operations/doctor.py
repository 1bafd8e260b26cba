"""Whether this machine, its hosts and its stores are in a state to work: looked at, never changed. What concerns the schedule is
`scheduling.tonight`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from backupctl import __version__
from backupctl.catalog.models import Notice
from backupctl.config.paths import absolute
from backupctl.errors import UserError
from backupctl.hosts import process
from backupctl.hosts.protocol import ASK_TIME, Host
from backupctl.hosts.secret import SecretRef
from backupctl.operations.context import Context
from backupctl.repository.cache import default_directory

Severity = Literal["ok", "info", "warning", "error"]

LIBRARIES = ("boto3", "cryptography", "paramiko", "pydantic", "sqlalchemy", "zstandard")
LITTLE_BYTES, TOO_LITTLE_BYTES = 1 << 30, 100 << 20
DRIFT_SECONDS, SKEW_SECONDS = 5.0, 300.0  # S3 refuses requests that are 15 minutes off; a timed recovery needs better
LOOKED_BACK = 500  # notices
OLDEST_FAR_PYTHON = (3, 6)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at. `area`: versions, clock, permissions, disk, secrets, channel, host, store,
    tonight."""

    area: str
    subject: str
    severity: Severity
    message: str
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class KnownBad:
    """A version with a defect that matters to backups; `since` ≤ version < `until`, but for `mended` ones."""

    program: str
    since: tuple[int, ...]
    until: tuple[int, ...]
    severity: Severity
    why: str
    next_step: str
    mended: tuple[tuple[int, ...], ...] = ()

    def is_it(self, version: str) -> bool:
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
        return self.since <= numbers < self.until and numbers not in self.mended


KNOWN_BAD = (
    KnownBad(
        *("SQLite", (3, 7, 0), (3, 51, 3), "info"),
        "can damage a database in WAL mode when two connections reset the log at once; the catalog uses no WAL and is safe",
        "an application that uses this library with WAL wants 3.51.3, 3.50.7 or 3.44.6",
        mended=((3, 50, 7), (3, 44, 6)),
    ),
    KnownBad(
        *("restic", (0, 0, 0), (0, 14, 0), "warning"),
        "cannot read repositories of version 2, which ours are: no second opinion, and no restore without us",
        "install restic 0.14 or newer where the recovery kit would be used",
    ),
    KnownBad(
        *("restic", (0, 16, 0), (0, 16, 4), "warning"),
        "could write damaged blobs with `--compression max`, and did not verify before uploading",
        "read what it wrote: `backupctl check --read-data`; install restic 0.16.4 or newer",
    ),
)


def examine(context: Context, *, far: bool = True) -> Iterator[Diagnosis]:
    """Everything, in the order in which it would be put right. Without `far`, no host and no store is asked."""
    yield from versions()
    yield synchronised()
    yield from permissions(context)
    yield from disk(context)
    yield from secrets(context)
    yield from channels(context)
    if far:
        for name in context.settings.hosts:
            yield from _guarded("host", name, partial(host, context, name))
        for name in context.settings.repositories:
            yield from _guarded("store", name, partial(store, context, name))


def _guarded(area: str, subject: str, look: Callable[[], Iterator[Diagnosis]]) -> Iterator[Diagnosis]:
    """What could not be asked is a finding as well, and keeps nothing else from being looked at."""
    try:
        yield from look()
    except UserError as error:
        yield Diagnosis(area, subject, "error", error.message, error.next_step)
    except OSError as error:
        yield Diagnosis(area, subject, "error", f"{error.filename or ''} {error.strerror or error}".strip())


def versions() -> Iterator[Diagnosis]:
    libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    yield Diagnosis("versions", "backupctl", "ok", f"{__version__} on Python {platform.python_version()}; {libraries}")
    yield from _judged("SQLite", sqlite3.sqlite_version)
    try:
        said = process.run(["restic", "version"], timeout=20)
    except UserError:
        return
    if said.returncode == 127:
        message = "not installed here: nobody could restore with it from this machine"
        yield Diagnosis("versions", "restic", "info", message, "apt-get install restic, on whatever machine is left")
    elif found := re.search(rb"restic (\d+\.\d+\.\d+)", said.stdout):
        yield from _judged("restic", found.group(1).decode())


def _judged(program: str, version: str) -> Iterator[Diagnosis]:
    bad = [one for one in KNOWN_BAD if one.program == program and one.is_it(version)]
    for one in bad:
        yield Diagnosis("versions", program, one.severity, f"{version}: {one.why}", one.next_step)
    if not bad:
        yield Diagnosis("versions", program, "ok", f"{version}, nothing bad is known of it")


def synchronised() -> Diagnosis:
    """Whether somebody keeps this machine's clock right, as systemd knows it."""
    try:
        said = process.run(["timedatectl", "show", "--property=NTPSynchronized", "--value"], timeout=20)
    except UserError:
        said = None
    word = said.stdout.strip() if said is not None and said.returncode == 0 else b""
    if word == b"yes":
        return Diagnosis("clock", "this machine", "ok", "follows a time server")
    if word == b"no":
        step = "timedatectl set-ntp true, or set up chrony"
        return Diagnosis("clock", "this machine", "warning", "follows no time server", step)
    return Diagnosis("clock", "this machine", "info", "whether it follows a time server is not known: no timedatectl")


def permissions(context: Context) -> Iterator[Diagnosis]:
    settings = context.settings
    files = [settings.path]
    for directory in (settings.jobs_dir, settings.hosts_dir):
        files += [directory, *sorted(directory.glob("*.yaml"))] if directory is not None else []
    for path in files:
        mode = path.stat().st_mode
        others = [who for who, bit in (("group", stat.S_IWGRP), ("others", stat.S_IWOTH)) if mode & bit]
        if others:
            who = " and ".join(others)
            message = f"{path} can be changed by {who}: who changes it decides what is backed up, and runs commands"
            yield Diagnosis("permissions", path.name, "error", message, f"chmod go-w {path}")
    directories = {"reports": settings.reports.directory, **_catalog(context), **_cache(context)}
    for name, directory in directories.items():
        nearest = _existing(directory)
        if not os.access(nearest, os.W_OK | os.X_OK):
            message = f"{directory} cannot be written by {process_user()}"
            yield Diagnosis("permissions", name, "error", message, f"chown it, or run as its owner: ls -ld {nearest}")
        else:
            yield Diagnosis("permissions", name, "ok", f"{directory} can be written")


def process_user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


def _catalog(context: Context) -> dict[str, Path]:
    url = context.settings.catalog
    return {"catalog": Path(url.removeprefix("sqlite:///")).parent} if url.startswith("sqlite:///") else {}


def _cache(context: Context) -> dict[str, Path]:
    settings = context.settings
    if settings.cache is None:
        return {}
    try:
        return {"cache": absolute(settings.cache.directory or default_directory(), settings.base)}
    except RuntimeError:
        return {}


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def disk(context: Context) -> Iterator[Diagnosis]:
    """Here, and where a repository is a local directory: less than what the last run of its jobs stored is not enough."""
    settings = context.settings
    places = {**_catalog(context), **_cache(context), "reports": settings.reports.directory}
    for name, directory in places.items():
        yield _room("disk", name, directory, shutil.disk_usage(_existing(directory)).free, 0)
    for name, repository in settings.repositories.items():
        if repository.storage.local is None:
            continue
        directory = settings.base / repository.storage.local.path.expanduser()
        jobs = [job.job for job in settings.jobs.values() if name in (job.repository, *job.copies)]
        runs = [run for job in jobs for run in context.catalog.runs(kind="backup", name=job, limit=1)]
        needed = sum(run.summary.get("stored_bytes", 0) for run in runs)
        free = shutil.disk_usage(_existing(directory)).free
        yield _room("disk", f"repository {name}", directory, free, needed, "the last runs stored")


def _room(area: str, subject: str, directory: Path | str, free: int, needed: int, what: str = "") -> Diagnosis:
    text = f"{directory} has {_size(free)} free"
    if needed:
        text += f"; {what} {_size(needed)}"
    if free < max(TOO_LITTLE_BYTES, needed):
        return Diagnosis(area, subject, "error", text, f"free some space: df -h {directory}")
    if free < max(LITTLE_BYTES, 3 * needed):
        return Diagnosis(area, subject, "warning", text, f"free some space: df -h {directory}")
    return Diagnosis(area, subject, "ok", text)


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def secrets(context: Context) -> Iterator[Diagnosis]:
    """Every reference in the configuration, fetched once; never shown."""
    found = 0
    for where, reference in _references(context.settings, ""):
        try:
            context.resources.secret(reference)
            found += 1
        except UserError as error:
            # one for `--read-only` elsewhere is of no use, and no harm, here
            severity: Severity = "info" if where.endswith("read_credentials") else "error"
            yield Diagnosis("secrets", where, severity, error.message, error.next_step)
    yield Diagnosis("secrets", "readable", "ok", f"{found} of those that the configuration names")


def _references(value: object, where: str) -> Iterator[tuple[str, SecretRef]]:
    if isinstance(value, SecretRef):
        yield where, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _references(getattr(value, name), f"{where}.{name}" if where else name)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _references(item, f"{where}.{name}" if where else str(name))


def channels(context: Context) -> Iterator[Diagnosis]:
    """Whether the last notices arrived: nobody is told of a channel that tells nobody."""
    rows: dict[tuple[str, str], list[Notice]] = {}
    for row in context.catalog.notices(limit=LOOKED_BACK):
        if row.attempts and row.channel in context.settings.notify and row.event.get("kind") != "test":
            rows.setdefault((row.channel, row.kind), []).append(row)
    for (channel, way), newest_first in sorted(rows.items()):
        lost = list(takewhile(lambda row: bool(row.error), newest_first))
        if lost:
            given_up = sum(row.state == "failed" for row in lost)
            which = f"the last {len(lost)} notices" if lost[1:] else "the last notice"
            tried = f", {given_up} of them given up" if given_up else ""
            message = f"{way}: {which} did not arrive{tried}: {lost[0].error}"
            severity: Severity = "error" if given_up else "warning"
            yield Diagnosis("channel", channel, severity, message, f"backupctl notify test {channel}")


def host(context: Context, name: str) -> Iterator[Diagnosis]:
    options, found = context.settings.hosts[name], context.resources.host(name)
    facts = found.facts()
    version = tuple(int(part) for part in facts.python.split(".")[:2] if part.isdigit())
    text = f"{facts.hostname}, {facts.system}, Python {facts.python}, as {facts.user}"
    if version < OLDEST_FAR_PYTHON:
        yield Diagnosis("host", name, "error", f"{text}: its Python is older than 3.6", f"install python3 on {name}")
    else:
        yield Diagnosis("host", name, "ok", text)
    if options.ssh is not None:
        yield _clock(context, name, found)
    if options.scratch is not None:
        free = found.free_bytes(str(options.scratch).encode())
        jobs = [job for job in context.settings.jobs.values() if any(one.on == name for one in job.drills.values())]
        sizes = [
            row.bytes for job in jobs for row in context.catalog.snapshots(job=job.job, repository=job.repository)[:1]
        ]
        yield _room(
            "host", f"{name} scratch", str(options.scratch), free, max(sizes, default=0), "the largest snapshot holds"
        )


def _clock(context: Context, name: str, found: Host) -> Diagnosis:
    before, started = context.clock.now(), context.clock.monotonic()
    said = found.run([found.python, "-c", ASK_TIME], check=True)
    way = (context.clock.monotonic() - started) / 2  # it answered somewhere in between
    there = datetime.fromtimestamp(float(said.stdout), UTC)
    return judge_clock(name, (there - before).total_seconds() - way, way)


def judge_clock(subject: str, offset: float, uncertain: float) -> Diagnosis:
    """`offset`: how far that clock is ahead of ours, in seconds."""
    text = (
        f"{abs(offset):.1f} s {'ahead of' if offset > 0 else 'behind'} this machine's, give or take {uncertain:.1f} s"
    )
    beyond = abs(offset) - uncertain
    if beyond > SKEW_SECONDS:
        return Diagnosis("clock", subject, "error", text, "set the one that is wrong: timedatectl, chronyc tracking")
    if beyond > DRIFT_SECONDS:
        return Diagnosis(
            "clock", subject, "warning", text, "let both follow the same time: timedatectl, chronyc tracking"
        )
    return Diagnosis("clock", subject, "ok", text)


def store(context: Context, name: str) -> Iterator[Diagnosis]:
    before = context.clock.now()
    found = context.resources.store(name).inspect()
    if found.server_time is not None:
        way = (context.clock.now() - before).total_seconds()
        middle = before.timestamp() + way / 2
        yield judge_clock(name, found.server_time.timestamp() + 0.5 - middle, 0.5 + way / 2)  # it tells whole seconds
    for one in found.postures:
        yield Diagnosis("store", f"{name}: {one.what}", one.severity, one.outcome, one.next_step)
    repository = context.resources.repository(name)
    count = len(repository.snapshots())
    yield Diagnosis(
        "store", name, "ok", f"{repository.store.location}: reached, the password opens it, snapshots: {count}"
    )
    yield from _locks(context, name)


def _locks(context: Context, name: str) -> Iterator[Diagnosis]:
    for lock in context.resources.repository(name).list_locks():
        age = (context.clock.now() - lock.time).total_seconds()
        who = f"{lock.username}@{lock.hostname} pid {lock.pid}"
        if lock.exclusive or age > 30 * 60:
            kind = "exclusively locked" if lock.exclusive else "locked"
            message = f"{kind} by {who} for {age / 60:.0f} min"
            yield Diagnosis("store", name, "warning", message, f"backupctl storage locks {name}")
