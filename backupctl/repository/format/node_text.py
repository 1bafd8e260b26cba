"""A node's JSON straight from what lstat said: the same text as `tree.encode_node` gives, without a Node in between.

Also finds nodes in the text of a stored tree, so that what did not change is compared and copied as text.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence

from backupctl.repository.format.gojson import go_string
from backupctl.repository.format.names import quote_name, unquote_name
from backupctl.repository.format.times import format_time
from backupctl.repository.format.tree import encode_linktarget, encode_xattrs, go_mode_bits

TREE_START = '{"nodes":['
TREE_END = "]}\n"
FILE_TAIL = '"content":['
"""What follows the start of a file's text; then its ids, quoted, and `]}`."""
XATTRS = '"extended_attributes":['
"""What comes between, when a file has any; they end with `],`."""

_ENCODING = sys.getfilesystemencoding()
_is_plain = re.compile(r"[ !#-%'-;=?-\[\]-~]*", re.ASCII).fullmatch  # neither Go's Quote nor its JSON touches these
# Inside strings every quote is escaped, so this is found between nodes only: attributes have no type.
_NODE = re.compile(r'\{"name":"((?:[^"\\]|\\.)*)","type":"')
_MODES: dict[int, str] = {}
_seconds: dict[int, str] = {}
_MOST_SECONDS = 1 << 14


def name_text(name: bytes) -> str:
    """The name as it stands in a tree, between the quotes."""
    text = name.decode(_ENCODING, "surrogateescape")
    return text if _is_plain(text) else go_string(quote_name(name))[1:-1]


def text_name(text: str) -> bytes:
    """The inverse of `name_text`. Raises FormatError, ValueError."""
    return unquote_name(json.loads(f'"{text}"'))


def time_text(ns: int) -> str:
    """As `format_time`, remembering whole seconds: files come with few different ones."""
    second, fraction = divmod(ns, 1_000_000_000)
    text = _seconds.get(second)
    if text is None:
        if len(_seconds) >= _MOST_SECONDS:
            _seconds.clear()
        text = _seconds[second] = format_time(second * 1_000_000_000)[:-1]
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else text + "Z"


def _mode(mode: int) -> str:
    text = _MODES.get(mode)
    if text is None:
        text = _MODES[mode] = f'"mode":{bits},' if (bits := go_mode_bits(mode)) else ""
    return text


def owner_text(uid: int, gid: int, user: str, group: str) -> str:
    """`uid` to `group`, for `node_start`."""
    text = f'"uid":{uid},"gid":{gid},'
    if user:
        text += f'"user":{go_string(user)},'
    return text + f'"group":{go_string(group)},' if group else text


def node_start(
    name: str,
    kind: str,
    status: os.stat_result,
    owner: str,
    *,
    size: int = 0,
    device_id: int = 0,
    linktarget: bytes = b"",
    xattrs: Sequence[tuple[bytes, bytes]] = (),
) -> str:
    """Everything of a node up to its content. `name` from `name_text`, `owner` from `owner_text`; `size` for files."""
    mtime_ns, ctime_ns = status.st_mtime_ns, status.st_ctime_ns
    mtime = time_text(mtime_ns)
    ctime = mtime if ctime_ns == mtime_ns else time_text(ctime_ns)
    parts = [
        f'{{"name":"{name}","type":"{kind}",{_mode(status.st_mode)}"mtime":"{mtime}","atime":"{mtime}","ctime":"{ctime}",{owner}'
    ]
    if status.st_ino:
        parts.append(f'"inode":{status.st_ino},')
    if device_id:
        parts.append(f'"device_id":{device_id},')
    if size:
        parts.append(f'"size":{size},')
    if kind not in ("dir", "fifo") and status.st_nlink:
        parts.append(f'"links":{status.st_nlink},')
    if linktarget:
        parts.append(encode_linktarget(linktarget) + ",")
    if xattrs:
        parts.append(encode_xattrs(xattrs) + ",")
    if kind in ("dev", "chardev") and status.st_rdev:
        parts.append(f'"device":{status.st_rdev},')
    return "".join(parts)


def file_text(start: str, content: Iterable[bytes]) -> str:
    ids = '","'.join([blob.hex() for blob in content])
    return f'{start}"content":["{ids}"]}}' if ids else start + '"content":[]}'


def directory_text(start: str, subtree: str) -> str:
    return f'{start}"content":null,"subtree":"{subtree}"}}'


def other_text(start: str) -> str:
    return start + '"content":null}'


def tree_bytes(texts: Iterable[str]) -> bytes:
    """The tree of nodes that are in order already."""
    return (TREE_START + ",".join(texts) + TREE_END).encode()


def node_spans(tree: str) -> dict[str, tuple[int, int]]:
    """Where each node of a stored tree begins and ends, by its name as written. Empty when the tree is not written as we
    and restic write it."""
    if not (tree.startswith(TREE_START) and tree.endswith(TREE_END)):
        return {}
    starts = [(match.group(1), match.start()) for match in _NODE.finditer(tree, len(TREE_START))]
    if not starts:  # an empty directory
        return {}
    ends = [start - 1 for _, start in starts[1:]] + [len(tree) - len(TREE_END)]
    return {name: (start, end) for (name, start), end in zip(starts, ends, strict=True)}
