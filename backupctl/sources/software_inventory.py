"""What is installed and set up on a host: read with the host's own programs and files, without network, changing nothing.

Each section is `{"items": {name: value}}`, or `{"not_performed": why}` when the host has no way to tell. Never an empty list
for something that could not be looked at. Passwords and their hashes are left out where they stand in fixed places.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from backupctl.clock import iso
from backupctl.errors import DamageError, UnreachableError, UserError
from backupctl.hosts.process import TimedOutError
from backupctl.hosts.protocol import Completed, FileInfo, Host
from backupctl.repository.format.names import display_name

Section = dict[str, Any]
Inventory = dict[str, Section]

SECONDS = 300.0
QUERY_SECONDS = 15.0
READ_BYTES = 1 << 20
CRON_PATHS = (
    *(b"/etc/crontab", b"/etc/anacrontab", b"/etc/cron.d", b"/etc/cron.hourly", b"/etc/cron.daily"),
    *(b"/etc/cron.weekly", b"/etc/cron.monthly", b"/var/spool/cron"),
)
LISTS = (b"/var/lib/apt/lists", b"/var/cache/dnf")
UNAME = (("architecture", ("uname", "-m")), ("kernel_build", ("uname", "-v")))
DEBIAN_PACKAGES = ("dpkg-query", "-W", "-f", "${binary:Package}\\t${Version}\\t${db:Status-Abbrev}\\n")
RED_HAT_PACKAGES = ("rpm", "-qa", "--qf", "%{NAME}.%{ARCH}\\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\\n")
REQUESTED = ("apt-mark", "showmanual")
ENABLED = ("systemctl", "list-unit-files", "--state=enabled", "--no-legend", "--no-pager", "--full")
DEBIAN_UPDATES = ("apt-get", "-s", "-o", "Debug::NoLocking=1", "dist-upgrade")
RED_HAT_UPDATES = ("dnf", "-C", "-q", "updateinfo", "list", "--security")
PSQL = ("psql", "-XAtw")
SERVER_VERSION = "SHOW server_version"
DATABASES = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1"
EXTENSIONS = "SELECT extname || ' ' || extversion FROM pg_extension ORDER BY 1"
MARIADB = ("mariadb", "-N", "-B", "-e")
PLUGINS = (
    "SELECT 'server', VERSION() UNION ALL SELECT CONCAT('plugin ', plugin_name), plugin_version"
    " FROM information_schema.plugins WHERE plugin_library IS NOT NULL AND plugin_status = 'ACTIVE'"
)
READING_COMMANDS = (
    *(argv for _name, argv in UNAME),
    *(DEBIAN_PACKAGES, RED_HAT_PACKAGES, REQUESTED, ENABLED, DEBIAN_UPDATES, RED_HAT_UPDATES),
    ("apt-get", "--version"),
    (*MARIADB, PLUGINS),
)
"""What is run on the host with the same arguments each time."""
SERVER_PROGRAMS = ("postgres", "mariadbd", "mysqld", "redis-server", "valkey-server", "mongod")


class NotPerformed(Exception):
    """This host has no way to tell; the message says why."""


def gather(host: Host, trees: Sequence[str] = (), exclude: Sequence[str] = ()) -> Inventory:
    """Every section. Raises UnreachableError when the host is gone; anything else is a section that was not performed."""
    readers: dict[str, Callable[[], dict[str, str]]] = {
        "system": lambda: _system(host),
        "packages": lambda: {name: version for name, version, _ in _packages(host)},
        "held_packages": lambda: {name: version for name, version, held in _packages(host, holds=True) if held},
        "requested_packages": lambda: _requested(host),
        "services": lambda: _units(host, timers=False),
        "timers": lambda: _units(host, timers=True),
        "users": lambda: _accounts(host, b"/etc/passwd", 7),
        "groups": lambda: _accounts(host, b"/etc/group", 4),
        "crontabs": lambda: _files(host, CRON_PATHS, ()),
        "database_programs": lambda: _programs(host),
        "postgresql": lambda: _postgresql(host),
        "mariadb": lambda: _mariadb(host),
        "security_updates": lambda: _security_updates(host),
    }
    if trees:
        readers["configuration"] = lambda: _files(host, [os.fsencode(tree) for tree in trees], exclude)
    found = {name: _section(read) for name, read in readers.items()}
    if "items" in found["security_updates"]:
        found["security_updates"]["as_of"] = _lists_time(host)
    return found


def _section(read: Callable[[], dict[str, str]]) -> Section:
    try:
        return {"items": read()}
    except UnreachableError:
        raise
    except (NotPerformed, OSError) as error:
        return {"not_performed": str(error)}
    except UserError as error:
        return {"not_performed": error.message}


def _run(host: Host, *argv: str, seconds: float = SECONDS) -> Completed:
    try:
        completed = host.run(argv, timeout=seconds)
    except TimedOutError as error:
        raise NotPerformed(f"{argv[0]} did not answer in {seconds:g} s") from error
    if completed.returncode == 127:
        raise NotPerformed(f"{argv[0]} is not there")
    if completed.returncode != 0:
        said = completed.stderr.strip().splitlines()
        raise NotPerformed(
            f"{argv[0]} ended with exit status {completed.returncode}" + (f": {said[-1]}" if said else "")
        )
    return completed


def _lines(completed: Completed) -> list[str]:
    return completed.stdout.decode("utf-8", "backslashreplace").splitlines()


def _system(host: Host) -> dict[str, str]:
    facts = host.facts()
    items = {"hostname": facts.hostname, "system": facts.system, "kernel": facts.kernel}
    for name, argv in UNAME:
        items[name] = _run(host, *argv).stdout.decode().strip()
    return items


def _packages(host: Host, *, holds: bool = False) -> Iterator[tuple[str, str, bool]]:
    """(name, version, whether it is held)."""
    debian = host.run(DEBIAN_PACKAGES, timeout=SECONDS)
    if debian.returncode == 0:
        for line in _lines(debian):
            name, version, status = line.split("\t")
            if status[1:2] == "i":
                yield name, version, status[0] == "h"
        return
    if holds:
        raise NotPerformed("dpkg-query is not there, and holds are read from it alone")
    red_hat = host.run(RED_HAT_PACKAGES, timeout=SECONDS)
    if red_hat.returncode == 0:
        versions: dict[str, list[str]] = {}  # kernels are installed beside each other
        for line in _lines(red_hat):
            name, version = line.split("\t")
            versions.setdefault(name, []).append(version.removeprefix("0:"))
        yield from ((name, " ".join(sorted(found)), False) for name, found in versions.items())
        return
    raise NotPerformed("neither dpkg-query nor rpm lists packages here")


def _requested(host: Host) -> dict[str, str]:
    """What a person asked for, as opposed to what came along."""
    return dict.fromkeys(_lines(_run(host, *REQUESTED)), "requested")


def _units(host: Host, *, timers: bool) -> dict[str, str]:
    listed = _lines(_run(host, *ENABLED))
    units = [line.split()[0] for line in listed if line.strip()]
    return {unit: "enabled" for unit in units if unit.endswith(".timer") == timers}


def _accounts(host: Host, path: bytes, fields: int) -> dict[str, str]:
    """Name → all fields but the name and the password."""
    items = {}
    for line in _read(host, path).decode("utf-8", "backslashreplace").splitlines():
        parts = line.split(":")
        if len(parts) == fields and not line.startswith("#"):
            items[parts[0]] = ":".join(parts[2:])
    return items


def _read(host: Host, path: bytes) -> bytes:
    try:
        with host.open_read(path) as file:
            return b"".join(iter(lambda: file.read(READ_BYTES), b""))
    except FileNotFoundError:
        raise NotPerformed(f"{os.fsdecode(path)} is not there") from None


def _files(host: Host, roots: Sequence[bytes], exclude: Sequence[str]) -> dict[str, str]:
    """Path → mode, owner and content (or target) of everything below `roots`; a root that is not there is left out."""
    items = {}
    for root in roots:
        if host.stat(root) is None:
            continue
        for info in host.scan(root, exclude=exclude):
            items[display_name(info.path)] = _describe(host, info)
    if not items:
        raise NotPerformed(f"none of {', '.join(map(os.fsdecode, roots))} is there")
    return items


def _describe(host: Host, info: FileInfo) -> str:
    if info.error:
        return f"not performed: {info.error}"
    text = f"{info.kind} {info.mode:04o} {info.user or info.uid}:{info.group or info.gid}"
    if info.kind == "symlink":
        return f"{text} -> {display_name(info.linktarget)}"
    if info.kind != "file":
        return text
    digest = sha256()
    try:
        with host.open_read(info.path) as file:
            while data := file.read(READ_BYTES):
                digest.update(data)
    except OSError as error:
        return f"{text} not performed: {error.strerror or error}"
    return f"{text} {digest.hexdigest()}"


def _programs(host: Host) -> dict[str, str]:
    """Server programs and what they call themselves. Those of PostgreSQL lie beside each other by major version."""
    items = {}
    candidates = list(SERVER_PROGRAMS)
    for base in (b"/usr/lib/postgresql", b"/usr"):
        if host.stat(base) is not None:
            names = [name.decode() for name in host.list_directory(base) if re.fullmatch(rb"(pgsql-)?\d+", name)]
            candidates += [f"{base.decode()}/{name}/bin/postgres" for name in names]
    for program in candidates:
        completed = host.run([program, "--version"], timeout=QUERY_SECONDS)
        if completed.returncode == 0:
            items[program] = completed.stdout.decode("utf-8", "replace").strip()
    if not items:
        raise NotPerformed(f"none of {', '.join(SERVER_PROGRAMS)} answers here")
    return items


def _postgresql(host: Host) -> dict[str, str]:
    """What the server at the client's default place says to whom we are; no password is used."""

    def ask(database: str, sql: str) -> list[str]:
        return _lines(_run(host, *PSQL, "-d", f"dbname={database}", "-c", sql, seconds=QUERY_SECONDS))

    items = {"server": ask("postgres", SERVER_VERSION)[0]}
    for database in ask("postgres", DATABASES):
        quoted = "'" + database.replace("\\", "\\\\").replace("'", "\\'") + "'"
        for line in ask(quoted, EXTENSIONS):
            name, _, version = line.rpartition(" ")
            items[f"{database}: extension {name}"] = version
    return items


