"""What keeps a drill away from production, looked at before anything is written.

The staging host must not be a machine that is backed up, nor this one, unless the configuration says so in as many words; no
place in which a drill writes may hold a repository, the catalog or what a source reads; a server that a drill loads into must
keep its data below the drill's own directory and must not be the one that was saved. Machines and servers are known by what
each backup recorded of them, so that no drill needs to reach production to ask. The marker is asked by `hosts/staging`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backupctl.config.models import Settings
from backupctl.drills import reach_program
from backupctl.errors import CouldNotRunError
from backupctl.hosts.protocol import Host, HostFacts
from backupctl.sources.protocol import DatabaseSource, Fingerprint, Instance
from backupctl.sources.streams import program_text
from backupctl.storage.options import StorageOptions

DATA_DIRECTORY = {"postgresql": "SHOW data_directory", "mariadb": "SELECT @@datadir", "mysql": "SELECT @@datadir"}
IDENTIFIER = {"postgresql": "SELECT system_identifier::text FROM pg_control_system()"}
MAINTENANCE = {"postgresql": "template1", "mariadb": "mysql", "mysql": "mysql"}
REACH_SECONDS = 3  # that a connection may take to come through


@dataclass(frozen=True, slots=True)
class Production:
    """What must not be touched. `machines`: hash of the machine's id → the sources read there, in words; `paths`: local ones,
    with what each is; `nonce`: of the marker, as it was when the staging host was registered, "" when nobody remembers.
    `same_machine`: the staging host may be one of the machines, the configuration says so. `unreachable`: ADDRESS:PORT of what
    the staging host must not be able to connect to → what it is; None when the configuration does not ask for that."""

    machines: Mapping[str, str]
    paths: Mapping[bytes, str]
    nonce: str = ""
    same_machine: bool = False
    unreachable: Mapping[str, str] | None = None


def machine_hash(facts: HostFacts) -> str:
    """Tells machines apart without giving their id away, as machine-id(5) asks for; "" for a machine without one."""
    if not facts.machine_id:
        return ""
    return hashlib.sha256(b"backupctl machine " + facts.machine_id.encode()).hexdigest()


def nonce_hash(nonce: str) -> str:
    return hashlib.sha256(b"backupctl marker " + nonce.encode()).hexdigest()


def refuse_production(production: Production, host: Host, scratch: bytes, nonce: str, *, local: bool) -> list[str]:
    """What was looked at, in words. Raises CouldNotRunError when the staging host, or the directory on it, is production.
    `local`: the staging host is this machine, where the paths of production are."""
    again = f"if that is right, type `backupctl host register {host.name}`"
    if production.nonce and production.nonce != nonce_hash(nonce):
        raise CouldNotRunError(
            f"the marker of staging host {host.name} is not the one that was registered", next_step=again
        )
    looked = [f"marker of {host.name}: as registered" if production.nonce else f"marker of {host.name}: there"]
    machine = machine_hash(host.facts())
    if not machine:
        looked.append(f"machine of {host.name}: it has no machine-id, so it was not compared")
    elif machine in production.machines and not production.same_machine:
        raise CouldNotRunError(
            f"staging host {host.name} is the machine of {production.machines[machine]}",
            next_step=f"use a machine of its own, or say `same_machine: true` under host {host.name}",
        )
    elif machine in production.machines:
        looked.append(f"machine of {host.name}: that of {production.machines[machine]}, allowed by `same_machine`")
    else:
        looked.append(f"machine of {host.name}: none of {len(production.machines)} in production")
    if local:
        looked.append(refuse_paths(production.paths, scratch))
    if production.unreachable is not None:
        looked.append(refuse_reach(production.unreachable, host))
    return looked


def refuse_reach(unreachable: Mapping[str, str], host: Host) -> str:
    """In words, what was tried. Raises CouldNotRunError when a connection from the staging host comes through to one of them, or
    when that cannot be tried."""
    argv = ["python3", "-c", program_text(reach_program), str(REACH_SECONDS), *unreachable]
    done = host.run(argv, timeout=60 + REACH_SECONDS * (1 + len(unreachable) // 64))
    try:
        found = [str(place) for place in json.loads(done.stdout)] if done.returncode == 0 else None
    except ValueError:
        found = None
    if found is None:
        raise CouldNotRunError(
            f"what {host.name} reaches cannot be tried: {done.stderr.strip()[-200:]}",
            next_step=f"see that python3 runs there, or take `isolated` from host {host.name}",
        )
    if found:
        places = ", ".join(f"{unreachable.get(place, 'something')} ({place})" for place in found)
        raise CouldNotRunError(
            f"staging host {host.name} reaches production: {places}",
            next_step="drop what goes out from there to production, see docs/how-to/drill.md",
        )
    return f"network of {host.name}: no connection came through to any of {len(unreachable)} addresses of production"


def refuse_paths(paths: Mapping[bytes, str], scratch: bytes) -> str:
    """In words, what was looked at. Raises CouldNotRunError when `scratch` holds one of `paths`, or lies in one."""
    real = os.path.realpath(scratch)
    for path, what in paths.items():
        other = os.path.realpath(path)
        if _within(other, real) or (_within(real, other) and what.startswith("repository")):
            raise CouldNotRunError(
                f"the scratch directory {os.fsdecode(scratch)} overlaps {os.fsdecode(path)}, which is the {what}",
                next_step="give the staging host a scratch directory of its own",
            )
    return f"scratch directory: apart from {len(paths)} paths of production"


def source_paths(options: object) -> Iterator[bytes]:
    """Absolute paths that a source with these options reads."""
    several = [*(getattr(options, "paths", None) or ()), *(getattr(options, "trees", None) or ())]
    for path in [getattr(options, "path", None), *several]:
        if path and Path(str(path)).is_absolute():
            yield os.fsencode(str(path))


def refuse_places(own: Settings, real: Settings) -> None:
    """`own`: with the repositories that a drill writes to. Raises CouldNotRunError when one is a bucket or directory of
    production."""
    production = {_place(one.storage, real.base): name for name, one in real.repositories.items()}
    for name, one in own.repositories.items():
        if (found := production.get(_place(one.storage, own.base))) is not None:
            raise CouldNotRunError(
                f"the drill's repository {name} is in the place of repository {found}",
                next_step="report this: a scenario must never write there",
            )


def refuse_server(
    source: DatabaseSource, instance: Instance, directory: bytes, fingerprint: Fingerprint, *, same: bool = False
) -> list[str]:
    """In words, what was asked. Raises CouldNotRunError when the server that is about to be loaded keeps its data elsewhere
    than below `directory`, or is the one that `fingerprint` is of. `same`: its pages are those of that one."""

    def ask(statement: str) -> str:
        return source.query(instance, MAINTENANCE[source.kind], statement)[0][0]

    looked = []
    if source.kind in DATA_DIRECTORY:
        data = os.fsencode(ask(DATA_DIRECTORY[source.kind]))
        if not _within(os.path.normpath(data), directory):
            raise CouldNotRunError(
                f"the server that {source.name} would be loaded into keeps its data in {os.fsdecode(data)}",
                next_step="see which server listens in the drill's directory",
            )
        looked.append(f"server for {source.name}: its data is below the drill's directory")
    saved = str(fingerprint.get("system_identifier", ""))
    if source.kind in IDENTIFIER and saved and not same:
        if ask(IDENTIFIER[source.kind]) == saved:
            raise CouldNotRunError(
                f"the server that {source.name} would be loaded into is the one that was backed up",
                next_step="see which server listens in the drill's directory",
            )
        looked.append(f"server for {source.name}: another system identifier than the one in production")
    return looked


def machines_of(sources: Iterable[tuple[str, Iterable[Mapping[str, Any]]]]) -> dict[str, str]:
    """From (job, sources as the catalog has them): hash of machine → "JOB/SOURCE" of one source there."""
    found: dict[str, str] = {}
    for job, those in sources:
        for one in those:
            if machine := one.get("machine"):
                found.setdefault(str(machine), f"source {job}/{one['name']}")
    return found


class CeilingReached(BaseException):
    """The drill takes more room than it may. No Exception, so that nothing on the way takes it for an ordinary failure, and the
    backup for bad."""


class DiskCeiling:
    """Stops a drill that takes more room than it may, whatever was planned. `used` says how much its directory holds."""

    def __init__(self, limit: int | None, used: Callable[[], int]) -> None:
        self.limit, self._used = limit, used

    def restored(self, count: int) -> None:
        """Cheap: `count` bytes were written. Raises CeilingReached."""
        if self.limit is not None and count > self.limit:
            self._stop(count)

    def look(self) -> None:
        """Measures. Raises CeilingReached."""
        if self.limit is not None and (used := self._used()) > self.limit:
            self._stop(used)

    def _stop(self, used: int) -> None:
        raise CeilingReached(
            f"the drill took {used} bytes on its staging host, where it may take {self.limit}; next: raise max_disk of that host"
        )


def _place(options: StorageOptions, base: Path) -> tuple[str, ...]:
    """Buckets whole: what else is in one is no business of a drill."""
    if options.s3 is not None:
        return ("s3", options.s3.endpoint or "", options.s3.bucket)
    if options.local is not None:
        return ("local", os.path.realpath(base / options.local.path.expanduser()))
    return ("other", options.model_dump_json())


def _within(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory.rstrip(b"/") + b"/")
