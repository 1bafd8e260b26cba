"""One entry of a directory as the repository keeps it. Encoding lives in `tree.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

NodeType = Literal["file", "dir", "symlink", "dev", "chardev", "fifo", "socket"]


@dataclass(slots=True)
class Node:
    """`mode` holds Unix bits (st_mode & 0o7777); `tree.py` translates to the format's own. Times: ns since 1970 UTC.
    `content` is a list of 32-byte blob ids for files and None for everything else; `subtree` is a directory's
    tree id."""

    name: bytes
    type: NodeType
    mode: int = 0
    mtime_ns: int = 0
    atime_ns: int = 0
    ctime_ns: int = 0
    uid: int = 0
    gid: int = 0
    user: str = ""
    group: str = ""
    inode: int = 0
    device_id: int = 0
    size: int = 0
    links: int = 0
    linktarget: bytes = b""
    xattrs: list[tuple[bytes, bytes]] = field(default_factory=list)
    device: int = 0
    content: list[bytes] | None = None
    subtree: bytes | None = None
    error: str = ""