def _mariadb(host: Host) -> dict[str, str]:
    listed = _lines(_run(host, *MARIADB, PLUGINS, seconds=QUERY_SECONDS))
    return dict(line.split("\t", 1) for line in listed)


def _security_updates(host: Host) -> dict[str, str]:
    """Package → the version that waits, as far as the lists that lie on the host know."""
    if host.run(["apt-get", "--version"], timeout=QUERY_SECONDS).returncode == 0:
        known = host.list_directory(LISTS[0]) if host.stat(LISTS[0]) is not None else []
        if not any(name.endswith((b"_InRelease", b"_Release")) for name in known):
            raise NotPerformed("apt has no package lists here: run `apt-get update`")
        simulated = _lines(_run(host, *DEBIAN_UPDATES))
        waiting = [re.match(r"Inst (\S+) (?:\[\S+\] )?\((\S+) ([^)]*)\)", line) for line in simulated]
        return {one[1]: one[2] for one in waiting if one and "security" in one[3].lower()}
    red_hat = host.run(RED_HAT_UPDATES, timeout=SECONDS)
    if red_hat.returncode == 0:
        rows = [line.split() for line in _lines(red_hat)]
        return {row[-1]: row[0] for row in rows if len(row) >= 3}
    raise NotPerformed("neither apt-get nor dnf tells from what lies on the host")


