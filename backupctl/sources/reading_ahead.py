"""Several streams read at the same time, and handed over one after the other.

Who stores a snapshot takes its entries in order. While one is stored, workers read the next ones ahead, each as far as its
lane has room: many small tables then cost no waiting, and a server works on several at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

LANE_BYTES = 32 << 20
T = TypeVar("T")
Item = TypeVar("Item", contravariant=True)


class Reader(Protocol[Item]):
    """Reads whole items; what goes wrong in one is raised there, and the reader is then used no more."""

    def read(self, item: Item) -> Iterator[bytes]: ...

    def kill(self) -> None:
        """Makes `read` end, from another thread."""

    def close(self) -> None: ...


class Abandoned(Exception):
    """Nobody wants the rest of this item."""


class Lane:
    """One item on its way: a byte stream that ends well only if reading it did."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._ended = self._closed = False
        self._error: BaseException | None = None

    def put(self, piece: bytes) -> None:
        with self._changed:
            while self._waiting_bytes >= LANE_BYTES and not self._closed:
                self._changed.wait()
            if self._closed:
                raise Abandoned
            self._pieces.append(piece)
            self._waiting_bytes += len(piece)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(LANE_BYTES), b""))
        with self._changed:
            while not (self._ended or self._closed or self._pieces):
                self._changed.wait()
            if self._closed:
                raise ValueError("read of a closed stream")
            if not self._pieces:
                if self._error is not None:
                    raise self._error
                return b""
            piece = self._pieces.popleft()
            data, rest = piece[:size], piece[size:]
            if rest:
                self._pieces.appendleft(rest)
            self._waiting_bytes -= len(data)
            self._changed.notify_all()
            return data

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._pieces.clear()
            self._changed.notify_all()


class ReadingAhead(Generic[T]):
    """`readers` are used up first, one thread each; one that failed is replaced by what `replace` gives, and when that fails
    too, nothing more is tried: each waiting item ends with that error. Lanes have to be taken
    in the order of `items`, and each closed before the next is taken: that keeps everybody moving."""

    def __init__(self, items: Sequence[T], readers: Sequence[Reader[T]], replace: Callable[[], Reader[T]]) -> None:
        self.lanes = [Lane() for _ in items]
        self._items = iter(list(zip(items, self.lanes, strict=True)))
        self._lock = threading.Lock()
        self._stopped = False
        self._active = set(readers)
        self._lost: BaseException | None = None
        self._replace = replace
        self._threads = [
            threading.Thread(target=self._work, args=(reader,), name="read ahead", daemon=True) for reader in readers
        ]
        for thread in self._threads:
            thread.start()

    def _take(self) -> tuple[T, Lane] | None:
        with self._lock:
            return None if self._stopped else next(self._items, None)

    def _work(self, first: Reader[T]) -> None:
        reader: Reader[T] | None = first
        while (taken := self._take()) is not None:
            item, lane = taken
            try:
                reader = reader or self._another()
                for piece in reader.read(item):
                    lane.put(piece)
                lane.end()
            except BaseException as error:  # noqa: BLE001 - whoever reads the lane gets it, whatever it is
                lane.end(error)
                self._dismiss(reader)
                reader = None
        self._dismiss(reader)

    def _another(self) -> Reader[T]:
        if self._lost is not None:
            raise self._lost
        try:
            reader = self._replace()
        except BaseException as error:
            self._lost = error
            raise
        with self._lock:
            self._active.add(reader)
            stopped = self._stopped
        if stopped:
            reader.kill()
        return reader

    def _dismiss(self, reader: Reader[T] | None) -> None:
        if reader is not None:
            with self._lock:
                self._active.discard(reader)
            reader.close()

    def close(self) -> None:
        """Ends everything, also in the middle of an item. Idempotent."""
        with self._lock:
            self._stopped = True
            active = list(self._active)
        for reader in active:
            reader.kill()
        for lane in self.lanes:
            lane.close()
        for thread in self._threads:
            thread.join()
