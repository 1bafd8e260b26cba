"""What a host can do for the rest of the house: run commands, be read, be written.

Paths are bytes: a file name is whatever the kernel accepts, UTF-8 or not. Commands are argv lists, never shell strings.
Secrets never enter argv or the environment of a long-lived process: `private_file` puts them into a 0600 file that dies
with its context. Every implementation passes `tests/conformance/test_hosts.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from backupctl.errors import UserError

ASK_TIME = "import time; print(repr(time.time()))"
"""A program for a far Python: what time it is there."""

FileKind = Literal["file", "dir", "symlink", "fifo", "socket", "chardev", "dev"]


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One object of a file system as lstat saw it. `error` set means: it is there (or was), and could not be read."""

    path: bytes  # absolute on the host
    kind: FileKind
    mode: int = 0  # permission bits with setuid, setgid, sticky: st_mode & 0o7777
    uid: int = 0
    gid: int = 0
    user: str = ""
    group: str = ""
    size: int = 0  # bytes, regular files only
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0
    device_id: int = 0  # st_dev
    links: int = 0
    device: int = 0  # st_rdev, for devices
    linktarget: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Completed:
    """A process that ended. `stdout` is empty when it was streamed; `stderr` is the redacted last 64 KiB, as text."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: str


@dataclass(frozen=True, slots=True)
class HostFacts:
    hostname: str
    machine_id: str  # "" when the host has none
    system: str  # e.g. "Debian GNU/Linux 12 (bookworm)"
    kernel: str
    uid: int  # whom commands run as
    user: str
    python: str  # version, e.g. "3.11.2"
    extra: Mapping[str, str] = field(default_factory=dict)


class ByteSource(Protocol):
    """A readable stream. `read` returns b"" only at the true end; an end that is not true raises instead."""

    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


class ReadFile(ByteSource, Protocol):
    """An open regular file. `info` is fstat at opening; `changed` compares with fstat now."""

    info: FileInfo

    def changed(self) -> bool:
        """True when size, mtime or ctime differ from `info`: what was read is no single moment of the file."""

    def __enter__(self) -> ReadFile: ...

    def __exit__(self, *exc: object) -> None: ...


class ByteSink(Protocol):
    def write(self, data: bytes, /) -> int: ...

    def close(self) -> None: ...


class Process(Protocol):
    """A running command. Leaving the context kills it (and its children) when it still runs."""

    stdout: ByteSource  # reaching its end says nothing yet about success: call `finish`
    stdin: ByteSink

    def finish(self, timeout: float | None = None) -> Completed:
        """Close stdin, drain what is left of stdout, wait, and return how it ended (any exit code)."""

    def kill(self) -> None: ...

    def __enter__(self) -> Process: ...

    def __exit__(self, *exc: object) -> None: ...


class PlacingError(UserError):
    """An object that cannot be made. `path` is the one that was given to the placer, whichever call raises this."""

    def __init__(self, message: str, *, path: bytes, next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.path = path


class FileWriter(Protocol):
    def write_at(self, offset: int, data: bytes) -> None:
        """Write at `offset`. Runs of zeros may be left as holes; the file already has its final size."""

    def close(self) -> None: ...

    def discard(self) -> None:
        """Instead of `close`: remove the file, because its content could not be completed."""


class Placer(Protocol):
    """Puts restored objects into a file system. Calls may be queued; `flush` returns after all of them are done
    and gives back one line for each thing that could not be set (an owner without root, an unsupported xattr).
    Never follows a symbolic link out of the directory it was opened for. Raises PlacingError when an object itself
    cannot be made: of a queued call, when another is made; the object then stays as it was left."""

    def directory(self, path: bytes) -> None: ...

    def file(self, path: bytes, size: int) -> FileWriter: ...

    def symlink(self, path: bytes, target: bytes) -> None: ...

    def hardlink(self, path: bytes, existing: bytes) -> None: ...

    def remove(self, path: bytes) -> None:
        """Whatever is there, with all below it; nothing there is fine."""

    def special(self, path: bytes, info: FileInfo) -> None:
        """A fifo or device; without the right to make it, a warning line from `flush`."""

    def metadata(self, path: bytes, info: FileInfo) -> None:
        """Owner, xattrs, times, then mode (not for symlinks), in this order."""

    def flush(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class LocalRoot:
    """The directory of a placer, when it is on this machine: worker processes can place into it at the same time. Device
    and inode tell whether a path still leads there."""

    path: bytes
    device: int
    inode: int


class Host(Protocol):
    name: str
    python: str  # a Python >= 3.6 on that host, for the programs we send it

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> Completed:
        """Run to the end. `env` is added to a minimal environment (PATH, LC_ALL=C.UTF-8, TZ=UTC, HOME).
        With `check`, a non-zero exit raises UserError that names the command and quotes the end of stderr.
        A program that does not exist gives returncode 127. Raises UnreachableError when the host cannot be reached."""

    def start(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Process:
        """Start with streaming stdin and stdout. stderr is drained and kept (last 64 KiB, redacted)."""

    def scan(self, root: bytes, *, exclude: Sequence[str] = (), only: Sequence[bytes] = ()) -> Iterator[FileInfo]:
        """`root` itself, then everything below it, depth first; a directory comes before what it holds, names in
        ascending byte order. Symbolic links are reported, not followed. What cannot be read comes with `error`.
        `exclude`: a pattern without `/` matches a name at any depth, one with `/` matches the whole path (`*` does
        not cross `/`, `**` does); a matched directory is not entered. A missing `root` comes as one FileInfo with
        `error`. With `only`: the directories on the way down to these, and what lies below these, which may be gone."""

    def open_read(self, path: bytes) -> ReadFile:
        """Open a regular file without following a final symlink and without touching its atime where allowed.
        Raises FileNotFoundError or PermissionError or OSError, locally and remotely alike."""

    def open_write(self, path: bytes, *, mode: int = 0o600) -> ByteSink:
        """Create (must not exist) and write a file from the start. Closing it makes it durable (fsync)."""

    def private_file(self, content: bytes) -> AbstractContextManager[str]:
        """A 0600 file with `content` in a private directory on the host; gone when the context ends."""

    def stat(self, path: bytes) -> FileInfo | None:
        """lstat; None when nothing is there."""

    def list_directory(self, path: bytes) -> list[bytes]:
        """Names, sorted; FileNotFoundError when it is missing."""

    def make_directory(self, path: bytes, *, mode: int = 0o700) -> None:
        """With parents; an existing directory is left as it is."""

    def remove_tree(self, path: bytes) -> None:
        """Remove `path` and all below it without following links; a missing path is fine."""

    def free_bytes(self, path: bytes) -> int: ...

    def placer(self, root: bytes) -> AbstractContextManager[Placer]: ...

    def facts(self) -> HostFacts: ...

    def close(self) -> None: ...
