"""Trees into nodes, quickly: one regular expression matches a node as restic and we write it.

Whatever it does not match goes through `decode_tree`, which decides. What it does match is a subset of what `decode_tree`
accepts, with the same result: a test holds both against each other. A node takes 5 µs instead of 20 (Python 3.11).
"""

from __future__ import annotations

import re
from functools import lru_cache

from backupctl.repository.format import FormatError
from backupctl.repository.format.node import Node, NodeType
from backupctl.repository.format.times import parse_time
from backupctl.repository.format.tree import decode_tree, unix_mode

_WORD = r'[^"\\\x00-\x1f]'
_TIME = r'"(\d{4}-\d\d-\d\dT\d\d:\d\d:[0-5]\d(?:\.\d{1,9})?Z)"'
_U32 = r"([1-3]\d{9}|[1-9]\d{0,8}|0)"
_U64 = r"([1-9]\d{0,18}|0)"
_ID = r'"[0-9a-f]{64}"'
_NODE = re.compile(
    rf'\{{"name":"([^"\\\x00-\x1f/]+)","type":"(file|dir|symlink|fifo|socket|dev|chardev)"(?:,"mode":{_U32})?'
    rf',"mtime":{_TIME},"atime":{_TIME},"ctime":{_TIME},"uid":{_U32},"gid":{_U32}'
    rf'(?:,"user":"({_WORD}*)")?(?:,"group":"({_WORD}*)")?(?:,"inode":{_U64})?(?:,"device_id":{_U64})?'
    rf'(?:,"size":{_U64})?(?:,"links":{_U64})?(?:,"linktarget":"({_WORD}*)")?(?:,"device":{_U64})?'
    rf',"content":(?:null|\[((?:{_ID}(?:,{_ID})*)?)\])(?:,"subtree":"([0-9a-f]{{64}})")?\}}([,\]])',
    re.ASCII,
)
_START = '{"nodes":['
_KINDS: dict[str, NodeType] = {
    "file": "file",
    "dir": "dir",
    "symlink": "symlink",
    "fifo": "fifo",
    "socket": "socket",
    "dev": "dev",
    "chardev": "chardev",
}
_mode = lru_cache(maxsize=1024)(unix_mode)


def read_tree(data: bytes) -> list[Node]:
    """The nodes of a tree, as `decode_tree` gives them. Raises FormatError."""
    try:
        nodes = _read_written(data)
    except (UnicodeDecodeError, FormatError):
        nodes = None
    return decode_tree(data) if nodes is None else nodes


@lru_cache(maxsize=4096)
def _minute(text: str) -> int:
    return parse_time(text + ":00Z")


def _time(text: str) -> int:
    fraction = int(text[20:-1].ljust(9, "0")) if len(text) > 20 else 0
    return _minute(text[:16]) + int(text[17:19]) * 1_000_000_000 + fraction


def _read_written(data: bytes) -> list[Node] | None:
    """None for a tree that is not written as restic and we write it, or is wrong."""
    text = data.decode()
    nodes: list[Node] = []
    position = len(_START)
    if not text.startswith(_START):
        return None
    if text[position:] in ("]}\n", "]}"):
        return nodes
    match_node = _NODE.match
    while True:
        match = match_node(text, position)
        if match is None:
            return None
        name, kind, mode, mtime, atime, ctime, uid, gid, user, group, *rest = match.groups()
        inode, device_id, size, links, target, device, blobs, subtree, after = rest
        if name in (".", ".."):
            return None
        content = None
        if kind == "file" and blobs is not None:
            content = [bytes.fromhex(blobs[start : start + 64]) for start in range(1, len(blobs), 67)]
        mtime_ns = _time(mtime)  # the other two are the same in most of what we write: not worked out again
        nodes.append(
            Node(
                name.encode(),
                _KINDS[kind],
                _mode(int(mode)) if mode else 0,
                mtime_ns,
                mtime_ns if atime == mtime else _time(atime),
                mtime_ns if ctime == mtime else _time(ctime),
                int(uid),
                int(gid),
                user or "",
                group or "",
                int(inode) if inode else 0,
                int(device_id) if device_id else 0,
                int(size) if size else 0,
                int(links) if links else 0,
                target.encode() if target else b"",
                [],
                int(device) if device else 0,
                content,
                bytes.fromhex(subtree) if subtree else None,
            )
        )
        position = match.end()
        if after == "]":
            break
    return nodes if text[position:] in ("}\n", "}") else None
