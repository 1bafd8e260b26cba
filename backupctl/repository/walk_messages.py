"""What a walk of a local file tree and its workers say to each other: tasks there, answers back. Both are pickled."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from backupctl.repository.entry import ProblemKind
from backupctl.repository.format.crypto import Keys
from backupctl.repository.format.pack import BlobKind
from backupctl.repository.looks import Looks

TASK_BYTES = 2 << 20  # read by one task, about
TASK_ENTRIES = 1500  # looked at by one task, about


@dataclass(frozen=True, slots=True)
class WalkSettings:
    """What is the same for every task of one source."""

    keys: Keys
    chunker_key: bytes
    source: str
    root: bytes  # absolute path on this machine
    exclude: tuple[str, ...]
    known: str  # path of a KnownBlobs, "" for none


class Piece(NamedTuple):
    """A directory, or some of its names. `device` and `device_id`: st_dev of the file system it lies on, and the number
    that stands for it in nodes. `base`: the hex id of the parent snapshot's tree for it, "" for none. `old`: of the tree that
    files may be taken over from, which is the same, unless an interrupted run got further."""

    path: bytes
    names: list[bytes] | None
    device: int
    device_id: int
    old: str
    base: str


class TreeRun(NamedTuple):
    """A stretch of a pack with trees in it, sealed and not verified. `rows`: what the index says of its blobs, as
    `segment.RECORD`; `start`: where in the pack it begins."""

    rows: bytes
    start: int
    sealed: bytes | bytearray


class Task(NamedTuple):
    """`trees`: text of old trees by hex id; b"" for one that cannot be read. `runs`: further old trees. `lost`: hex ids of
    blobs that must be made again. `fresh`: paths whose equal times prove nothing."""

    pieces: list[Piece]
    trees: dict[str, bytes]
    runs: list[TreeRun]
    lost: frozenset[str]
    fresh: frozenset[bytes]
    bytes: int = TASK_BYTES  # read at most, about
    entries: int = TASK_ENTRIES  # looked at, about


Blob = tuple[BlobKind, bytes, int, int, bytes | bytearray]
"""Kind, id, size of the content, plain length, sealed. A plain tuple: pickling a named one calls Python for each of them."""


class Large(NamedTuple):
    """A file that the caller has to read. `base` is its node's text in the parent snapshot, "" for none."""

    name: bytes
    base: str


class Below(NamedTuple):
    """A directory whose content is not complete yet. `old` and `base` are its node's texts in those trees."""

    name: bytes
    start: str
    old: str
    base: str


@dataclass(slots=True)
class Part:
    """What is done of one directory that is not complete. `more`: pieces of it among `Answer.left`."""

    path: bytes
    texts: list[tuple[bytes, str]] = field(default_factory=list)
    below: list[Below] = field(default_factory=list)
    large: list[Large] = field(default_factory=list)
    more: int = 0
    device: int = 0
    device_id: int = 0
    gone: bool = False  # not to be stored: it could not be read


@dataclass(slots=True)
class Answer:
    """`parts` lists a directory before those in it. `reused` and `trees` are ids of blobs that the nodes rely on, without
    their content; `claimed` are new ones that another task is said to have sealed, with a file that has them."""

    parts: list[Part] = field(default_factory=list)
    left: list[Piece] = field(default_factory=list)
    blobs: list[Blob] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)  # `","` between the ids of one file
    trees: list[str] = field(default_factory=list)
    claimed: list[tuple[bytes, bytes]] = field(default_factory=list)
    unopened: list[str] = field(default_factory=list)  # old trees that came and could not be opened
    whole: list[tuple[bytes, bytes | None]] = field(default_factory=list)  # multi-blob files; None: as in the parent
    fresh: list[bytes] = field(default_factory=list)
    problems: list[tuple[bytes, ProblemKind, str]] = field(default_factory=list)  # path, kind, message
    kinds: Counter[str] = field(default_factory=Counter)
    seen_bytes: int = 0  # by lstat
    files: list[int] = field(default_factory=lambda: [0, 0, 0])  # new, changed, unmodified
    dirs: list[int] = field(default_factory=lambda: [0, 0, 0])
    others: int = 0  # stored: neither files nor directories
    size: int = 0  # bytes stored or taken over
    resumed_files: int = 0  # taken over from what an interrupted run had read, and their bytes
    resumed_bytes: int = 0
    last: bytes = b""
    looks: Looks = field(default_factory=Looks)  # of what was read