def _lists_time(host: Host) -> str:
    """When the package lists were last fetched: what waits is known as of then."""
    times = [info.mtime_ns for root in LISTS if (info := host.stat(root)) is not None]
    return iso(datetime.fromtimestamp(max(times) / 1e9, tz=UTC)) if times else "unknown"


def canonical(section: Section) -> bytes:
    """The same facts are the same bytes."""
    return json.dumps(section, sort_keys=True, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def digests(inventory: Inventory) -> dict[str, Section]:
    """Per section its SHA-256 and the number of its items, or why there are none."""
    return {
        name: {"sha256": sha256(canonical(section)).hexdigest(), "items": len(section["items"])}
        if "items" in section
        else dict(section)
        for name, section in inventory.items()
    }


@dataclass(frozen=True, slots=True)
class SectionDifference:
    """What a host has in one section against an inventory. `not_performed`: nothing could be said, and why. `differs` also
    when the inventory knows what the host cannot tell."""

    section: str
    added: Mapping[str, str]
    removed: Mapping[str, str]
    changed: Mapping[str, tuple[str, str]]
    not_performed: str = ""
    differs: bool = False

    @property
    def summary(self) -> str:
        if self.not_performed:
            return f"not performed: {self.not_performed}"
        if not self.differs:
            return "no difference"
        return f"{len(self.added)} added, {len(self.removed)} removed, {len(self.changed)} changed"

    def lines(self) -> list[str]:
        """+ added, - removed, ~ changed, in the order of names."""
        found = [(name, f"+ {name} {value}") for name, value in self.added.items()]
        found += [(name, f"- {name} {value}") for name, value in self.removed.items()]
        found += [(name, f"~ {name} {old} → {new}") for name, (old, new) in self.changed.items()]
        return [text for _, text in sorted(found)]


def compare_inventories(old: Inventory, new: Inventory) -> list[SectionDifference]:
    """One result for each section of either side, in the order of `new`."""
    return [_compare(name, old.get(name), new.get(name)) for name in dict.fromkeys([*new, *old])]


def _compare(name: str, old: Section | None, new: Section | None) -> SectionDifference:
    for side, section in (("inventory", old), ("host", new)):
        if section is None or "items" not in section:
            why = section["not_performed"] if section else "it has no such section"
            return SectionDifference(name, {}, {}, {}, f"{side}: {why}", differs=side == "host")
    assert old is not None and new is not None
    before, now = old["items"], new["items"]
    added = {key: now[key] for key in sorted(now.keys() - before.keys())}
    removed = {key: before[key] for key in sorted(before.keys() - now.keys())}
    both = sorted(now.keys() & before.keys())
    changed = {key: (before[key], now[key]) for key in both if now[key] != before[key]}
    return SectionDifference(name, added, removed, changed, differs=bool(added or removed or changed))


def parse_section(name: str, data: bytes) -> Section:
    """The inverse of `canonical`. Raises DamageError."""
    try:
        section: Section = json.loads(data)
        if "not_performed" not in section and not isinstance(section["items"], dict):
            raise TypeError("items")
    except (ValueError, KeyError, TypeError) as error:
        raise DamageError(f"inventory section {name} is malformed: {error!r}", name=name) from None
    return section
