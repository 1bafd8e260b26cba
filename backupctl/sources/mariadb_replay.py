"""Stored binary logs, checked and replayed into a restored server, up to an exact position.

`mariadb-binlog` alone does not do: it passes over a log that is missing and over a damaged event with exit status 0, takes times
for its own time zone, and calls it a warning when a target is not reached. So we read the logs first and decide on one position.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from backupctl.clock import iso
from backupctl.errors import CouldNotRunError, DamageError, NoSuchError
from backupctl.hosts.protocol import ByteSource, Host
from backupctl.sources.binlog_format import BinlogDamage, BinlogFile, BinlogReader, Group, follows
from backupctl.sources.mariadb_binlog import Position, read_whole
from backupctl.sources.mariadb_client import MariadbClient
from backupctl.sources.streams import said

COPY_BYTES = 1 << 20
GTID = re.compile(r"\d+-\d+-\d+")
POSITION = re.compile(r"([^\s:]+\.\d+):(\d+)")
Target = datetime | Position | str
"""An instant (everything committed by then), a position, or a GTID (that transaction is the last)."""


@dataclass(frozen=True)
class Chain:
    """How far logs reach without a gap. `last_commit`: of the newest transaction in them. `broken`: why they go no further although
    more is stored; "" when nothing more is."""

    start: Position
    end: Position
    last_commit: datetime | None
    files: tuple[str, ...]
    broken: str = ""


def parse_target(text: str) -> Target | None:
    """`FILE:POSITION` or a GTID; None for anything else, which may be a time."""
    if GTID.fullmatch(text):
        return text
    found = POSITION.fullmatch(text)
    return Position(found.group(1), int(found.group(2))) if found else None


class Logs:
    """Logs by name, as they are stored. `open` gives one."""

    def __init__(self, names: Sequence[str], open: Callable[[str], ByteSource]) -> None:
        self.names = sorted(names, key=sequence)
        self._open = open

    def chain(self, start: Position, on_group: Callable[[Position, Group], None] = lambda at, group: None) -> Chain:
        """Reads every event from `start` on. Raises NoSuchError when the log that it needs first is not there."""
        if start.file not in self.names:
            raise NoSuchError(
                f"no stored binary log {start.file}, where this backup ends; stored: {shown(self.names)}",
                next_step="restore the backup without --until, or another one",
            )
        end, last, files, broken = start, None, [], ""
        before: BinlogFile | None = None
        for name in self.names[self.names.index(start.file) :]:

            def told(group: Group, name: str = name) -> None:
                nonlocal end, last
                if name == start.file and group.end <= start.offset:
                    return
                end, last = Position(name, group.end), datetime.fromtimestamp(group.time, UTC)
                on_group(end, group)

            reader = BinlogReader(told)
            try:
                found = read_whole(self._open(name), reader)
            except BinlogDamage as error:
                files.append(name)  # what stands before the damage is good
                broken = f"binary log {name} {error}"
                break
            if before is not None and (why := follows(before, name, found)):
                broken = f"binary logs have a gap: {why}"
                break
            before = found
            files.append(name)
        return Chain(start, end, last, tuple(files), broken)

    def place(self, host: Host, directory: str, names: Sequence[str]) -> list[str]:
        """The files on a host, for `replay`."""
        paths = []
        for name in names:
            source, sink = self._open(name), host.open_write(f"{directory}/{name}".encode())
            try:
                while data := source.read(COPY_BYTES):
                    sink.write(data)
            finally:
                source.close()
                sink.close()
            paths.append(f"{directory}/{name}")
        return paths


def stop_at(logs: Logs, start: Position, target: Target | None) -> Chain:
    """The chain that ends where `target` does; None is the end of all logs. Refuses a target that the stored logs do not reach
    without a gap: NoSuchError when they end before it, DamageError when they are broken before it."""
    wanted: list[tuple[Position, datetime]] = []
    met: list[bool] = []

    def told(at: Position, group: Group) -> None:
        time = datetime.fromtimestamp(group.time, UTC)
        if isinstance(target, str):
            if not met:
                wanted.append((at, time))
            if group.gtid == target:
                met.append(True)
        elif isinstance(target, Position):
            if key(at) <= key(target):
                wanted.append((at, time))
            if key(at) >= key(target):
                met.append(True)
        elif isinstance(target, datetime):
            if time <= target and not met:
                wanted.append((at, time))
            if time > target:
                met.append(True)

    chain = logs.chain(start, told)
    if target is None:
        if chain.broken:
            raise damaged(chain)
        return chain
    if target == start or (isinstance(target, Position) and key(target) == key(start)):
        return Chain(start, start, None, chain.files[:1])
    if not met:
        if chain.broken:
            raise damaged(chain)
        reach = f"; they reach {chain.end}" + (f", {iso(chain.last_commit)}" if chain.last_commit else "")
        shown_target = iso(target) if isinstance(target, datetime) else str(target)
        raise NoSuchError(
            f"the stored binary logs do not reach {shown_target}{reach}",
            next_step="name an earlier target, or `--until latest` for all there is",
        )
    end, last = wanted[-1] if wanted else (start, None)
    files = chain.files[: chain.files.index(end.file) + 1]
    return Chain(start, end, last, files)


def damaged(chain: Chain) -> DamageError:
    reach = f"recovery can go to {chain.end}" + (f", {iso(chain.last_commit)}" if chain.last_commit else "")
    return DamageError(
        f"{chain.broken}; {reach}",
        name=chain.files[-1] if chain.files else chain.end.file,
        next_step=f"--until {chain.end}, or a later backup",
    )


def replay(client: MariadbClient, program: str, chain: Chain, paths: Sequence[str]) -> None:
    """All of the chain into the server. `paths`: its files, in order, on the client's host. Raises DamageError when the server
    does not take it."""
    if chain.end == chain.start:
        return
    argv = [program, "--no-defaults", f"--start-position={chain.start.offset}", f"--stop-position={chain.end.offset}"]
    argv += ["--verify-binlog-checksum", "--disable-log-bin", *paths]
    feeding = [client.client, client.defaults, *client.options, "--binary-mode", "--max-allowed-packet=1G"]
    with client.start(argv) as reading, client.start(feeding) as writing:
        with suppress(BrokenPipeError):  # the client gave up: its exit status and its words follow
            while data := reading.stdout.read(COPY_BYTES):
                writing.stdin.write(data)
        written = writing.finish()
        if written.returncode != 0:
            reading.kill()
            what = f"replay of binary logs up to {chain.end}: {said(written)}"
            if written.returncode >= 126 or re.search(
                r"ERROR (1021|1041|2002|2006|2013)|No space left", written.stderr
            ):
                raise CouldNotRunError(what, next_step="see what the staging host lacks")
            raise DamageError(what, name=chain.end.file, next_step=f"--until {chain.start} restores the backup alone")
        done = reading.finish()
    if done.returncode != 0:
        raise DamageError(f"reading binary logs up to {chain.end}: {said(done)}", name=chain.end.file)


def sequence(name: str) -> tuple[str, int]:
    base, _, number = name.rpartition(".")
    return base, int(number) if number.isdigit() else 0


def key(position: Position) -> tuple[tuple[str, int], int]:
    return sequence(position.file), position.offset


def shown(names: Sequence[str]) -> str:
    return f"{names[0]} to {names[-1]}" if len(names) > 1 else "".join(names) or "none"
