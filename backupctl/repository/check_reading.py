"""Reading packs whole: opened blob by blob in worker processes, results in order and bounded memory.

Where packs are files of this machine, workers read them themselves. Elsewhere, and for a pack with anything wrong, threads of
ours fetch: two packs are on their way or being cut at a time, and at most `_SLICES` slices of 2 MiB are with each worker.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from backupctl.errors import Corrupt, Denied, NotFound
from backupctl.hosts.workers import Workers, worker_count
from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import unseal
from backupctl.repository.format.pack import PackedBlob, decode_header, encode_header, sealed_header
from backupctl.repository.format.tree_scan import TreeScan, TreeScans
from backupctl.repository.memory import return_freed_memory
from backupctl.repository.pack_opening import Opened, cut, open_file, open_slice
from backupctl.repository.repository import Repository, pack_name
from backupctl.repository.segment import Segment
from backupctl.storage.nearby import Directory, directory_of

WORTHWHILE_BYTES = 24 << 20  # less is read sooner than processes are started
HEADER_DIFFERS = "its header differs from the index"
_SLICE_BYTES = 2 << 20
_SLICES = 3  # per worker: two that it holds and one that waits
_FILES = 3  # per worker, the same
_AHEAD = 2  # packs


@dataclass(slots=True)
class ListedPack:
    """A pack as the index describes it. Its blobs are `count` records of the index from `first` on."""

    id: bytes
    size: int
    first: int
    count: int
    trees: int  # how many of the blobs are trees
    digest: bytes  # SHA-256 of the plain header that the index implies

    @property
    def name(self) -> str:
        return pack_name(self.id)

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.count)

    @property
    def pure(self) -> bool:
        """Nothing but trees."""
        return self.trees == self.count


@dataclass(slots=True)
class PackReading:
    """What reading one pack found. `failure`: it could not be read at all. `messages`: what is wrong with it as a file.
    `bad` and the numbers of `trees` are positions in the pack, in `scans` less what stands before each."""

    pack: ListedPack
    size: int = 0
    failure: str = ""
    missing: bool = False
    messages: list[str] = field(default_factory=list)
    bad: list[int] = field(default_factory=list)
    scans: list[tuple[int, TreeScans]] = field(default_factory=list)

    @property
    def trees(self) -> Iterator[tuple[int, TreeScan]]:
        for start, scans in self.scans:
            for position, scan in scans:
                yield start + position, scan

    @property
    def good(self) -> bool:
        return not (self.failure or self.messages or self.bad)


class Pool(Protocol):
    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]: ...


class _Inline:
    """Does it at once, in the caller's thread."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future


@contextmanager
def reading_pool(total_bytes: int) -> Iterator[Pool]:
    """Something to open blobs in, for as many bytes: worker processes when that pays."""
    count = worker_count()
    if total_bytes < WORTHWHILE_BYTES:
        yield _Inline()
    elif count == 0:
        with ThreadPoolExecutor(2, thread_name_prefix="open") as threads:
            yield threads
    else:
        with Workers(count) as workers:
            yield workers


@dataclass(frozen=True, slots=True)
class Begun:
    """Packs that workers open before anybody knows what the index says of them."""

    pool: Pool
    packs: Mapping[str, Future[Opened | None]]  # by name


@contextmanager
def begun(repository: Repository) -> Iterator[Begun | None]:
    """For who will read every pack: the index is read meanwhile. None where that does not pay, or not in a local store."""
    directory = directory_of(repository.store)
    if directory is None or worker_count() == 0:
        yield None
        return
    found = list(repository.store.list("data/"))
    if (total := sum(info.size for info in found)) < WORTHWHILE_BYTES:
        yield None
        return
    with reading_pool(total) as pool:
        first = found[: _FILES * worker_count()]
        yield Begun(pool, {info.name: _open(repository, directory, info.name, pool, True) for info in first})


