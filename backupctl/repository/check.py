"""Check a repository: everything `restic check` verifies, and what it does not: blob sums against sizes, the order of
names, every key file, and our own records. With `read_data`, every byte of every pack; with a `budget`, those bytes that
were not read for the longest time.

Damage is reported, never raised: each problem names the object, the snapshots that lose something by it, and the paths.
What says nothing about the repository (the store is unreachable) is raised.
"""

from __future__ import annotations

import hashlib
import logging
import struct
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import datetime

from backupctl.errors import Corrupt, DamageError, Denied, NotFound, UserError
from backupctl.repository.check_reading import Begun, ListedPack, PackReading, begun, read_packs, reading_pool
from backupctl.repository.check_records import check_records
from backupctl.repository.check_trees import CheckProblem, Structure
from backupctl.repository.format import FormatError
from backupctl.repository.format.index import Row, iterate_index
from backupctl.repository.format.keyfile import parse_keyfile
from backupctl.repository.format.pack import pack_bytes
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.ledger import Coverage, Ledger
from backupctl.repository.memory import give_back, return_freed_memory
from backupctl.repository.memory_index import MemoryIndex
from backupctl.repository.records import fingerprints_of as fingerprints_of
from backupctl.repository.records import manifest_id as manifest_id
from backupctl.repository.repository import Repository, pack_name
from backupctl.repository.segment import RECORD, Segment, gathered
from backupctl.storage.protocol import ObjectInfo

Progress = Callable[[int, int], None]  # bytes read so far, bytes to read

log = logging.getLogger(__name__)

_PLAIN = struct.Struct("<BI32s")
_ZSTD = struct.Struct("<BII32s")


@dataclass(slots=True)
class CheckReport:
    """`hints` are harmless: leftovers that a prune tidies up. `packs_read` were read whole, trees included; `coverage` says
    when every stored byte was last read, by this check or an earlier one."""

    problems: list[CheckProblem] = field(default_factory=list)
    packs: int = 0
    blobs: int = 0
    pack_bytes: int = 0
    packs_read: int = 0
    bytes_read: int = 0
    snapshots: int = 0
    hints: list[str] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)


def check(
    repository: Repository,
    *,
    read_data: bool = False,
    budget: int | None = None,
    all_paths: bool = False,
    progress: Progress | None = None,
    ledger: Ledger | None = None,
    beside: Mapping[bytes, ObjectInfo] | None = None,
) -> CheckReport:
    """Hold at least a shared lock meanwhile, which is settled while the first packs are read. Trees are read always; `budget`
    bytes go to them first, then to the packs that were not read for the longest time, at least one. What was read is noted
    in `ledger`, saved now and then and at the end. Raises only what says nothing about the repository's content."""
    return_freed_memory()
    checker = _Checker(repository, ledger)
    snapshots = checker.read_snapshots()  # before the index: a backup may be finishing right now
    checker.check_keys()
    with ExitStack() as open_until_read:
        ahead = open_until_read.enter_context(begun(repository)) if read_data else None
        checker.read_index()
        checker.check_packs()
        if ledger is not None:
            open_until_read.enter_context(ledger)
        checker.read_packs(read_data, budget, progress, ahead)
    repository.settle_locks()
    checker.structure.judge(snapshots, all_paths=all_paths)
    checker.report.bytes_read += check_records(repository, snapshots, checker.problem, every=read_data)
    checker.cover(beside or {})
    return checker.report


