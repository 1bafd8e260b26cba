"""What a tree refers to, read quickly: one regular expression matches a node as restic and we write it.

Everything the expression does not match goes through `iterate_tree`, which decides. What it does match is a subset of what
`iterate_tree` accepts: a test holds both against each other.
"""

from __future__ import annotations

import re
from array import array
from binascii import unhexlify
from collections.abc import Iterator
from dataclasses import dataclass, field

from backupctl.repository.format import FormatError
from backupctl.repository.format.tree import iterate_tree

ID_BYTES = 32

_WORD = rb'[^"\\\x00-\x1f]'
_NAME = rb'[^"\\\x00-\x1f/]'
_ID = rb'"[0-9a-f]{64}"'
_DAY = (
    rb"(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"  # no 29 February
)
_TIME = rb'"\d{4}-%b' % _DAY + rb'T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?Z"'
_U32 = rb"(?:[1-3]\d{9}|[1-9]\d{0,8}|0)"
_U64 = rb"(?:[1-9]\d{0,18}|0)"
_NODE = re.compile(
    rb'\{"name":"(%(name)b+)","type":"(?:(file)|(dir)|symlink|fifo|socket|dev|chardev)"(?:,"mode":%(u32)b)?'
    rb',"mtime":%(time)b,"atime":%(time)b,"ctime":%(time)b,"uid":%(u32)b,"gid":%(u32)b'
    rb'(?:,"user":"%(word)b*")?(?:,"group":"%(word)b*")?(?:,"inode":%(u64)b)?(?:,"device_id":%(u64)b)?'
    rb'(?:,"size":(%(u64)b))?(?:,"links":%(u64)b)?(?:,"linktarget":"%(word)b*")?(?:,"device":%(u64)b)?'
    rb',"content":(?:null(?:,"subtree":"([0-9a-f]{64})")?|\[()(?:%(id)b(?:,%(id)b)*+)?\])\}([,\]])'
    % {b"name": _NAME, b"u32": _U32, b"u64": _U64, b"time": _TIME, b"word": _WORD, b"id": _ID}
)
_START = b'{"nodes":['
_ENDS = (b"}\n", b"}")
_ENTRY_BYTES = 2 * ID_BYTES + 3  # of an id in a list: digits, quotes, comma
_PIECE_BYTES = 1000 * _ENTRY_BYTES  # a database is one file of a hundred thousand blobs: seven megabytes of digits


@dataclass(slots=True)
class TreeScan:
    """`subtrees` and `content` are ids end to end. `sizes` and `counts`: bytes and number of blobs of each file. `sound` is
    False when something is wrong with the tree itself; what could be read of it is here all the same."""

    subtrees: bytes = b""
    content: bytes = b""
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    counts: array[int] = field(default_factory=lambda: array("I"))
    sound: bool = True


class TreeScans:
    """Those of many trees, each with a number, in a third of the memory: no object for a tree."""

    __slots__ = ("_content", "_counts", "_files", "_numbers", "_sizes", "_sound", "_subtrees")

    def __init__(self) -> None:
        self._numbers, self._sound = array("I"), bytearray()
        self._subtrees: list[bytes] = []
        self._content: list[bytes] = []
        self._files, self._sizes, self._counts = array("I"), array("Q"), array("I")

    def add(self, number: int, scan: TreeScan) -> None:
        self._numbers.append(number)
        self._sound.append(scan.sound)
        self._subtrees.append(scan.subtrees)
        self._content.append(scan.content)
        self._files.append(len(scan.sizes))
        self._sizes += scan.sizes
        self._counts += scan.counts

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[tuple[int, TreeScan]]:
        start = 0
        for number, sound, subtrees, content, files in zip(
            self._numbers, self._sound, self._subtrees, self._content, self._files, strict=True
        ):
            end = start + files
            yield number, TreeScan(subtrees, content, self._sizes[start:end], self._counts[start:end], bool(sound))
            start = end


def scan_tree(data: bytes) -> TreeScan:
    """Never raises."""
    return _scan_written(data) or _scan_any(data)


def _scan_written(data: bytes) -> TreeScan | None:
    """None for a tree that is not written as restic and we write it, or is wrong."""
    if not data.startswith(_START) or not _is_text(data):
        return None
    found = TreeScan()
    sizes, counts = found.sizes, found.counts
    if data.startswith(b"]", len(_START)):
        return found if data[len(_START) + 1 :] in _ENDS else None
    subtrees: list[bytes] = []
    content = bytearray()
    previous = b""
    following = _NODE.scanner(data, len(_START)).match  # type: ignore[attr-defined]  # typeshed does not know scanners
    while True:
        match = following()
        if match is None:
            return None
        name, is_file, is_directory, size, subtree, blobs, after = match.groups()
        if name <= previous or name == b"." or name == b"..":
            return None
        previous = name
        if is_file:
            if blobs is None:
                return None
            begin, end = match.start(6), match.end() - 3
            sizes.append(int(size or 0))
            counts.append((end - begin + 1) // _ENTRY_BYTES)
            if end - begin < _ENTRY_BYTES:
                content += unhexlify(data[begin + 1 : end - 1])
            else:
                for start in range(begin, end, _PIECE_BYTES):
                    content += unhexlify(data[start : min(start + _PIECE_BYTES, end)].translate(None, b'",'))
        elif is_directory:
            if subtree is None:
                return None
            subtrees.append(subtree)
        elif subtree is not None or blobs is not None:
            return None
        if after == b"]":
            break
    if data[match.end() :] not in _ENDS:
        return None
    found.subtrees, found.content = unhexlify(b"".join(subtrees)), bytes(content)
    return found


def _is_text(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _scan_any(data: bytes) -> TreeScan:
    found = TreeScan()
    subtrees: list[bytes] = []
    content: list[bytes] = []
    previous = b""
    try:
        for node in iterate_tree(data):
            if node.name <= previous:
                found.sound = False
            previous = node.name
            if node.type == "dir":
                if node.subtree is None:
                    found.sound = False
                else:
                    subtrees.append(node.subtree)
            elif node.type == "file":
                if node.content is None:
                    found.sound = False
                else:
                    found.sizes.append(node.size)
                    found.counts.append(len(node.content))
                    content += node.content
    except FormatError:
        found.sound = False
    found.subtrees, found.content = b"".join(subtrees), b"".join(content)
    return found
