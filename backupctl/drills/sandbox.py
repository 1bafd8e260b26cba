"""The private directory of one drill on its staging host: made behind interlocks, taken away, and seen to be gone.

<scratch>/drill-<id>/
    state/owner.json    who runs the drill and until when
    state/pid-<pid>     a server: its start time
    state/place-<n>     a directory elsewhere that the drill uses, such as the one of a server's socket
    files/<source>/…    restored files
    db<n>/              one throw-away instance each
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from backupctl.clock import Clock, iso, parse_iso
from backupctl.drills import processes
from backupctl.drills.interlocks import Production, refuse_production
from backupctl.drills.model import Cleanup
from backupctl.drills.verdict import explain
from backupctl.errors import CouldNotRunError, InterruptedRunError, UserError
from backupctl.hosts import identity
from backupctl.hosts.local import LocalHost
from backupctl.hosts.protocol import Host
from backupctl.hosts.staging import require_marker
from backupctl.sources.protocol import Instance

PREFIX = b"drill-"
UNSIGNED_LEFTOVER_AGE = timedelta(hours=1)
"""A drill directory without an owner file is left alone this long: another drill may be making it right now."""


@dataclass(slots=True)
class Sandbox:
    host: Host
    directory: bytes
    pids: dict[str, str] = field(default_factory=dict)  # pid → start time
    listened: list[str] = field(default_factory=list)  # of those who were ended, see `processes`
    looked: list[str] = field(default_factory=list)  # which interlocks were tried, in words
    places: list[bytes] = field(default_factory=list)  # directories of the drill outside its own

    @property
    def files(self) -> bytes:
        return self.directory + b"/files"

    def files_of(self, source: str) -> bytes:
        return self.files + b"/" + os.fsencode(source)

    def instance(self, number: int) -> bytes:
        """Short, because the path of a Unix socket ends at 107 bytes."""
        return self.directory + b"/db%d" % number

    def record(self, instance: Instance) -> None:
        """Remember a server of this drill, so that it can be ended even when this program dies first."""
        start = processes.start_time(self.host, instance.pid) if instance.pid > 0 else ""
        if start and str(instance.pid) not in self.pids:
            self.pids[str(instance.pid)] = start
            _write(self.host, self.directory + b"/state/pid-%d" % instance.pid, start.encode())
        sockets = instance.connection.get("sockets")
        if sockets and os.fsencode(sockets) not in self.places:
            self.places.append(os.fsencode(sockets))
            _write(self.host, self.directory + b"/state/place-%d" % len(self.places), self.places[-1])

    def used_bytes(self) -> int:
        """What the drill's directory takes on disk."""
        done = self.host.run(["du", "-s", "--block-size=1", os.fsdecode(self.directory)], timeout=600)
        found = done.stdout.split()
        if (
            not found or not found[0].isdigit()
        ):  # files that go away meanwhile make du fail, and still it counts the rest
            raise CouldNotRunError(
                f"what {self} takes cannot be measured: {done.stderr.strip()[-200:]}",
                next_step="see that `du` runs there",
            )
        return int(found[0])

    def clean(self) -> Cleanup:
        """End every process of the drill, remove its directory, and look again. Never raises for a host that fails:
        then nothing is proved, and the facts say why."""
        facts: list[str] = []
        try:
            found = processes.end(self.host, self._directories, self.pids)
            self.listened = found.listened
            if found.ended:
                facts.append(f"ended {', '.join(found.ended)}")
            if found.listened:
                ports = ", ".join(one.partition(" ")[2] for one in found.listened)
                facts.append(f"they had listened on {ports}")
            for directory in (*self.places, self.directory):  # the one that remembers the others goes last
                self.host.remove_tree(directory)
            return self.prove(facts)
        except InterruptedRunError:
            raise
        except (UserError, OSError) as error:
            return Cleanup(False, [*facts, f"clean-up of {self} did not finish: {explain(error)}"])

    def prove(self, facts: Iterable[str] = ()) -> Cleanup:
        """Look, change nothing: is the directory gone, is no process of the drill alive, does no socket listen?"""
        left = processes.find(self.host, self._directories, self.pids, self.listened)
        there = [_shown(directory) for directory in self._directories if self.host.stat(directory) is not None]
        where = f"on host {self.host.name}"
        return Cleanup(
            not there and not left.living and not left.sockets,
            [
                *facts,
                f"directories of the drill {where}: {', '.join(there) or f'none, {self} is gone'}",
                f"processes of the drill {where}: {', '.join(left.living) or 'none'}",
                f"listening sockets of the drill {where}: {', '.join(left.sockets) or 'none'}",
            ],
        )

    def __str__(self) -> str:
        return _shown(self.directory)

    @property
    def _directories(self) -> list[bytes]:
        return [self.directory, *self.places]


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def create(
    host: Host,
    scratch: bytes,
    drill_id: str,
    *,
    planned_bytes: int,
    max_disk: int | None,
    protected: Iterable[bytes],
    expires: datetime,
    production: Production | None = None,
) -> Sandbox:
    """Refuses (CouldNotRunError) without the registered marker, on a machine or path of `production`, over a `protected` path
    (what a source reads), with too little room for `planned_bytes`, or when the directory exists already."""
    marker = require_marker(host, scratch, host.name)
    looked = [f"marker of {host.name}: there"]
    if production is not None:
        looked = refuse_production(production, host, scratch, marker.nonce, local=isinstance(host, LocalHost))
    refuse_protected(host, scratch, protected)
    refuse_too_small(host, scratch, planned_bytes, max_disk)
    looked.append(f"room: {planned_bytes} bytes planned, {'no limit' if max_disk is None else f'{max_disk} allowed'}")
    sandbox = Sandbox(host, scratch.rstrip(b"/") + b"/" + directory_name(drill_id), looked=looked)
    if host.stat(sandbox.directory) is not None:
        raise CouldNotRunError(
            f"{sandbox} exists already on host {host.name}: a drill may be running there",
            next_step="wait for it, or run `backupctl drill cleanup`",
        )
    try:
        # A server that runs unprivileged under a root drill must be able to pass; what is restored stays closed.
        host.make_directory(sandbox.directory, mode=0o711 if host.facts().uid == 0 else 0o700)
        host.make_directory(sandbox.directory + b"/state", mode=0o700)
        owner = {**_self(), "drill": drill_id, "expires": iso(expires)}
        _write(host, sandbox.directory + b"/state/owner.json", json.dumps(owner).encode())
        host.make_directory(sandbox.files, mode=0o700)
    except BaseException:
        sandbox.clean()
        raise
    return sandbox


