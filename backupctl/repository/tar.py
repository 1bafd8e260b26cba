"""Writes tar archives: ustar headers, with pax records (IEEE 1003.1-2017, pax, "pax Header Block") for what those cannot
hold. Extended attributes as `SCHILY.xattr.*` and POSIX ACLs as `SCHILY.acl.*`, which GNU tar, star and libarchive read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from backupctl.repository.archive import Member, Write
from backupctl.repository.format.node import Node

_BLOCK = 512
_TYPES = {"file": b"0", "symlink": b"2", "chardev": b"3", "dev": b"4", "dir": b"5", "fifo": b"6"}
_HEADER = struct.Struct("100s8s8s8s12s12s8ss100s8s32s32s8s8s155s12x")
_RIGHTS = (0o4, "r"), (0o2, "w"), (0o1, "x")
_ACL_TAGS = {0x01: "user", 0x02: "user", 0x04: "group", 0x08: "group", 0x10: "mask", 0x20: "other"}
_ACL_NAMED = (0x02, 0x08)
_ACLS = {b"system.posix_acl_access": b"SCHILY.acl.access", b"system.posix_acl_default": b"SCHILY.acl.default"}
_FAILED = b"ARCHIVE-IS-INCOMPLETE"


class TarWriter:
    hard_links = True

    def __init__(self, write: Write) -> None:
        self._write = write
        self._inside = False  # of a file's content: what ends here is visibly cut short

    def add(self, member: Member, content: Iterator[bytes]) -> str:
        node = member.node
        if node.type not in _TYPES:
            return f"a {node.type} cannot be in a tar archive"
        self._write(_headers(member))
        if member.size:
            self._inside = True
            for piece in content:
                self._write(piece)
            self._write(bytes(-member.size % _BLOCK))
            self._inside = False
        return ""

    def finish(self) -> None:
        self._write(bytes(2 * _BLOCK))

    def fail(self) -> None:
        """GNU tar takes an archive that ends between two entries for whole: begin one more, and leave it at that."""
        if not self._inside:
            self._write(_header(_FAILED, Node(_FAILED, "file", 0o600), b"0", size=_BLOCK))


def _headers(member: Member) -> bytes:
    node = member.node
    name = member.name + (b"/" if node.type == "dir" else b"")
    target = member.link if member.link is not None else node.linktarget
    records = _pax_records(name, target, member.size, node)
    kind = b"1" if member.link is not None else _TYPES[node.type]
    header = _header(name, node, kind, size=member.size, target=target)
    if not records:
        return header
    body = b"".join(records)
    described = Node(b"", "file", 0o644)
    pax_name = b"PaxHeaders/" + member.name.rpartition(b"/")[2]
    return _header(pax_name, described, b"x", size=len(body)) + body + bytes(-len(body) % _BLOCK) + header


def _pax_records(name: bytes, target: bytes, size: int, node: Node) -> list[bytes]:
    user, group = _text(node.user), _text(node.group)
    values: list[tuple[bytes, bytes]] = []
    texts = ((b"path", name, 100), (b"linkpath", target, 100), (b"uname", user, 31), (b"gname", group, 31))
    texts_needed = [(key, value) for key, value, room in texts if len(value) > room or _is_unicode(value)]
    if not all(_is_utf8(value) for _, value in texts_needed):
        values.append((b"hdrcharset", b"BINARY"))
    values += texts_needed
    values += [
        (key, b"%d" % number)
        for key, number, digits in ((b"size", size, 11), (b"uid", node.uid, 7), (b"gid", node.gid, 7))
        if number >= 8**digits
    ]
    seconds, fraction = divmod(abs(node.mtime_ns), 1_000_000_000)
    if fraction or not 0 <= node.mtime_ns // 1_000_000_000 < 8**11:
        sign = b"-" if node.mtime_ns < 0 else b""
        values.append((b"mtime", (sign + b"%d.%09d" % (seconds, fraction)).rstrip(b"0").rstrip(b".")))
    for key, value in sorted(node.xattrs):
        text = _acl_text(value) if key in _ACLS else None
        if text is not None:
            values.append((_ACLS[key], text))
        else:
            values.append((b"SCHILY.xattr." + key.replace(b"%", b"%25").replace(b"=", b"%3D"), value))
    return [_record(key, value) for key, value in values]


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where the length counts its own digits too."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if rest + len(str(length)) != length:
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _header(name: bytes, node: Node, kind: bytes, *, size: int, target: bytes = b"") -> bytes:
    major, minor = (os.major(node.device), os.minor(node.device)) if kind in b"34" else (0, 0)
    fields = [
        name[:100],
        _octal(node.mode & 0o7777, 8),
        _octal(min(node.uid, 8**7 - 1), 8),
        _octal(min(node.gid, 8**7 - 1), 8),
        _octal(min(size, 8**11 - 1), 12),
        _octal(min(max(node.mtime_ns // 1_000_000_000, 0), 8**11 - 1), 12),
        b" " * 8,
        kind,
        target[:100],
        b"ustar\x0000",
        _text(node.user)[:31],
        _text(node.group)[:31],
        _octal(major, 8),
        _octal(minor, 8),
        b"",
    ]
    fields[6] = b"%06o\0 " % sum(_HEADER.pack(*fields))
    return _HEADER.pack(*fields)


def _octal(number: int, width: int) -> bytes:
    """Octal digits and a NUL; a device number that does not fit, in the base-256 form that GNU tar and libarchive read."""
    digits = b"%0*o\0" % (width - 1, number)
    return digits if len(digits) == width else b"\x80" + number.to_bytes(width - 1, "big")


def _acl_text(value: bytes) -> bytes | None:
    """An ACL as Linux keeps it in an attribute (linux/posix_acl_xattr.h, version 2), as text; None for anything else."""
    if len(value) < 4 or (len(value) - 4) % 8 or value[:4] != b"\x02\0\0\0":
        return None
    entries = []
    for tag, rights, identity in struct.iter_unpack("<HHI", value[4:]):
        if tag not in _ACL_TAGS:
            return None
        who = str(identity) if tag in _ACL_NAMED else ""
        letters = "".join(letter if rights & bit else "-" for bit, letter in _RIGHTS)
        entries.append(f"{_ACL_TAGS[tag]}:{who}:{letters}")
    return ",".join(entries).encode()


def _text(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _is_unicode(value: bytes) -> bool:
    """Neither ASCII, which every reader knows, nor raw bytes, which only the ustar field gives back as they are."""
    return not value.isascii() and _is_utf8(value)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
