"""A local cache of what is read again and again: the index as segments, and whole packs of trees.

It may be deleted at any moment, also while it is used, and is never believed: a segment carries an HMAC-SHA256 under a
key that only this repository's key gives, over all its bytes, checked when it is opened; packs of trees are kept sealed
as they are in the repository, and each tree is unsealed and compared with its id on each read. A full disk or a place that
cannot be written costs speed, never a result. Files appear whole (rename); several processes share one cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backupctl.repository.format import FormatError
from backupctl.repository.segment import MAC_BYTES, Allocate, Segment, anonymous, opened

DEFAULT_MAX_BYTES = 2 << 30
TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# made by backupctl; safe to delete\n"  # bford.info/cachedir
_PIECE_BYTES = 1 << 20
_UNFINISHED = "new-"
_UNFINISHED_SECONDS = 86_400.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CachePlace:
    """Where caches live: one directory per repository inside. `max_bytes` bounds the packs of trees; the index comes on
    top, about 110 bytes per blob. `trees` is False where the repository is as near as the cache."""

    directory: Path
    max_bytes: int = DEFAULT_MAX_BYTES
    trees: bool = True


class Cache:
    """The cache of one repository. Thread-safe. No method raises for what is wrong with the cache."""

    def __init__(self, place: CachePlace, repository_id: str, key: bytes) -> None:
        self._place = place
        name = repository_id if _is_id(repository_id) else hashlib.sha256(repository_id.encode()).hexdigest()
        self._folder = place.directory / name
        self._index, self._trees = self._folder / "index", self._folder / "trees"
        self._key = key
        self._warned = False
        self._guard = threading.Lock()
        self._fetching: dict[bytes, threading.Lock] = {}
        self._missed: set[bytes] = set()
        self._touched: set[bytes] = set()
        self._tree_bytes: int | None = None

    # the index

    def merged_segments(self, listed: Collection[str]) -> list[Segment]:
        """Segments that stand for several index files each, all of them in `listed`, no file twice."""
        left = set(listed)
        opened_ones = (self.segment(name) for name in self._names(self._index) if name not in left)
        found = []
        for segment in sorted(filter(None, opened_ones), key=lambda one: one.count, reverse=True):
            if left.issuperset(segment.files):
                found.append(segment)
                left.difference_update(segment.files)
        return found

    def segment(self, name: str) -> Segment | None:
        """The segment with this name: an index file's id, or what `merged_name` says. None when there is no good one."""
        path = self._index / name
        try:
            with path.open("rb") as file:
                descriptor = file.fileno()
                stated = os.pread(descriptor, MAC_BYTES, self._mac_place(descriptor))
                if not hmac.compare_digest(self._mac(descriptor), stated):
                    raise FormatError("its seal is broken")
                segment = opened(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
                if self._name(segment) != name:
                    raise FormatError("it stands for other index files")
                return segment
        except FileNotFoundError:
            return None
        except (ValueError, FormatError) as error:
            log.warning("the cached %s is not used and removed: %s", path, error)
            self._remove(path)
        except OSError as error:
            self._warn(error)
        return None

    def _mac_place(self, descriptor: int) -> int:
        return max(0, os.fstat(descriptor).st_size - MAC_BYTES)

    def _mac(self, descriptor: int) -> bytes:
        """Read, not mapped: what is only read once shall not count as our memory."""
        digest = hmac.new(self._key, digestmod="sha256")
        position, end = 0, self._mac_place(descriptor)
        while position < end:
            piece = os.pread(descriptor, min(_PIECE_BYTES, end - position), position)
            if not piece:
                break
            digest.update(piece)
            position += len(piece)
        return digest.digest()

    @staticmethod
    def _name(segment: Segment) -> str:
        files = segment.files
        return files[0] if len(files) == 1 else merged_name(files)

    def keep(self, name: str, make: Callable[[Allocate], Segment]) -> Segment:
        """What `make` makes, stored under `name`, or in memory where it cannot be stored."""
        try:
            with self._writing(self._index / name) as descriptor:

                def allocate(size: int) -> mmap.mmap:
                    os.posix_fallocate(descriptor, 0, size)  # a disk that is full says so now, not by a signal later
                    return mmap.mmap(descriptor, size)

                make(allocate)
                os.pwrite(descriptor, self._mac(descriptor), self._mac_place(descriptor))
                return opened(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError, FormatError) as error:
            self._warn(error)
            return make(anonymous)

    def tidy(self, listed: Collection[str], used: Iterable[Segment], is_pack: Callable[[bytes], bool]) -> None:
        """Remove what the repository has no longer, and segments that others stand for."""
        needed = {*listed, *map(self._name, used)}
        for name in self._names(self._index):
            if name not in needed:
                self._remove(self._index / name)
        for name in self._names(self._trees):
            if not is_pack(bytes.fromhex(name)):
                self._remove(self._trees / name)
        for folder in (self._index, self._trees):
            self._remove_unfinished(folder)

    # trees

    @property
    def keeps_trees(self) -> bool:
        """False where the repository is as near as the cache."""
        return self._place.trees

    def tree(self, pack: bytes, offset: int, length: int, fetch: Callable[[], bytes]) -> bytes | None:
        """A sealed tree, not verified; None: read it from the store. A pack that is asked for the second time is fetched
        whole: one snapshot's trees lie together, and each request costs more than its bytes."""
        if not self._place.trees:
            return None
        found = self._read_tree(pack, offset, length)
        if found is not None:
            return found
        with self._guard:
            if pack not in self._missed:
                self._missed.add(pack)
                return None
            fetching = self._fetching.setdefault(pack, threading.Lock())
        with fetching:
            found = self._read_tree(pack, offset, length)
            if found is None:
                data = fetch()
                self.save_trees(pack, data)
                found = data[offset : offset + length]
        return found

    def _read_tree(self, pack: bytes, offset: int, length: int) -> bytes | None:
        path = self._trees / pack.hex()
        try:
            with path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), length, offset)
                if pack not in self._touched:
                    os.utime(file.fileno())
                    self._touched.add(pack)
        except OSError:
            return None
        return data

    def save_trees(self, pack: bytes, data: bytes) -> None:
        """Keep a pack of trees; the ones not used for longest make room."""
        if not self._place.trees or len(data) > self._place.max_bytes:
            return
        try:
            with self._writing(self._trees / pack.hex()) as descriptor:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
            with self._guard:
                self._make_room(len(data))
        except OSError as error:
            self._warn(error)

    def drop_trees(self, pack: bytes) -> None:
        """It is not what the repository has."""
        log.warning(
            "the cached %s is not used and removed: a tree in it is not what its id says", self._trees / pack.hex()
        )
        self._remove(self._trees / pack.hex())

    def _make_room(self, new_bytes: int) -> None:
        if self._tree_bytes is not None:
            self._tree_bytes += new_bytes
            if self._tree_bytes <= self._place.max_bytes:
                return
        entries = []
        for entry in os.scandir(self._trees):
            with contextlib.suppress(FileNotFoundError):  # another process makes room too
                state = entry.stat()
                entries.append((state.st_mtime_ns, state.st_size, entry.path))
        self._tree_bytes = sum(size for _, size, _ in entries)
        if self._tree_bytes <= self._place.max_bytes:
            return
        for _, size, path in sorted(entries):
            self._remove(Path(path))
            self._tree_bytes -= size
            if self._tree_bytes <= self._place.max_bytes * 9 // 10:
                break

    # files

    def _remove_unfinished(self, folder: Path) -> None:
        """What a process that was killed left."""
        with contextlib.suppress(OSError):
            for path in folder.glob(f"{_UNFINISHED}*"):
                if path.stat().st_mtime < time.time() - _UNFINISHED_SECONDS:
                    self._remove(path)

    def _names(self, folder: Path) -> list[str]:
        try:
            return [path.name for path in folder.iterdir() if _is_id(path.name)]
        except OSError:
            return []

    @contextmanager
    def _writing(self, path: Path) -> Iterator[int]:
        """A descriptor; what is written appears under `path` when no exception leaves the block."""
        self._make_folder(path.parent)
        descriptor, temporary = tempfile.mkstemp(prefix=_UNFINISHED, dir=path.parent)  # 0600
        try:
            yield descriptor
            Path(temporary).replace(path)
        except BaseException:
            self._remove(Path(temporary))
            raise
        finally:
            os.close(descriptor)

    def _make_folder(self, folder: Path) -> None:
        for path in (*reversed(folder.parents), folder):
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
                if path == self._place.directory:
                    (path / "CACHEDIR.TAG").write_bytes(TAG)

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            log.warning("the cache in %s cannot be written, which costs speed only: %s", self._folder, error)


def merged_name(files: Iterable[str]) -> str:
    """The name of the segment that stands for several index files."""
    return hashlib.sha256("\n".join(sorted(files)).encode()).hexdigest()


def _is_id(text: str) -> bool:
    return len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)


def default_directory() -> Path:
    """`$XDG_CACHE_HOME/backupctl`, else `~/.cache/backupctl`. Raises RuntimeError for a user without a home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if given.startswith("/") else Path.home() / ".cache") / "backupctl"
