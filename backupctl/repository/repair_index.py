"""Repair the index: list what no index file lists, list anew what one lists wrongly, and let go of packs that are gone.

An index holds nothing that the headers of the packs do not hold too, so it can always be made again. Plan first, apply
later, under an exclusive lock: new index files → delete those that they replace. After a crash in between, packs are listed
twice, which costs nothing; the next repair goes on from there. Only index files that were read and found wrong are deleted,
never one that came meanwhile; packs are never touched, however young, for they may be a writer's.

A pack whose header cannot be read stays listed as it was: by that listing its blobs can still be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from backupctl.errors import DamageError, NotFound
from backupctl.repository.format import FormatError
from backupctl.repository.format.index import decode_index
from backupctl.repository.format.pack import PackedBlob, encode_header, pack_bytes
from backupctl.repository.memory_index import MemoryIndex
from backupctl.repository.prune import delete_names, index_batches
from backupctl.repository.prune_plan import names_seen
from backupctl.repository.repository import Repository
from backupctl.repository.unlisted import pack_of, read_headers
from backupctl.storage.protocol import ObjectInfo

Progress = Callable[[int, int], None]  # headers read, headers to read
Listed = tuple[bytes, list[PackedBlob]]


@dataclass(slots=True)
class IndexPlan:
    read_all: bool = False
    bad_files: dict[str, str] = field(default_factory=dict)  # index files that cannot be read, and why
    unlisted: list[bytes] = field(default_factory=list)  # packs that will be listed
    wrong: list[bytes] = field(default_factory=list)  # packs that will be listed as their header says
    gone: dict[bytes, int] = field(default_factory=dict)  # packs that will not be listed any more, and their blobs
    headless: dict[str, str] = field(
        default_factory=dict
    )  # in no index, and nobody can tell what they hold: left alone
    damaged: dict[str, str] = field(
        default_factory=dict
    )  # stay listed as they are, because their header cannot be read
    replace: list[str] = field(default_factory=list)  # index files that go
    found: MemoryIndex = field(default_factory=MemoryIndex, repr=False)  # what is in `unlisted` and `wrong`
    seen: frozenset[str] = frozenset()  # the names the plan rests on

    def __bool__(self) -> bool:
        return bool(self.bad_files or self.unlisted or self.wrong or self.gone)


def plan_index(repository: Repository, *, read_all: bool = False, progress: Progress | None = None) -> IndexPlan:
    """Changes nothing. `read_all` holds every listing against the pack's own header; otherwise only those whose size cannot
    be right, or that differ from each other. Hold a lock."""
    plan = IndexPlan(read_all, seen=frozenset(names_seen(repository)))
    listings = _Listings(repository, plan)
    present = {pack: info for info in repository.store.list("data/") if (pack := pack_of(info.name)) is not None}
    plan.gone = {pack: listings.counts[pack] for pack in listings.packs if pack not in present}
    doubtful = [info for pack, info in present.items() if read_all or listings.is_doubtful(pack, info)]
    for number, (info, blobs, why) in enumerate(read_headers(repository.store, repository.keys, doubtful), 1):
        if progress is not None:
            progress(number, len(doubtful))
        pack = bytes.fromhex(info.name.rpartition("/")[2])
        listed = listings.packs.get(pack)
        if blobs is None:
            (plan.damaged if listed else plan.headless)[info.name] = why
        elif listed is None:
            plan.unlisted.append(pack)
            plan.found.add_pack(pack, blobs)
        elif pack in listings.torn or listed != _described(blobs):
            plan.wrong.append(pack)
            plan.found.add_pack(pack, blobs)
    leaving = {*plan.gone, *plan.wrong}
    plan.replace = [name for name, packs in listings.files.items() if not leaving.isdisjoint(packs)]
    plan.replace += plan.bad_files
    return plan


def _described(blobs: Sequence[PackedBlob]) -> tuple[int, bytes]:
    return pack_bytes(blobs), hashlib.sha256(encode_header(blobs)).digest()


class _Listings:
    """What the index files say. Those that cannot be read go into the plan."""

    def __init__(self, repository: Repository, plan: IndexPlan) -> None:
        self.packs: dict[bytes, tuple[int, bytes]] = {}  # size and hash of the header that the listing implies
        self.counts: dict[bytes, int] = {}
        self.files: dict[str, list[bytes]] = {}
        self.torn: set[bytes] = set()  # listed with gaps, or differently by two files
        for name in (f"index/{file_id}" for file_id in repository.list_ids("index/")):
            try:
                listing = list(decode_index(repository.load_file(name)))
            except NotFound:
                continue
            except (DamageError, FormatError) as error:
                plan.bad_files[name] = error.message if isinstance(error, DamageError) else f"{name}: {error}"
                continue
            self.files[name] = []
            for pack, blobs in listing:
                self._add(name, pack, blobs)

    def _add(self, name: str, pack: bytes, blobs: Sequence[PackedBlob]) -> None:
        described = _described(blobs)
        if self.packs.setdefault(pack, described) != described:
            self.torn.add(pack)
        self.counts[pack] = len(blobs)
        self.files[name].append(pack)
        end = 0
        for blob in blobs:
            if blob.offset != end:
                self.torn.add(pack)
            end = blob.offset + blob.length

    def is_doubtful(self, pack: bytes, info: ObjectInfo) -> bool:
        return pack not in self.packs or pack in self.torn or self.packs[pack][0] != info.size


def apply_index(repository: Repository, plan: IndexPlan) -> int:
    """Do it, under an exclusive lock; how many index files were written. When snapshots or indexes changed since the plan
    was made, it is made anew."""
    with repository.lock(exclusive=True):
        if frozenset(names_seen(repository)) != plan.seen:
            plan = plan_index(repository, read_all=plan.read_all)
        packs = list(plan.found.packs)
        found = ((pack, plan.found.blobs_of([pack])[pack]) for pack in packs)
        files = [name for name in plan.replace if name not in plan.bad_files]
        return replace_index(repository, files, {*plan.gone, *plan.wrong}, found, unreadable=plan.bad_files)


def replace_index(
    repository: Repository,
    files: Iterable[str],
    leaving: Iterable[bytes],
    new: Iterable[Listed],
    *,
    unreadable: Iterable[str] = (),
) -> int:
    """Write what is `new` and what `files` list, less the packs that are `leaving`, into new index files, and then delete
    `files`, and those that are `unreadable`. How many were written. Hold an exclusive lock. The packs that are new must be
    durable."""
    gone = set(leaving)
    old = list(files)

    def kept() -> Iterator[Listed]:
        listed: set[bytes] = set()
        for name in old:
            for pack, blobs in decode_index(repository.load_file(name)):
                if pack not in gone and pack not in listed:
                    listed.add(pack)
                    yield pack, blobs

    written = 0
    try:
        for batch in index_batches(chain(new, kept())):
            repository.save_index(batch)
            written += 1
        delete_names(repository, [*old, *unreadable])
    finally:
        repository.reset_index()
    return written


def files_listing(repository: Repository, packs: Iterable[bytes]) -> list[str]:
    """The index files that list any of these packs. One that cannot be read is left out."""
    wanted = {*packs}
    found = []
    for name in (f"index/{file_id}" for file_id in repository.list_ids("index/")):
        try:
            if any(pack in wanted for pack, _ in decode_index(repository.load_file(name))):
                found.append(name)
        except (NotFound, DamageError, FormatError):
            continue  # named by a check, and made anew by `repair index`
    return found
