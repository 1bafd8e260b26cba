"""Any range of a file, without the rest of it: only the blobs that the range touches are loaded, each verified."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from threading import Lock

from backupctl.errors import DamageError
from backupctl.repository.format.names import display_name
from backupctl.repository.format.node import Node
from backupctl.repository.repository import CHECK, Repository


class BlobLoader:
    """The data blobs used last, at most `cache_bytes` of them; several who ask for one blob wait for one load. A load that
    failed is tried again by the next who asks. Thread-safe."""

    def __init__(self, repository: Repository, *, cache_bytes: int = 64 << 20, threads: int = 8) -> None:
        self._repository = repository
        self._cache_bytes = cache_bytes
        self._loaders = ThreadPoolExecutor(threads, thread_name_prefix="load")
        self._guard = Lock()
        self._blobs: OrderedDict[bytes, Future[bytes]] = OrderedDict()
        self._sizes: dict[bytes, int] = {}  # of those that have arrived
        self._bytes = 0

    def load(self, blob_id: bytes) -> bytes:
        return self.begin(blob_id).result()

    def begin(self, blob_id: bytes) -> Future[bytes]:
        """The blob, perhaps still on its way."""
        with self._guard:
            if (future := self._blobs.get(blob_id)) is not None:
                self._blobs.move_to_end(blob_id)
                return future
            future = self._blobs[blob_id] = self._loaders.submit(self._repository.load_blob, "data", blob_id)
        future.add_done_callback(lambda done: self._arrived(blob_id, done))
        return future

    def _arrived(self, blob_id: bytes, future: Future[bytes]) -> None:
        with self._guard:
            if future.cancelled() or future.exception() is not None:
                del self._blobs[blob_id]
                return
            self._sizes[blob_id] = len(future.result())
            self._bytes += self._sizes[blob_id]
            while self._bytes > self._cache_bytes and len(self._sizes) > 1:
                old = next(one for one in self._blobs if one in self._sizes)
                if old == blob_id:  # asked for long ago, arrived only now
                    self._blobs.move_to_end(old)
                    continue
                del self._blobs[old]
                self._bytes -= self._sizes.pop(old)

    def close(self) -> None:
        self._loaders.shutdown(cancel_futures=True)


class RandomReader:
    """Reads one file at any offset. Thread-safe. DamageError names the file and the object; never wrong bytes."""

    def __init__(self, repository: Repository, blobs: BlobLoader, node: Node, path: bytes, size: int) -> None:
        """`size` is what the file is said to hold: DamageError when its blobs do not, or one is in no index."""
        self._blobs = blobs
        self._path = path
        self._content: Sequence[bytes] = node.content or ()
        self._ends = array("Q", accumulate(self._blob_bytes(repository, blob) for blob in self._content))
        self.size = self._ends[-1] if self._ends else 0
        self._last = -1  # the blob read last: who reads on gets the next one early
        if self.size != size:
            raise self._damage(f"its blobs hold {self.size} bytes, its size is {size}")

    def _blob_bytes(self, repository: Repository, blob: bytes) -> int:
        size = repository.index.blob_size("data", blob)
        if size is not None:
            return size
        places = repository.locate("data", blob)  # looks further
        if not places:
            raise self._damage(f"data blob {blob.hex()} is in no index", f"data/{blob.hex()}")
        return places[0].blob.size

    def read(self, offset: int, size: int) -> bytes:
        """What there is of the `size` bytes at `offset`: fewer only at the end of the file."""
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        first, last = bisect_right(self._ends, offset), bisect_right(self._ends, end - 1)
        wanted = [self._blobs.begin(blob) for blob in self._content[first : last + 1]]
        if self._last <= first <= self._last + 1 and last + 1 < len(self._content):
            self._blobs.begin(self._content[last + 1])
        self._last = last
        parts = []
        start = self._ends[first - 1] if first else 0
        for number, future in enumerate(wanted, first):
            try:
                data = future.result()
            except DamageError as error:
                raise self._damage(error.message, error.name) from error
            if start + len(data) != self._ends[number]:
                raise self._damage(f"data blob {self._content[number].hex()} has not the size that the index says")
            parts.append(data[max(offset - start, 0) : end - start])
            start = self._ends[number]
        return b"".join(parts)

    def _damage(self, what: str, name: str = "") -> DamageError:
        where = display_name(b"/" + self._path)
        return DamageError(f"{where}: {what}", name=name or where, next_step=CHECK)
