"""What a source hands to the writer, one at a time: the shape in which data flows down the stairs.

A session yields entries depth first: a directory before what it holds, names inside one directory in ascending byte order,
siblings never interleaved. Directories that nobody yields are made by the writer (mode 0755).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from backupctl.hosts.protocol import ByteSource
from backupctl.repository.format.node import Node

ProblemKind = Literal["unreadable", "vanished", "changed", "failed"]
"""`failed` is a stream that broke."""


@dataclass(frozen=True, slots=True)
class Chunking:
    """`content`: content-defined cuts, every `block_size` bytes on average (0: the repository's own average). `fixed`: blocks
    of `block_size` bytes, for files made of pages."""

    kind: Literal["content", "fixed"] = "content"
    block_size: int = 0


@dataclass(frozen=True, slots=True)
class LocalTree:
    """A directory of this machine that the writer may walk itself, in several processes. `exclude` as in `Host.scan`. `seen`
    is told, now and then, how many objects of each kind were met since (and "unreadable" ones), and their bytes. From `root` on,
    which is `path` or lies above it (empty: `path`), nothing is followed as a link."""

    path: bytes
    exclude: tuple[str, ...] = ()
    seen: Callable[[Mapping[str, int], int], None] = lambda kinds, size: None
    root: bytes = b""


@dataclass(slots=True)
class Entry:
    """`path` is relative to the source's own directory in the snapshot, without a leading slash, e.g. b"srv/www/a.html".
    `node` carries the metadata (name = last part of `path`), without content and subtree.
    `open` gives the bytes of a regular file; None for everything else. Reading to the end and closing must raise
    (SourceError, OSError) when the stream did not end properly: the writer then leaves the entry out and records it.
    `stable`: the stream has a stable identity (a file on disk) and may be recognised as unchanged from the parent
    by size, mtime, ctime and inode without being opened. Dumps are never stable.
    `error` set: the entry could not be read at all; the writer records it and stores nothing for it.
    `below` set, for a directory: what lies below it is there, and is not yielded.
    `number`: what stands for the node's st_dev in the snapshot, 0 for whatever the writer finds: the number of the directory
    that it lies in, where that is on the same file system.
    `changed`: called with the stream after its end; True means the content changed while it was read.
    `passed`: called at the stream's end with the size and SHA-256 of the content that is being stored."""

    path: bytes
    node: Node
    open: Callable[[], ByteSource] | None = None
    stable: bool = False
    chunking: Chunking = Chunking()
    error: str = ""
    changed: Callable[[ByteSource], bool] | None = None
    below: LocalTree | None = None
    number: int = 0
    passed: Callable[[int, bytes], None] | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something a run could not read properly."""

    source: str
    path: str  # for people; bytes that are not UTF-8 appear as \\xNN
    kind: ProblemKind
    message: str