def directory_name(drill_id: str) -> bytes:
    """`drill-` and the last 12 digits of the run's id."""
    return PREFIX + re.sub(r"[^A-Za-z0-9]", "", drill_id)[-12:].encode()


def refuse_protected(host: Host, scratch: bytes, protected: Iterable[bytes]) -> None:
    """What stands on the staging host at the path of a source is taken for that source, whatever the hosts are called:
    the same machine may have two names."""
    inside = os.path.normpath(scratch)
    for path in protected:
        source = os.path.normpath(path)
        if _within(source, inside) and host.stat(source) is not None:
            raise CouldNotRunError(
                f"the scratch directory {os.fsdecode(scratch)} on host {host.name} is or contains the source path "
                f"{os.fsdecode(source)}",
                next_step="give the staging host a scratch directory of its own",
            )


def _within(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory.rstrip(b"/") + b"/")


def refuse_too_small(host: Host, scratch: bytes, planned_bytes: int, max_disk: int | None) -> None:
    if max_disk is not None and planned_bytes > max_disk:
        raise CouldNotRunError(
            f"the restore needs about {planned_bytes} bytes, max_disk of host {host.name} is {max_disk}",
            next_step=f"raise max_disk of host {host.name}",
        )
    free = host.free_bytes(scratch)
    if planned_bytes > free:
        raise CouldNotRunError(
            f"the restore needs about {planned_bytes} bytes, {host.name}:{os.fsdecode(scratch)} has {free} free",
            next_step="free some space there, or move scratch to a larger disk",
        )


def remove_leftovers(host: Host, scratch: bytes, clock: Clock) -> list[Cleanup]:
    """Clean up after drills that were killed: their processes, then their directories. A drill that may still be
    alive is left alone. Raises CouldNotRunError without the marker: nothing is removed where none stands."""
    require_marker(host, scratch, host.name)
    cleaned = []
    for name in host.list_directory(scratch):
        directory = scratch.rstrip(b"/") + b"/" + name
        info = host.stat(directory)
        if not name.startswith(PREFIX) or info is None or info.kind != "dir":
            continue
        made = datetime.fromtimestamp(info.mtime_ns / 1e9, tz=clock.now().tzinfo)
        if _is_leftover(_read_owner(host, directory), made, clock.now()):
            pids = {name[4:].decode(): start.decode() for name, start in _read_state(host, directory, b"pid-")}
            places = [place for _, place in _read_state(host, directory, b"place-")]
            cleaned.append(Sandbox(host, directory, pids, places=places).clean())
    return cleaned


def _is_leftover(owner: dict[str, str], made: datetime, now: datetime) -> bool:
    if not owner:
        return now - made > UNSIGNED_LEFTOVER_AGE
    own = _self()
    if owner["node"] != own["node"]:
        return now > parse_iso(owner["expires"])
    return owner["boot"] != own["boot"] or identity.has_ended(int(owner["pid"]), int(owner["start"]))


def _self() -> dict[str, str]:
    """This process, so that a later one can tell whether it still lives."""
    pid = os.getpid()
    start = str(identity.start_time(pid))
    return {"node": platform.node(), "boot": identity.boot_id(), "pid": str(pid), "start": start}


def _read_owner(host: Host, directory: bytes) -> dict[str, str]:
    """{} when there is none or it was cut short by a crash."""
    try:
        owner = json.loads(_read(host, directory + b"/state/owner.json"))
        parse_iso(owner["expires"])
        int(owner["pid"]), int(owner["start"])
        return {name: str(owner[name]) for name in ("node", "boot", "pid", "start", "expires")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _read_state(host: Host, directory: bytes, prefix: bytes) -> list[tuple[bytes, bytes]]:
    state = directory + b"/state"
    try:
        names = [name for name in host.list_directory(state) if name.startswith(prefix)]
    except OSError:  # the directory was never finished, so nothing was started in it
        return []
    return [(name, content) for name in names if (content := _read(host, state + b"/" + name))]


def _read(host: Host, path: bytes) -> bytes:
    with host.open_read(path) as stream:
        return stream.read()


def _write(host: Host, path: bytes, content: bytes) -> None:
    sink = host.open_write(path)
    try:
        sink.write(content)
    finally:
        sink.close()
