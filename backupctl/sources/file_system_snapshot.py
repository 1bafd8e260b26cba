"""Files read as of one moment: a snapshot of their file system, made and removed by commands on their host.

Which commands is the configuration's matter: `btrfs subvolume snapshot -r`, `lvcreate -s` and `mount`, `zfs snapshot`. A run
that was killed leaves its snapshot behind. The next one finds it, where the snapshot would be reached or by its making being
refused, removes it and makes a new one: what is read is never older than the run.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from backupctl.errors import SourceError, UnreachableError, UserError
from backupctl.hosts.protocol import FileInfo, Host
from backupctl.sources.options import Text

Argv = Annotated[list[Text], Field(min_length=1)]


def _one_or_several(value: object) -> object:
    return [value] if isinstance(value, list) and value and isinstance(value[0], str) else value


Commands = Annotated[list[Argv], Field(min_length=1), BeforeValidator(_one_or_several)]
"""One argv, or several that are run in turn."""


class SnapshotOptions(BaseModel):
    """A file system's snapshot, which the files are read from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: Text = Field(description="the directory that the snapshot is of; every path lies in it")
    at: Text = Field(description="where the snapshot of it is reached; nothing but this source uses that place")
    create: Commands = Field(description="the command that makes the snapshot, or several in turn")
    remove: Commands = Field(description="the command that removes it, or several in turn")
    timeout: int = Field(default=300, ge=1, le=86_400, description="seconds for each command")

    @field_validator("of", "at")
    @classmethod
    def _absolute(cls, path: str) -> str:
        if not path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"{path!r} is not an absolute path without `..`")
        return "/" + posixpath.normpath(path).lstrip("/")

    def holds(self, path: str) -> bool:
        return path == self.of or path.startswith(self.of.rstrip("/") + "/")

    def inside(self, path: bytes) -> bytes:
        """Where `path` is to be read."""
        return _replaced(path, self.of.encode(), self.at.encode())

    def outside(self, path: bytes) -> bytes:
        """The path that something in the snapshot stands for."""
        return _replaced(path, self.at.encode(), self.of.encode())


def _replaced(path: bytes, old: bytes, new: bytes) -> bytes:
    rest = path[len(old.rstrip(b"/")) :]
    return (new.rstrip(b"/") + rest).rstrip(b"/") or b"/"


@contextmanager
def held(host: Host, source: str, options: SnapshotOptions, warn: Callable[[str], None]) -> Iterator[None]:
    """The snapshot is there inside. `warn` is told what was found of an earlier run, and what is left of this one. Raises
    SourceError when there is no snapshot: then nothing is read."""
    if _is_there(host, options):
        warn(f"{options.at} on host {host.name} is left from a run that was killed: removed")
        _remove(host, options)
        if _is_there(host, options):
            raise SourceError(
                f"source {source}: the snapshot that an earlier run left at {options.at} on host {host.name} is not gone, "
                "although `remove` reported success",
                source=source,
                next_step=f"remove it by hand, and correct `remove` of source {source}",
            )
    try:
        _run(host, options, options.create)
    except UserError as first:
        if isinstance(first, UnreachableError):
            raise
        with suppress(UserError):  # `create` tells whether it helped
            _remove(host, options)  # what is half there: a volume that was never mounted
        try:
            _run(host, options, options.create)
        except UserError as error:
            with suppress(UserError):  # the message below is about what came first
                _remove(host, options)
            raise SourceError(
                f"source {source}: no snapshot of {options.of}, so nothing was read: {' '.join(error.message.split())}",
                source=source,
                next_step=f"try `create` of source {source} by hand on host {host.name}",
            ) from first
        warn(f"a snapshot was half there on host {host.name}, from a run that was killed: removed")
    try:
        if not _is_there(host, options):
            raise SourceError(
                f"source {source}: {options.at} on host {host.name} is empty or not there after `create`",
                source=source,
                next_step=f"correct `at` or `create` of source {source}",
            )
        yield
    finally:
        try:
            _remove(host, options)
        except UserError as error:
            warn(f"the snapshot at {options.at} on host {host.name} is left: {' '.join(error.message.split())}")


class EmptyDirectories:
    """Of a scan of the snapshot, in its order: the directories that hold nothing."""

    def __init__(self) -> None:
        self._found: list[bytes] = []
        self._last = b""

    def met(self, info: FileInfo) -> None:
        if self._last and not info.path.startswith(self._last + b"/"):
            self._found.append(self._last)
        self._last = info.path if info.kind == "dir" and not info.error else b""

    def all(self) -> list[bytes]:
        return [*self._found, self._last] if self._last else self._found


def left_out(host: Host, options: SnapshotOptions, empty: Sequence[bytes]) -> bytes | None:
    """The first of the directories `empty` that is another file system in what the snapshot is of, and so no part of the
    snapshot: a mount, a subvolume or a dataset of its own. None when there is none, or when this account may not look there."""
    if not empty:
        return None
    of, device = options.of.encode(), 0
    wanted = {options.outside(path) for path in empty}
    with suppress(OSError, UserError):
        for info in host.scan(of, only=sorted(wanted)):
            if info.path == of:
                device = info.device_id
            elif info.path in wanted and info.kind == "dir" and info.device_id != device:
                return info.path
    return None


def _is_there(host: Host, options: SnapshotOptions) -> bool:
    """A mount point that nothing is mounted on is empty."""
    try:
        return bool(host.list_directory(options.at.encode()))
    except FileNotFoundError:
        return False


def _run(host: Host, options: SnapshotOptions, commands: list[list[str]]) -> None:
    for argv in commands:
        host.run(argv, timeout=options.timeout, check=True)


def _remove(host: Host, options: SnapshotOptions) -> None:
    """Every command is tried: one may have nothing to do any more. Raises the first failure."""
    failures: list[UserError] = []
    for argv in options.remove:
        try:
            host.run(argv, timeout=options.timeout, check=True)
        except UserError as error:
            failures.append(error)
    if failures:
        raise failures[0]