def read_packs(
    repository: Repository,
    segment: Segment,
    packs: Iterable[ListedPack],
    pool: Pool,
    *,
    scan: bool,
    begun: Mapping[str, Future[Opened | None]] | None = None,
) -> Iterator[PackReading]:
    """Every pack in turn. With `scan` what each good tree of a pure pack refers to is told too. `begun`: with it, and under
    way. Damage is reported; what says nothing about the repository (the store is unreachable) is raised."""
    return_freed_memory()
    directory = directory_of(repository.store)
    if directory is None:
        yield from _fetched(repository, segment, packs, pool, scan)
        return
    early = dict(begun or {})
    waiting: deque[tuple[ListedPack, Future[Opened | None]]] = deque()
    remaining = iter(packs)
    while True:
        for pack in islice(remaining, _FILES * max(1, worker_count()) - len(waiting)):
            task = early.pop(pack.name) if pack.name in early else _open(repository, directory, pack.name, pool, scan)
            waiting.append((pack, task))
        if not waiting:
            return
        pack, task = waiting.popleft()
        opened = task.result()
        if opened is None or opened.digest != pack.digest:
            yield from _fetched(repository, segment, [pack], pool, scan)
        else:
            yield PackReading(pack, pack.size, bad=opened.bad, scans=[(0, opened.trees)])


def _open(repository: Repository, directory: Directory, name: str, pool: Pool, scan: bool) -> Future[Opened | None]:
    return pool.submit(open_file, repository.keys, directory, name, scan)


def _fetched(
    repository: Repository, segment: Segment, packs: Iterable[ListedPack], pool: Pool, scan: bool
) -> Iterator[PackReading]:
    """The same through the store."""
    waiting: deque[tuple[PackReading, list[tuple[int, Future[Opened]]]]] = deque()
    slices = threading.Semaphore(_SLICES * max(1, worker_count()))

    def finished() -> PackReading:
        reading, parts = waiting.popleft()
        for start, future in parts:
            opened = future.result()
            reading.bad += [start + position for position in opened.bad]
            reading.scans.append((start, opened.trees))
        return reading

    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="read") as readers:
        remaining = iter(packs)
        fetches = deque(readers.submit(_fetch, repository, pack) for pack in islice(remaining, _AHEAD))
        while fetches:
            fetched = fetches.popleft().result()
            parts = []
            trees = scan and fetched.reading.pack.pure
            for start, header, sealed in _slices(fetched, segment):
                while not slices.acquire(blocking=not waiting):
                    yield finished()
                future: Future[Opened] = pool.submit(open_slice, repository.keys, header, sealed, trees)
                future.add_done_callback(lambda _: slices.release())
                parts.append((start, future))
            waiting.append((fetched.reading, parts))
            del fetched
            fetches.extend(readers.submit(_fetch, repository, pack) for pack in islice(remaining, 1))
        while waiting:
            yield finished()


@dataclass(slots=True)
class _Fetched:
    reading: PackReading
    data: bytes = b""
    header: bytes = b""  # plain; empty when it cannot be read or is not the one that the index implies


def _fetch(repository: Repository, pack: ListedPack) -> _Fetched:
    """Runs in a thread."""
    reading = PackReading(pack)
    try:
        data = repository.store.get(pack.name)
    except NotFound:
        reading.failure, reading.missing = f"{pack.name}: the pack is missing", True
        return _Fetched(reading)
    except (Denied, Corrupt) as error:
        reading.failure = error.message
        return _Fetched(reading)
    reading.size = len(data)
    if hashlib.sha256(data).digest() != pack.id:
        reading.messages.append("the stored bytes do not match their name")
    try:
        header = unseal(repository.keys, sealed_header(data))
        if hashlib.sha256(header).digest() == pack.digest:
            return _Fetched(reading, data, header)
        decode_header(header)
        reading.messages.append(HEADER_DIFFERS)
    except FormatError as error:
        reading.messages.append(f"its header cannot be read: {error}")
    return _Fetched(reading, data)


def _slices(fetched: _Fetched, segment: Segment) -> Iterator[tuple[int, bytes, bytes]]:
    """(position of the first blob, plain header of the slice, its sealed blobs). What the index lists is what is opened:
    that is what a restore asks for."""
    pack = fetched.reading.pack
    if fetched.reading.failure:
        return
    view = memoryview(fetched.data)
    for first, header, begin, end in cut(fetched.header or _header(segment, pack), _SLICE_BYTES):
        yield first, header, bytes(view[begin:end])


def _header(segment: Segment, pack: ListedPack) -> bytes:
    """The plain header that the index implies."""
    blobs = []
    for number in pack.numbers:
        blob_id, reference, offset, length, plain_length = segment.record(number)
        blobs.append(PackedBlob("tree" if reference & 1 else "data", blob_id, offset, length, plain_length))
    return encode_header(blobs)
