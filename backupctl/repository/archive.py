"""A directory of a snapshot as one stream: the entries in byte order, each file's content while it is being loaded.

What writes them is a `TarWriter` or a `ZipWriter`. Memory is bounded by what is loaded ahead; equal snapshots give equal
bytes. An archive that could not be finished cannot be taken for a whole one: see `ArchiveWriter.fail`.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from backupctl.repository.format.names import display_name
from backupctl.repository.format.node import Node
from backupctl.repository.reader import BlobStream, SnapshotReader, clean

Write = Callable[[bytes], object]
Progress = Callable[[int, str], None]
"""Bytes of content so far, current path. Called often: must be cheap."""

_AHEAD_FILES = 32
_AHEAD_BYTES = 16 << 20


@dataclass(slots=True)
class Member:
    """`name` is relative, without a trailing slash. `link`: the name of an earlier member that is the same file. `size` is
    the content's, 0 for what has none."""

    name: bytes
    path: bytes  # in the snapshot
    node: Node
    size: int = 0
    link: bytes | None = None
    stream: BlobStream | None = None


class ArchiveWriter(Protocol):
    hard_links: bool  # whether it can say that two names are one file

    def add(self, member: Member, content: Iterator[bytes]) -> str:
        """Write one entry; "" or why it cannot be in such an archive. `content` gives exactly `member.size` bytes, or
        raises."""

    def finish(self) -> None:
        """Write what a whole archive ends with."""

    def fail(self) -> None:
        """Called instead of `finish`: makes sure that no program takes what was written for a whole archive."""


@dataclass(slots=True)
class ArchiveStats:
    """`skipped`: path for people, and why the archive cannot hold it."""

    entries: int = 0
    bytes: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


def write_archive(
    reader: SnapshotReader, path: bytes, writer: ArchiveWriter, *, progress: Progress | None = None
) -> ArchiveStats:
    """Everything below the directory `path`, named relative to it; what is no directory comes under its own name.

    Raises NoSuchError before anything is written; DamageError, which names the file or directory, and whatever the store
    or the receiver raise, after `fail`."""
    path = clean(path)
    reader.node(path)
    stats = ArchiveStats()

    def content(member: Member) -> Iterator[bytes]:
        if member.stream is not None:
            for blob in member.stream.blobs():
                stats.bytes += len(blob)
                yield blob
                if progress is not None:
                    progress(stats.bytes, display_name(member.path))

    try:
        for member in _loaded_ahead(reader, _members(reader, path, links=writer.hard_links)):
            try:
                reason = writer.add(member, content(member))
            finally:
                if member.stream is not None:
                    member.stream.close()
            if reason:
                stats.skipped.append((display_name(b"/" + member.path), reason))
            else:
                stats.entries += 1
        writer.finish()
    except BrokenPipeError:
        raise  # nobody is left who could take it for anything
    except BaseException:
        with contextlib.suppress(OSError):  # what made us fail is on its way up already
            writer.fail()
        raise
    return stats


def _members(reader: SnapshotReader, path: bytes, *, links: bool) -> Iterator[Member]:
    top = reader.node(path)
    skip = len(path) + 1 if path and top.type == "dir" else path.rfind(b"/") + 1
    made: dict[tuple[bytes, int, int], tuple[bytes, Node, int]] = {}  # name, node, names still to come
    for found, node in reader.walk(path):
        member = Member(found[skip:], found, node)
        if node.type == "file":
            member.size = reader.size(node)
            if links and node.links > 1 and node.inode:
                # inode numbers mean something within one source only: another may be of another machine
                key = (found.partition(b"/")[0], node.device_id, node.inode)
                name, first, left = made.get(key, (member.name, node, node.links))
                if first is not node and first.content == node.content:
                    member.link, member.size = name, 0
                if left > 1:
                    made[key] = (name, first, left - 1)
                else:
                    made.pop(key, None)
        yield member


def _loaded_ahead(reader: SnapshotReader, members: Iterator[Member]) -> Iterator[Member]:
    """The same; the files among the next few are being loaded already."""
    waiting: deque[Member] = deque()
    ahead_bytes = 0
    try:
        for member in members:
            waiting.append(member)
            if member.node.type == "file" and member.link is None:
                member.stream = reader.open_node(member.path, member.node)
                ahead_bytes += member.size
            while len(waiting) > _AHEAD_FILES or (waiting and ahead_bytes > _AHEAD_BYTES):
                ahead_bytes -= waiting[0].size
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for member in waiting:
            if member.stream is not None:
                member.stream.close()
