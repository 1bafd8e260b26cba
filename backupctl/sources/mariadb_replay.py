"""Stored binary logs, checked and replayed into a restored server, up to an exact position.

`mariadb-binlog` alone does not do: it passes over a log that is missing and over a damaged event with exit status 0, takes times
for its own time zone, and calls it a warning when a target is not reached. So we read the logs first and decide on one position.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from backupctl.clock import iso
from backupctl.errors import CouldNotRunError, DamageError, NoSuchError, UsageError
from backupctl.hosts.protocol import ByteSource, Host
from backupctl.sources.binlog_format import BinlogDamage, BinlogFile, BinlogReader, Group, follows
from backupctl.sources.gtids import DomainGtids, Gtids
from backupctl.sources.mariadb_binlog import Position, read_whole
from backupctl.sources.mariadb_client import MariadbClient, refused
from backupctl.sources.protocol import BeforeBackupError
from backupctl.sources.streams import said

COPY_BYTES = 1 << 20
GTID = re.compile(r"\d+-\d+-\d+|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}:\d+")
POSITION = re.compile(r"([^\s:]+\.\d+):(\d+)")
End = datetime | Position | str
"""An instant (everything committed by then), a position, or a GTID (that transaction is the last)."""


@dataclass(frozen=True)
class Chain:
    """How far logs reach without a gap. `last_commit`: of the newest transaction in them. `files`: up to that of `end`. `broken`:
    why they go no further although more is stored; "" when nothing more is. `passed`: the transactions before the first.
    `reach`: after the last event of the last whole log, which may be no transaction's."""

    start: Position
    end: Position
    last_commit: datetime | None
    files: tuple[str, ...]
    broken: str = ""
    passed: Gtids = field(default_factory=DomainGtids)
    reach: Position | None = None


class Gap(BinlogDamage):
    """Between two logs."""


def refuse_gap(before: BinlogFile | None, name: str, found: BinlogFile) -> None:
    if before is not None and (why := follows(before, name, found)):
        raise Gap(f"binary logs have a gap: {why}")


def end_of(target: datetime | str) -> End:
    """From `FILE:POSITION`, a GTID such as MariaDB's `0-1-4711` or MySQL's `UUID:4711`, or an instant. Raises UsageError for
    anything else."""
    if isinstance(target, datetime):
        return target
    if GTID.fullmatch(target.lower()):
        return target.lower()
    found = POSITION.fullmatch(target)
    if not found:
        raise UsageError(
            f"{target!r} is neither a time, nor a position (bin.000007:4711), nor a GTID (0-1-4711, or UUID:4711)",
            next_step="--at latest for all there is",
        )
    return Position(found.group(1), int(found.group(2)))


class Logs:
    """Logs by name, as they are stored. `open` gives one."""

    def __init__(self, names: Sequence[str], open: Callable[[str], ByteSource]) -> None:
        self.names = sorted(names, key=sequence)
        self.open = open

    def chain(self, start: Position, on_group: Callable[[Position, Group], None] = lambda at, group: None) -> Chain:
        """Reads every event of the log that holds `start`, and of those after it; `on_group` is told of what lies before `start`,
        too. Raises NoSuchError when that log is not there."""
        if start.file not in self.names:
            raise NoSuchError(
                f"no stored binary log {start.file}, where this backup ends; stored: {shown(self.names)}",
                next_step="restore the backup alone, by its id, or another one",
            )
        end, last, files, broken = start, None, [], ""
        before: BinlogFile | None = None
        reach: Position | None = None
        passed: Gtids = DomainGtids()
        for name in self.names[self.names.index(start.file) :]:
            reader = BinlogReader()

            def told(
                group: Group,
                name: str = name,
                found: BinlogFile = reader.found,
                before: BinlogFile | None = before,
            ) -> None:
                nonlocal end, last
                refuse_gap(before, name, found)  # here already: nothing behind a gap may count
                at = Position(name, group.end)
                if key(at) > key(start):
                    end, last = at, instant(group)
                on_group(at, group)

            reader.on_group = told
            files.append(name)
            try:
                found = read_whole(self.open(name), reader)
                refuse_gap(before, name, found)
            except BinlogDamage as error:
                broken = str(error) if isinstance(error, Gap) else f"binary log {name} {error}"
                break
            passed = passed or found.start_gtids
            before, reach = found, Position(name, found.end)
        return Chain(start, end, last, tuple(files[: files.index(end.file) + 1]), broken, passed, reach)

    def place(self, host: Host, directory: str, names: Sequence[str]) -> list[str]:
        """The files on a host, for `replay`."""
        paths = []
        for name in names:
            source, sink = self.open(name), host.open_write(f"{directory}/{name}".encode())
            try:
                while data := source.read(COPY_BYTES):
                    sink.write(data)
            finally:
                source.close()
                sink.close()
            paths.append(f"{directory}/{name}")
        return paths


