"""The directory of a standby on its host: marked as nobody else's, used by one process at a time, and what is known of it.

DIR/backupctl-standby.json          the marker: whose directory this is, on which machine
DIR/lock                            held by `flock` while somebody refreshes
DIR/state/JOB.json                  which snapshots may lie in files/JOB, see `repository/mirror.py`
DIR/promoted.json                   once it is no standby any more
DIR/files/JOB/SOURCE/…              what the job's sources held
DIR/servers/JOB/SOURCE/…            a server, see `operations/standby_servers.py`
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from backupctl.clock import Clock, iso
from backupctl.config.standby import StandbySettings
from backupctl.errors import CouldNotRunError, DamageError, LockedError, UserError
from backupctl.hosts.protocol import Host
from backupctl.repository.mirror import MirrorState

MARKER = b"backupctl-standby.json"
PROMOTED = b"promoted.json"
NEW = b".new"
RENAME = 'mv -T -f -- "$1" "$2" && sync -- "$3"'  # one command: over SSH each costs a quarter of a second
LIMIT_BYTES = 1 << 20
HELD = 75
SLACK_NS = 1_000_000_000  # a file's time may be of a coarser clock than the one that is asked
BOOT = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True, slots=True)
class JobState:
    """`boot` and `begun_ns`: when the first refresh that has not ended began, by the host's own clock."""

    mirror: MirrorState = field(default_factory=MirrorState)
    boot: str = ""
    begun_ns: int = 0


