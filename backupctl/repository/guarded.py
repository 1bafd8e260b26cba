"""A source's stream, fenced off: what it fails with can never be taken for a failure of the repository."""

from __future__ import annotations

from collections.abc import Callable

from backupctl.errors import SourceError, UnreachableError
from backupctl.hosts.protocol import ByteSource


class GuardedStream:
    """A source's stream whose own failures are all SourceError, so that nothing else is mistaken for one."""

    def __init__(self, stream: ByteSource) -> None:
        self._stream: ByteSource = stream
        self._closed = False

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            raise SourceError(error_text(error)) from error

    def changed(self, ask: Callable[[ByteSource], bool]) -> bool:
        try:
            return ask(self._stream)
        except OSError as error:
            raise SourceError(error_text(error)) from error

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._stream.close()
        except OSError as error:
            raise SourceError(error_text(error)) from error


def error_text(error: OSError | SourceError | UnreachableError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return error.message
