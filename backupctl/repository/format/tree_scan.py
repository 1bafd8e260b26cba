"""What a tree refers to, read quickly: one regular expression matches a node as restic and we write it.

Everything the expression does not match goes through `iterate_tree`, which decides. What it does match is a subset of what
`iterate_tree` accepts: a test holds both against each other.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field

from backupctl.repository.format import FormatError
from backupctl.repository.format.tree import iterate_tree

ID_BYTES = 32

_WORD = r'[^"\\\x00-\x1f]'
_NAME = r'[^"\\\x00-\x1f/]'
_ID = r'"[0-9a-f]{64}"'
_DAY = (
    r"(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"  # no 29 February
)
_TIME = rf'"\d{{4}}-{_DAY}T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{{1,9}})?Z"'
_U32 = r"(?:[1-3]\d{9}|[1-9]\d{0,8}|0)"
_U64 = r"(?:[1-9]\d{0,18}|0)"
_NODE = re.compile(
    rf'\{{"name":"({_NAME}+)","type":"(?:(file)|(dir)|symlink|fifo|socket|dev|chardev)"(?:,"mode":{_U32})?'
    rf',"mtime":{_TIME},"atime":{_TIME},"ctime":{_TIME},"uid":{_U32},"gid":{_U32}'
    rf'(?:,"user":"{_WORD}*")?(?:,"group":"{_WORD}*")?(?:,"inode":{_U64})?(?:,"device_id":{_U64})?'
    rf'(?:,"size":({_U64}))?(?:,"links":{_U64})?(?:,"linktarget":"{_WORD}*")?(?:,"device":{_U64})?'
    rf',"content":(?:null(?:,"subtree":"([0-9a-f]{{64}})")?|\[((?:{_ID}(?:,{_ID})*)?)\])\}}([,\]])',
    re.ASCII,
)
_START = '{"nodes":['
_ENDS = ("}\n", "}")


@dataclass(slots=True)
class TreeScan:
    """`subtrees` and `content` are ids end to end. `sizes` and `counts`: bytes and number of blobs of each file. `sound` is
    False when something is wrong with the tree itself; what could be read of it is here all the same."""

    subtrees: bytes = b""
    content: bytes = b""
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    counts: array[int] = field(default_factory=lambda: array("I"))
    sound: bool = True


def scan_tree(data: bytes) -> TreeScan:
    """Never raises."""
    return _scan_written(data) or _scan_any(data)


def _scan_written(data: bytes) -> TreeScan | None:
    """None for a tree that is not written as restic and we write it, or is wrong."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    if not text.startswith(_START):
        return None
    found = TreeScan()
    if text[len(_START) :] in ("]}\n", "]}"):
        return found
    subtrees: list[str] = []
    content: list[str] = []
    previous = ""
    following = _NODE.scanner(text, len(_START)).match  # type: ignore[attr-defined]  # typeshed does not know scanners
    while True:
        match = following()
        if match is None:
            return None
        name, is_file, is_directory, size, subtree, blobs, after = match.groups()
        if name <= previous or name == "." or name == "..":
            return None
        previous = name
        if is_file:
            if blobs is None:
                return None
            found.sizes.append(int(size or 0))
            found.counts.append((len(blobs) + 1) // (2 * ID_BYTES + 3))
            if blobs:
                content.append(blobs)
        elif is_directory:
            if subtree is None:
                return None
            subtrees.append(subtree)
        elif subtree is not None or blobs is not None:
            return None
        if after == "]":
            break
    if text[match.end() :] not in _ENDS:
        return None
    found.subtrees = bytes.fromhex("".join(subtrees))
    found.content = bytes.fromhex(",".join(content).replace('"', "").replace(",", " "))
    return found


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