def stop_at(logs: Logs, start: Position, target: End | None, proven: datetime | None = None) -> Chain:
    """The chain that ends where `target` does; None is the end of all logs. `proven`: when the newest log was read, so that nothing
    was committed between its end and then. Refuses with BeforeBackupError a target before `start`, with NoSuchError one that
    the logs do not reach, with DamageError one that they reach only across damage or a gap."""
    reached = Search(start, target)
    chain = logs.chain(start, reached.told)
    if target is None:
        if chain.broken:
            raise damaged(chain)
        return chain
    words = iso(target) if isinstance(target, datetime) else str(target)
    if reached.too_early or (isinstance(target, str) and not reached.met and chain.passed.holds(target)):
        raise BeforeBackupError(f"{words} lies before the end of this backup, {start}", next_step="backupctl snapshots")
    if reached.is_met(chain):
        return reached.cut(chain)
    if not chain.broken and isinstance(target, datetime) and proven is not None and target <= proven:
        return chain
    if chain.broken:
        raise damaged(chain)
    reach = f"{chain.end}" + (f", {iso(chain.last_commit)}" if chain.last_commit else "")
    raise NoSuchError(
        f"the stored binary logs do not reach {words}; they reach {reach}",
        next_step="name an earlier target, or `--at latest` for all there is",
    )


def up_to(logs: Logs, start: Position, target: Position) -> Chain:
    """As far as the logs lead, but no further than `target`; `broken` only when they do not lead there. Raises NoSuchError."""
    reached = Search(start, target)
    chain = logs.chain(start, reached.told)
    return replace(reached.cut(chain), broken="" if reached.is_met(chain) else chain.broken)


class Search:
    """Follows transactions until the target is met. `end`: after the last one that belongs to it."""

    def __init__(self, start: Position, target: End | None) -> None:
        self._start, self._target = start, target
        self.end = start
        self.last: datetime | None = None
        self.met = self.too_early = False
        if isinstance(target, Position):
            self.met, self.too_early = key(target) == key(start), key(target) < key(start)

    def told(self, at: Position, group: Group) -> None:
        target, time = self._target, instant(group)
        if target is None or self.met:
            return
        if key(at) <= key(self._start):
            self.too_early |= group.gtid == target if isinstance(target, str) else False
            self.too_early |= isinstance(target, datetime) and time > target
            return
        belongs = time <= target if isinstance(target, datetime) else True
        if isinstance(target, Position):
            belongs = key(at) <= key(target)
        if belongs:
            self.end, self.last = at, time
        if isinstance(target, str):
            self.met = group.gtid == target
        else:
            self.met = not belongs or at == target

    def is_met(self, chain: Chain) -> bool:
        """Once all of the chain has been told. A position may lie behind the last transaction, as at the beginning of a log."""
        if isinstance(self._target, Position) and not self.met and not self.too_early and chain.reach is not None:
            return key(self._target) <= key(chain.reach)
        return self.met

    def cut(self, chain: Chain) -> Chain:
        """What of it belongs to the target."""
        files = chain.files[: chain.files.index(self.end.file) + 1]
        return Chain(chain.start, self.end, self.last, files, reach=chain.reach)


def instant(group: Group) -> datetime:
    return datetime.fromtimestamp(group.time, UTC)


def damaged(chain: Chain) -> DamageError:
    reach = f"recovery can go to {chain.end}" + (f", {iso(chain.last_commit)}" if chain.last_commit else "")
    return DamageError(
        f"{chain.broken}; {reach}",
        name=chain.files[-1] if chain.files else chain.end.file,
        next_step=f"--at {chain.end}, or a later backup",
    )


def replay(client: MariadbClient, program: str, chain: Chain, paths: Sequence[str]) -> None:
    """All of the chain into the server. `paths`: its files, in order, on the client's host. Raises DamageError when the server
    does not take it."""
    if chain.end == chain.start:
        return
    argv = [program, "--no-defaults", f"--start-position={chain.start.offset}", f"--stop-position={chain.end.offset}"]
    argv += ["--verify-binlog-checksum", "--disable-log-bin", *client.family.replay, *paths]
    feeding = [client.client, client.defaults, *client.options, "--binary-mode", "--skip-reconnect"]
    feeding += ["--max-allowed-packet=1G"]
    with client.start(argv) as reading, client.start(feeding) as writing:
        with suppress(BrokenPipeError):  # the client gave up: its exit status and its words follow
            while data := reading.stdout.read(COPY_BYTES):
                writing.stdin.write(data)
        written = writing.finish()
        if written.returncode != 0:
            reading.kill()
            what = f"replay of binary logs up to {chain.end}: {refused(written)}"
            if written.returncode >= 126 or re.search(
                r"ERROR (1021|1041|2002|2006|2013)|No space left", written.stderr
            ):
                raise CouldNotRunError(what, next_step="see what the staging host lacks")
            raise DamageError(what, name=chain.end.file, next_step=f"--at {chain.start} restores the backup alone")
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