class Place:
    def __init__(self, host: Host, name: str, settings: StandbySettings) -> None:
        self.host, self.name = host, name
        self.root = settings.directory.encode("utf-8", "surrogateescape").rstrip(b"/") or b"/"

    def __str__(self) -> str:
        return f"{self.root.decode('utf-8', 'backslashreplace')} on host {self.host.name}"

    def claim(self, clock: Clock) -> None:
        """Make the directory and mark it, unless it is marked already. Raises CouldNotRunError for one that holds something and
        has no marker: what is in it would be removed."""
        host = self.host
        if host.stat(self.root + b"/" + MARKER) is not None:
            self.require()
            return
        there = host.stat(self.root)
        if there is not None and (there.kind != "dir" or set(host.list_directory(self.root)) - {MARKER + NEW}):
            raise CouldNotRunError(
                f"{self} is not empty and not marked as the directory of a standby",
                next_step="name an empty or new directory: what is in it and in no backup will be removed",
            )
        host.make_directory(self.root, mode=0o711)  # servers and services run there as somebody else
        facts = host.facts()
        marker = {
            "standby": self.name,
            "made": iso(clock.now()),
            "machine": facts.machine_id or facts.hostname,
        }
        self.write(MARKER, marker)

    def require(self) -> None:
        """Raises CouldNotRunError for a directory that is not this standby's, or is on another machine."""
        marker = self.read(MARKER)
        if marker is None:
            raise CouldNotRunError(
                f"{self} is not marked as the directory of a standby",
                next_step=f"backupctl standby refresh {self.name}",
            )
        facts = self.host.facts()
        if marker.get("standby") != self.name:
            raise CouldNotRunError(
                f"{self} belongs to standby {marker.get('standby')!r}", next_step="give each standby its own directory"
            )
        if marker.get("machine") != (facts.machine_id or facts.hostname):
            raise CouldNotRunError(
                f"{self} was marked on another machine",
                next_step=f"if it may be used here, remove {MARKER.decode()} and everything else in it",
            )

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One process at a time, whichever machine it is on. Ends with the process, or its connection. Raises LockedError."""
        lock = (self.root + b"/lock").decode("utf-8", "surrogateescape")
        with self.host.start(["flock", "--nonblock", "-E", str(HELD), lock, "cat"]) as process:
            with suppress(BrokenPipeError):  # its exit code says why
                process.stdin.write(b"\n")
            if process.stdout.read(1) != b"\n":
                ended = process.finish()
                if ended.returncode == HELD:
                    raise LockedError(
                        f"standby {self.name} is being refreshed already", next_step="wait for it, then try again"
                    )
                raise UserError(
                    f"{self} cannot be locked: {ended.stderr.strip()}", next_step="flock is in the package util-linux"
                )
            yield
            process.finish()

    def promoted(self) -> dict[str, Any] | None:
        """What was promoted here, and when; None while it is a standby. From then on it is somebody's live data."""
        return self.read(PROMOTED)

    def refuse_promoted(self) -> None:
        if (found := self.promoted()) is not None:
            raise CouldNotRunError(
                f"{self} was promoted at {found.get('at')}: what is there is live, and is not made what a backup holds",
                next_step="take standby "
                f"{self.name} out of the configuration; for a new standby name another directory: docs/how-to/standby.md",
            )

    def state(self, job: str) -> JobState:
        """Raises DamageError for one that cannot be understood."""
        name = b"state/" + job.encode() + b".json"
        found = self.read(name)
        if found is None:
            return JobState()
        try:
            mirror = MirrorState(tuple(map(str, found["snapshots"])), found["whole"] is True)
            return JobState(mirror, str(found["boot"]), int(found["begun_ns"]))
        except (KeyError, TypeError, ValueError):
            raise self._damage(name) from None

    def begin(self, job: str, snapshot: str) -> JobState:
        """Before anything is changed."""
        state = self.state(job)
        if state.mirror.whole or not state.begun_ns:
            now = int(self.host.run(["date", "+%s%N"], check=True).stdout)
            state = JobState(state.mirror, self.boot(), now - SLACK_NS)
        state = replace(state, mirror=state.mirror.begun(snapshot))
        self._save(job, state)
        return state

    def end(self, job: str, snapshot: str) -> None:
        """After everything is in place; on the disk first."""
        self.host.run(["sync", "--file-system", "--", self.root.decode("utf-8", "surrogateescape")], check=True)
        self._save(job, JobState(MirrorState.ended(snapshot)))

    def distrusted(self, state: JobState) -> int | None:
        """From which ctime on files may lack what was written: the machine went down in a refresh that had not ended."""
        if state.mirror.whole or not state.begun_ns or state.boot == self.boot():
            return None
        return state.begun_ns

    def boot(self) -> str:
        return self.host.run(["cat", BOOT], check=True).stdout.decode().strip()

    def files(self, job: str) -> bytes:
        return self.root + b"/files/" + job.encode()

    def _save(self, job: str, state: JobState) -> None:
        self.host.make_directory(self.root + b"/state", mode=0o700)
        values = {
            "snapshots": list(state.mirror.snapshots),
            "whole": state.mirror.whole,
            "boot": state.boot,
            "begun_ns": state.begun_ns,
        }
        self.write(b"state/" + job.encode() + b".json", values)

    def content(self, name: bytes) -> bytes | None:
        """None when it is not there."""
        try:
            with self.host.open_read(self.root + b"/" + name) as stream:
                return stream.read(LIMIT_BYTES)
        except FileNotFoundError:
            return None

    def read(self, name: bytes) -> dict[str, Any] | None:
        """None when it is not there. Raises DamageError."""
        data = self.content(name)
        if data is None:
            return None
        try:
            found = json.loads(data)
        except ValueError:
            raise self._damage(name) from None
        if not isinstance(found, dict):
            raise self._damage(name)
        return found

    def write(self, name: bytes, values: dict[str, Any]) -> None:
        self.write_content(name, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode())

    def write_content(self, name: bytes, data: bytes) -> None:
        """Whole or not at all, and on the disk."""
        path = self.root + b"/" + name
        beside = path + NEW
        self.host.remove_tree(beside)
        sink = self.host.open_write(beside, mode=0o644)
        sink.write(data)
        sink.close()
        here, final = (one.decode("utf-8", "surrogateescape") for one in (beside, path))
        self.host.run(["sh", "-c", RENAME, "sh", here, final, final.rpartition("/")[0]], check=True)

    def _damage(self, name: bytes) -> DamageError:
        shown = name.decode()
        return DamageError(
            f"{shown} in {self} is damaged",
            name=shown,
            next_step=f"remove it: the next refresh reads everything anew: backupctl standby refresh {self.name}",
        )
