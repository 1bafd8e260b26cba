"""Trees: one directory as canonical JSON, so that equal directories have equal ids in restic and here."""

from __future__ import annotations

import base64
import binascii
import stat
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from backupctl.repository.format import FormatError
from backupctl.repository.format.gojson import go_string, hex_id, iterate_list, string, unsigned
from backupctl.repository.format.names import quote_name, unquote_name
from backupctl.repository.format.node import Node, NodeType
from backupctl.repository.format.times import format_time, parse_time

# Unix permission bits → bits of Go's os.FileMode
_SPECIAL = ((0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20))
_TYPE_BITS: dict[NodeType, int] = {
    "file": 0,
    "dir": 1 << 31,
    "symlink": 1 << 27,
    "dev": 1 << 26,
    "chardev": 1 << 26 | 1 << 21,
    "fifo": 1 << 25,
    "socket": 1 << 24,
}
_TYPES: dict[str, NodeType] = {kind: kind for kind in _TYPE_BITS}
_KINDS: dict[int, NodeType] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "chardev",
    stat.S_IFBLK: "dev",
}
_WITHOUT_LINKS = frozenset(("dir", "fifo", "socket"))


def go_mode(node: Node) -> int:
    return (node.mode & 0o777) | _TYPE_BITS[node.type] | sum(go for unix, go in _SPECIAL if node.mode & unix)


def go_mode_bits(st_mode: int) -> int:
    """The format's mode of a stat's `st_mode`."""
    kind = _TYPE_BITS[_KINDS[stat.S_IFMT(st_mode)]]
    return (st_mode & 0o777) | kind | sum(go for unix, go in _SPECIAL if st_mode & unix)


def unix_mode(mode: int) -> int:
    return (mode & 0o777) | sum(unix for unix, go in _SPECIAL if mode & go)


def encode_node(node: Node) -> str:
    """The node's JSON, fields in the order and presence that restic writes."""
    parts = [f'{{"name":{go_string(quote_name(node.name))},"type":"{node.type}"']
    add = parts.append
    if mode := go_mode(node):
        add(f'"mode":{mode}')
    add(f'"mtime":"{format_time(node.mtime_ns)}"')
    add(f'"atime":"{format_time(node.atime_ns)}"')
    add(f'"ctime":"{format_time(node.ctime_ns)}"')
    add(f'"uid":{node.uid},"gid":{node.gid}')
    if node.user:
        add(f'"user":{go_string(node.user)}')
    if node.group:
        add(f'"group":{go_string(node.group)}')
    if node.inode:
        add(f'"inode":{node.inode}')
    if node.device_id:
        add(f'"device_id":{node.device_id}')
    if node.size and node.type == "file":
        add(f'"size":{node.size}')
    if node.links and node.type not in _WITHOUT_LINKS:
        add(f'"links":{node.links}')
    if node.linktarget:
        add(encode_linktarget(node.linktarget))
    if node.xattrs:
        add(encode_xattrs(node.xattrs))
    if node.device and node.type in ("dev", "chardev"):
        add(f'"device":{node.device}')
    if node.type == "file":
        add(_encode_content(node.content or ()))
    else:
        add('"content":null')
    if node.subtree is not None:
        add(f'"subtree":"{node.subtree.hex()}"')
    if node.error:
        add(f'"error":{go_string(node.error)}')
    parts[-1] += "}"
    return ",".join(parts)


def _encode_content(content: Iterable[bytes]) -> str:
    """A database has 100,000 blobs and more: no string for each."""
    ids = b"".join(content).hex(",", 32).replace(",", '","')
    return f'"content":["{ids}"]' if ids else '"content":[]'


def encode_linktarget(target: bytes) -> str:
    text = f'"linktarget":{go_string(target.decode("utf-8", "surrogateescape"))}'
    if _is_utf8(target):
        return text
    return f'{text},"linktarget_raw":"{base64.b64encode(target).decode()}"'


def encode_xattrs(xattrs: Iterable[tuple[bytes, bytes]]) -> str:
    return f'"extended_attributes":[{",".join(_encode_xattr(*pair) for pair in xattrs)}]'


def _encode_xattr(name: bytes, value: bytes) -> str:
    quoted = go_string(name.decode("utf-8", "surrogateescape"))
    return f'{{"name":{quoted},"value":"{base64.b64encode(value).decode()}"}}'


def encode_tree(nodes: Iterable[Node]) -> bytes:
    """The tree's bytes. Nodes are put in order; two nodes of one name are refused with FormatError."""
    ordered = sorted(nodes, key=lambda node: node.name)
    for before, after in pairwise(ordered):
        if before.name == after.name:
            raise FormatError(f"two nodes named {quote_name(after.name)}")
    text = ",".join(map(encode_node, ordered)).encode()
    return b"".join((b'{"nodes":[', text, b"]}\n"))


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _base64(value: object) -> bytes:
    if value is None:
        return b""
    try:
        return base64.b64decode(string(value), validate=True)
    except (binascii.Error, ValueError):
        raise FormatError("not base64") from None


def _xattrs(value: object) -> list[tuple[bytes, bytes]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise FormatError("extended attributes are not a list of objects")
    return [(string(item.get("name")).encode(), _base64(item.get("value"))) for item in value]


def decode_node(fields: object) -> Node:
    """Raises FormatError for a node that restic's check would refuse, and for a name that could leave its directory."""
    if not isinstance(fields, dict):
        raise FormatError("a node is not an object")
    get = fields.get
    name = unquote_name(string(get("name")))
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise FormatError(f"the name {quote_name(name)!r} cannot stand in a directory")
    try:
        return _decode_fields(name, get("type"), fields)
    except FormatError as error:
        raise FormatError(f"node {quote_name(name)!r}: {error}") from None


def _decode_fields(name: bytes, kind: Any, fields: dict[str, Any]) -> Node:
    get = fields.get
    node_type = _TYPES.get(kind) if isinstance(kind, str) else None
    if node_type is None:
        raise FormatError(f"unknown type {str(kind)[:40]!r}")
    content = get("content")
    if content is not None and not isinstance(content, list):
        raise FormatError("the content is not a list")
    subtree = get("subtree")
    raw = get("linktarget_raw")
    return Node(
        name=name,
        type=node_type,
        mode=unix_mode(unsigned(get("mode"), bits=32)),
        mtime_ns=_time(get("mtime")),
        atime_ns=_time(get("atime")),
        ctime_ns=_time(get("ctime")),
        uid=unsigned(get("uid"), bits=32),
        gid=unsigned(get("gid"), bits=32),
        user=string(get("user")),
        group=string(get("group")),
        inode=unsigned(get("inode")),
        device_id=unsigned(get("device_id")),
        size=unsigned(get("size")),
        links=unsigned(get("links")),
        linktarget=_base64(raw) if raw else string(get("linktarget")).encode(),
        xattrs=_xattrs(get("extended_attributes")),
        device=unsigned(get("device")),
        content=[hex_id(blob) for blob in content] if content is not None and node_type == "file" else None,
        subtree=None if subtree is None else hex_id(subtree),
        error=string(get("error")),
    )


def _time(value: object) -> int:
    return 0 if value is None else parse_time(value)


def iterate_tree(data: bytes) -> Iterator[Node]:
    """The nodes of a tree, one at a time, in the order they are stored. Raises FormatError where the damage is."""
    return map(decode_node, iterate_list(data, "nodes"))


def decode_tree(data: bytes) -> list[Node]:
    """The nodes of a tree. Raises FormatError."""
    return list(iterate_tree(data))