class _Checker:
    def __init__(self, repository: Repository, ledger: Ledger | None) -> None:
        self.repository = repository
        self.store = repository.store
        self.ledger = ledger
        self.report = CheckReport()
        self.packs: dict[bytes, ListedPack] = {}
        self.modified: dict[bytes, datetime] = {}
        self.bad_packs: dict[bytes, CheckProblem] = {}  # missing, or not of the size that the index implies
        self.sizes = array("I")  # of the content of each copy, by its number
        self.structure: Structure
        self.segment: Segment

    def problem(self, name: str, message: str, snapshots: Iterable[str] = ()) -> CheckProblem:
        found = CheckProblem(name, message, list(snapshots))
        self.report.problems.append(found)
        return found

    def read_snapshots(self) -> list[Snapshot]:
        readable = []
        for snapshot_id in self.repository.snapshot_ids():
            self.report.snapshots += 1
            try:
                readable.append(self.repository.reread_snapshot(snapshot_id))
            except NotFound:
                self.report.snapshots -= 1  # forgotten between list and get
            except (DamageError, Denied) as error:
                self.problem(f"snapshots/{snapshot_id}", error.message, [snapshot_id])
        return sorted(readable, key=lambda snapshot: snapshot.time)

    def check_keys(self) -> None:
        for key_id in self.repository.list_ids("keys/"):
            name = f"keys/{key_id}"
            try:
                data = self.store.get(name)
                if hashlib.sha256(data).hexdigest() != key_id:
                    raise FormatError("the stored bytes do not match their name")
                parse_keyfile(data)
            except FormatError as error:
                self.problem(name, f"{name}: {error}")
            except (NotFound, Denied, Corrupt) as error:
                self.problem(name, f"{name}: {error.message}")

    # the index

    def read_index(self) -> None:
        """From the store, never from a cache."""
        files: list[str] = []
        records: list[bytearray] = []  # of each file: gathered one by one, so that no record is in memory twice
        torn: list[tuple[ListedPack, CheckProblem]] = []
        for file_id in self.repository.list_ids("index/"):
            name = f"index/{file_id}"
            fresh = bytearray()
            try:
                for pack_id, rows in iterate_index(self.repository.load_file(name)):
                    pack = self._add_pack(name, pack_id, rows)
                    if pack is None:
                        continue
                    number = len(self.packs) - 1
                    fresh += b"".join(
                        [RECORD.pack(one, number << 1 | tree, at, size, plain) for at, one, tree, size, plain in rows]
                    )
                    if (found := self._gap(name, pack_id, rows)) is not None:
                        torn.append((pack, found))
            except NotFound:
                continue  # replaced by a prune between list and get
            except (DamageError, Denied, FormatError) as error:
                self.problem(name, error.message if isinstance(error, UserError) else f"{name}: {error}")
            files.append(file_id)
            records.append(fresh)
        self.segment = gathered(list(self.packs), records, files)
        give_back()
        self.index = MemoryIndex([self.segment])
        self.structure = Structure(self.repository, self.index, self.segment, self.sizes, self.problem)
        for pack, found in torn:
            self.structure.mark_bad(pack.numbers, found)
        self.report.packs, self.report.blobs = len(self.packs), len(self.index)
        self.report.pack_bytes = sum(pack.size for pack in self.packs.values())

    def _add_pack(self, name: str, pack_id: bytes, rows: Sequence[Row]) -> ListedPack | None:
        """The pack, None when it is known already."""
        header = b"".join(
            [
                _ZSTD.pack(2 + tree, length, plain, blob) if plain else _PLAIN.pack(tree, length, blob)
                for _, blob, tree, length, plain in rows
            ]
        )
        trees = sum([row[2] for row in rows])
        size = sum([row[3] for row in rows]) + len(header) + pack_bytes(())
        pack = ListedPack(pack_id, size, len(self.sizes), len(rows), trees, hashlib.sha256(header).digest())
        known = self.packs.setdefault(pack_id, pack)
        if known is not pack:
            if known.digest == pack.digest:
                self.report.hints.append(f"{pack_name(pack_id)} is in more than one index")
            else:
                self.problem(name, f"{name}: lists {pack_name(pack_id)} differently than another index")
            return None
        if 0 < trees < len(rows):
            self.report.hints.append(f"{pack_name(pack_id)} mixes trees and data")
        self.sizes.extend([plain or length - 32 for _, _, _, length, plain in rows])
        return pack

    def _gap(self, name: str, pack_id: bytes, rows: Sequence[Row]) -> CheckProblem | None:
        expected = 0
        for offset, _, _, length, _ in rows:
            if offset != expected:
                message = f"{name}: the blobs of {pack_name(pack_id)} leave a gap or overlap at byte {expected}"
                return self.problem(name, message)
            expected += length
        return None

    # packs

    def check_packs(self) -> None:
        """Every indexed pack is there with the size that its blobs imply."""
        seen: set[bytes] = set()
        for info in self.store.list("data/"):
            pack = self.packs.get(_pack_id(info.name))
            if pack is None or info.name != pack.name:
                self.report.hints.append(f"{info.name} is in no index")
                continue
            seen.add(pack.id)
            self.modified[pack.id] = info.modified
            if info.size != pack.size:
                self._lose(pack, f"{pack.name}: the pack has {info.size} bytes, its blobs need {pack.size}")
        for pack in self.packs.values():
            if pack.id not in seen:
                self._lose(pack, f"{pack.name}: the pack is missing, {pack.count} blobs with it")

    def _lose(self, pack: ListedPack, message: str) -> None:
        self.bad_packs[pack.id] = found = self.problem(pack.name, message)
        self.structure.mark_bad(pack.numbers, found)

    def read_packs(self, read_data: bool, budget: int | None, progress: Progress | None, ahead: Begun | None) -> None:
        """Trees and data mixed: what trees refer to is looked up here while workers open data."""
        trees = [pack for pack in self.packs.values() if pack.trees]
        pure = [pack for pack in trees if pack.pure]
        data = (
            [pack for pack in self.packs.values() if pack.trees < pack.count] if read_data or budget is not None else []
        )
        if budget is not None and not read_data:
            ledger = self.ledger or Ledger(self.repository)
            data = ledger.longest_unread(data, budget - sum(pack.size for pack in pure))
        total = sum(pack.size for pack in (*pure, *data))
        early = ahead.packs if ahead is not None else None
        mixed = _spread(pure, data)
        with reading_pool(total) if ahead is None else nullcontext(ahead.pool) as pool:
            good = True
            for reading in read_packs(self.repository, self.segment, mixed, pool, scan=True, begun=early):
                self.repository.settle_locks()
                self._judge(reading)
                self._add_trees(reading)
                good = good and reading.good
                if progress is not None:
                    progress(min(self.report.bytes_read, total), total)
            if not good:  # trees may have been read before the damage in what they refer to
                self.structure.begin_again()
                for reading in read_packs(self.repository, self.segment, pure, pool, scan=True):
                    self._add_trees(reading)
        for pack in trees:
            if pack.trees < pack.count:  # trees among data, as version 1 wrote them
                self.structure.add_from_store(pack.numbers)

    def _add_trees(self, reading: PackReading) -> None:
        for position, scan in reading.trees:
            self.structure.add(reading.pack.first + position, scan)
        if reading.pack.trees:
            reading.scans.clear()
            give_back()

    def _judge(self, reading: PackReading) -> None:
        pack = reading.pack
        self.report.bytes_read += reading.size
        self.report.packs_read += not reading.failure
        if self.ledger is not None and not reading.missing:
            self.ledger.note(pack.id, good=reading.good and pack.id not in self.bad_packs)
        if reading.good:
            return
        if reading.failure:
            if pack.id not in self.bad_packs:
                self._lose(pack, reading.failure)
            return
        messages = reading.messages
        if reading.bad:
            place = self.index.at(pack.first + reading.bad[0]).blob
            messages.append(f"{len(reading.bad)} of {pack.count} blobs are bad: {place.kind} {place.id.hex()}")
        earlier = self.bad_packs.pop(pack.id, None)
        found = earlier or self.problem(pack.name, "")
        found.message = (found.message or pack.name) + (", " if earlier else ": ") + ", ".join(messages)
        if earlier is not None:
            self.structure.clear_bad(pack.numbers)  # now each blob speaks for itself
        self.structure.mark_bad([pack.first + position for position in reading.bad], found)

    def cover(self, beside: Mapping[bytes, ObjectInfo]) -> None:
        if self.ledger is None:
            return
        sizes = {pack.id: pack.size for pack in self.packs.values()} | {one: info.size for one, info in beside.items()}
        written = self.modified | {one: info.modified for one, info in beside.items()}
        self.report.coverage = self.ledger.coverage(sizes, written)
        try:
            self.ledger.fold(sizes)
        except UserError as error:  # a store that refuses deletion: many records say the same as one
            log.warning("the records of what was read could not be folded into one: %s", error.message)


def _spread(some: Sequence[ListedPack], others: Sequence[ListedPack]) -> list[ListedPack]:
    """Both in their order, the first begun with and evenly among the second."""
    placed = [(number / len(group), pack) for group in (some, others) for number, pack in enumerate(group)]
    return [pack for _, pack in sorted(placed, key=lambda one: one[0])]


def _pack_id(name: str) -> bytes:
    try:
        return bytes.fromhex(name.rpartition("/")[2])
    except ValueError:
        return b""
