"""The archived logs in a repository: whether each object is what it was, and whether they lead on from the backups without a gap.

Always: every object is there in its size, and says whose it is and what it holds. With `read_data`, or within a `budget`: it is
opened and hashed, and what it holds is read as the server would, page by page and record by record, event by event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby, islice
from typing import Any

from backupctl.clock import parse_iso
from backupctl.errors import DamageError, Denied, NoSuchError
from backupctl.operations.log_gaps import Backups, Gap, mariadb_gaps, postgresql_gaps
from backupctl.repository.check_trees import CheckProblem
from backupctl.repository.ledger import Ledger
from backupctl.repository.log_archive import LogArchive, LogObject, LogSegment, find_archive, list_objects
from backupctl.repository.repository import Repository
from backupctl.sources.binlog_archive import MARIADB, ReceivedLogs, damage_of, piece_of
from backupctl.sources.wal_archive import segment_of
from backupctl.sources.wal_check import LogWalk, broken_record, of_another
from backupctl.sources.wal_format import SEGMENT_BYTES, WalFormatError, is_segment_name, parse_lsn, read_header
from backupctl.sources.wal_index import Ancestor, history_timeline, parse_history

LOOKING = 8  # requests at a time
AHEAD = 2  # segments
LISTINGS = 3
NO_SUCH_THING = "it is gone since it was listed"


@dataclass(slots=True)
class LogReport:
    """`objects`: by the id under which the ledger knows each."""

    problems: list[CheckProblem] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    objects: dict[bytes, LogObject] = field(default_factory=dict)
    objects_read: int = 0
    bytes_read: int = 0

    @property
    def bytes(self) -> int:
        return sum(one.size for one in self.objects.values())


def check_logs(
    repository: Repository,
    objects: Iterable[LogObject],
    backups: Backups,
    ledger: Ledger,
    *,
    read_data: bool,
    budget: int | None,
    progress: Callable[[int], None] = lambda done: None,
) -> LogReport:
    """`objects`: a listing of them. Damage is reported, never raised; what says nothing about the repository (the store is
    unreachable) is raised. What was read is noted in the ledger."""
    report = LogReport()
    archives = []
    for directory, listed in groupby(objects, lambda one: one.directory):
        archives.append(_Archive(repository, directory, list(listed)))
        archives[-1].look()
        report.objects |= {one.id: one for one in archives[-1].objects.values()}
    chosen = set(report.objects) if read_data else set()
    if budget is not None and report.objects:
        chosen = {one.id for one in ledger.longest_unread(list(report.objects.values()), budget)}
    with ledger:
        for archive in archives:
            for one, size, good in archive.read(chosen):
                report.objects_read += 1
                report.bytes_read += size
                ledger.note(one.id, good=good)
                progress(report.bytes_read)
    for archive in archives:
        archive.judge(backups, report)
    return report


class _Archive:
    """One server's log. `damage`: by the name of the segment."""

    def __init__(self, repository: Repository, directory: str, objects: list[LogObject]) -> None:
        self._repository, self._directory = repository, directory
        self.objects = {one.segment: one for one in objects}
        self._archive: LogArchive | None = find_archive(repository, objects)
        self._segments: dict[str, LogSegment] = {}
        self._histories: dict[int, list[Ancestor]] = {}
        self._damage: dict[str, str] = {}

    def look(self) -> None:
        """At each object's facts. One that is put in the place of others is looked for when they are gone."""
        if self._archive is None:
            self._damage = dict.fromkeys(self.objects, "nothing in this archive says whose log it is")
            return
        with ThreadPoolExecutor(LOOKING, thread_name_prefix="look") as pool:
            for _ in range(LISTINGS):
                fresh = [one for name, one in self.objects.items() if name not in self._segments | self._damage]
                gone = [one for one, there in zip(fresh, pool.map(self._look, fresh), strict=True) if not there]
                if not gone:
                    break
                listed = {one.segment: one for one in list_objects(self._repository, self._directory)}
                for one in gone:
                    if one.segment not in listed:
                        del self.objects[one.segment]
                self.objects |= listed
        for name, segment in self._segments.items():
            if (timeline := history_timeline(name)) is not None:
                self._read_history(segment.name, timeline)

    def _look(self, one: LogObject) -> bool:
        """Whether it is still there."""
        assert self._archive is not None
        try:
            found = self._archive.look(one.segment, one.size)
        except NoSuchError:
            return False
        except (DamageError, Denied) as error:
            self._damage[one.segment] = error.message
            return True
        self._segments[one.segment] = found
        if found.object_bytes not in (0, one.size):
            self._damage[one.segment] = f"the object has {one.size} bytes, {found.object_bytes} were stored"
        if (server := found.facts.get("system", self._archive.server)) != self._archive.server:
            self._damage[one.segment] = of_another(server)
        elif is_segment_name(one.segment) and (lsn := found.facts.get("broken")):
            self._damage[one.segment] = broken_record(parse_lsn(lsn))
        return True

    def _read_history(self, name: str, timeline: int) -> None:
        assert self._archive is not None
        try:
            self._histories[timeline] = parse_history(self._archive.get(name).decode("utf-8", "replace"))
        except (DamageError, Denied, NoSuchError) as error:
            self._damage.setdefault(name, error.message)
        except (ValueError, IndexError) as error:
            self._damage.setdefault(name, f"it is no history of a timeline: {error}")

    # content

    def read(self, chosen: Collection[bytes]) -> Iterator[tuple[LogObject, int, bool]]:
        """Those with these ids, in order: each with the bytes that were read, and whether it was good."""
        if self._archive is None:
            return
        walk = LogWalk(self._archive.server, self._whole(), self._histories)
        wanted = [one for name, one in sorted(self.objects.items()) if one.id in chosen]
        for one, content in self._contents(one for one in wanted if one.segment in self._segments):
            if content is None:
                continue
            what = self._wrong(walk, one.segment, content) if isinstance(content, bytes) else content.message
            if what:
                self._damage.setdefault(one.segment, what)
            yield one, one.size, one.segment not in self._damage
        yield from ((one, 0, False) for one in wanted if one.segment not in self._segments)

    def _contents(self, wanted: Iterator[LogObject]) -> Iterator[tuple[LogObject, bytes | DamageError | Denied | None]]:
        with ThreadPoolExecutor(AHEAD, thread_name_prefix="read") as pool:

            def begin(number: int) -> list[tuple[LogObject, Future[bytes | DamageError | Denied | None]]]:
                return [(one, pool.submit(self._content, one.segment)) for one in islice(wanted, number)]

            coming = deque(begin(AHEAD))
            while coming:
                one, future = coming.popleft()
                yield one, future.result()
                coming.extend(begin(1))

    def _content(self, name: str) -> bytes | DamageError | Denied | None:
        """None when it is gone, as what was received is when there is more of it."""
        assert self._archive is not None
        try:
            return self._archive.get(name)
        except (DamageError, Denied) as error:
            return error
        except NoSuchError:
            if piece_of(name) is None and is_segment_name(name):
                return DamageError(NO_SUCH_THING, name=name)
            return None

    def _wrong(self, walk: LogWalk, name: str, content: bytes) -> str:
        """What is wrong with the content of a sound object; "" when nothing is known to be."""
        if is_segment_name(name):
            return walk.see(name, content)
        if (piece := piece_of(name)) is not None:
            return damage_of(piece, self._segments[name].facts, content)
        if segment_of(name):
            try:
                read_header(content)
            except WalFormatError as error:
                return str(error)
        return ""

    # the verdict

    def _whole(self) -> set[str]:
        return {name for name in self.objects if is_segment_name(name)}

    def judge(self, backups: Backups, report: LogReport) -> None:
        gaps = self._gaps(backups)
        if any(
            gap.name not in self._damage for gap in gaps
        ):  # what was stored while we listed may stand in none of its pages
            for one in list_objects(self._repository, self._directory):
                self.objects.setdefault(one.segment, one)
            self.look()
            gaps = self._gaps(backups)
        for gap in gaps:
            name = self._directory + gap.name
            if gap.stranded or gap.name in self._damage:
                report.problems.append(CheckProblem(name, f"{name}: {gap.message}", list(gap.stranded)))
            else:
                report.hints.append(f"{name}: {gap.message}")
        for name in sorted(self._damage.keys() - {gap.name for gap in gaps}):
            full = self._directory + name
            what = self._damage[name]
            report.problems.append(CheckProblem(full, what if full in what else f"{full}: {what}"))

    def _gaps(self, backups: Backups) -> list[Gap]:
        if self._archive is None:
            return []
        server = self._archive.server
        if server.startswith(MARIADB):
            logs = ReceivedLogs(self._archive, self.objects, self._facts())
            return mariadb_gaps(logs, backups.mariadb.get(server, []), self._damage)
        return self._postgresql_gaps(server, backups)

    def _postgresql_gaps(self, server: str, backups: Backups) -> list[Gap]:
        facts = self._facts()
        sizes = [one["segment_bytes"] for one in facts.values() if "segment_bytes" in one]
        segment_bytes = sizes[0] if sizes else backups.segment_bytes.get(server, SEGMENT_BYTES)
        names = self._whole()
        opened = {
            segment: name for name in sorted(self.objects) if (segment := segment_of(name)) and segment not in names
        }
        commits: dict[str, datetime] = {}
        for name, one in facts.items():
            if one.get("last_commit") and (segment := segment_of(name) or name) in names | opened.keys():
                commits[segment] = parse_iso(one["last_commit"])
        damage = {name: what for name, what in self._damage.items() if name in names}
        damage |= {segment: self._damage[name] for segment, name in opened.items() if name in self._damage}
        mine = backups.postgresql.get(server, [])
        gaps = postgresql_gaps(names | opened.keys(), self._histories, segment_bytes, mine, damage, commits)
        return [replace(gap, name=opened.get(gap.name, gap.name)) for gap in gaps]

    def _facts(self) -> Mapping[str, Mapping[str, Any]]:
        return {name: one.facts for name, one in self._segments.items()}
