"""Writes zip archives (PKWARE APPNOTE 6.3.10) to a stream that cannot be sought: sizes follow the content, zip64 where it is
needed, names in UTF-8, times in UTC, Unix rights, owners and symbolic links in the fields that Info-ZIP reads.
"""

from __future__ import annotations

import stat
import struct
import tempfile
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from backupctl.repository.archive import Member, Write
from backupctl.repository.format.node import Node

_UNIX = 3 << 8
_VERSION, _VERSION_ZIP64 = 20, 45
_SIZES_FOLLOW, _UTF8 = 1 << 3, 1 << 11
_STORED, _DEFLATED = 0, 8
_LEVEL = 6
_MOST = 0xFFFFFFFF
_ZIP64_FROM_BYTES = 0xF000_0000  # deflate may add a little to what does not compress
_IN_MEMORY_BYTES = 4 << 20
_KINDS = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "symlink": stat.S_IFLNK}
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DOS_FIRST, _DOS_LAST = datetime(1980, 1, 1, tzinfo=UTC), datetime(2107, 12, 31, 23, 59, 58, tzinfo=UTC)


class ZipWriter:
    """The central directory gathers in a temporary file, so that memory does not grow with the number of entries."""

    hard_links = False

    def __init__(self, write: Write) -> None:
        self._receive = write
        self._written = 0
        self._entries = 0
        self._directory = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115  lives as long as we do

    def add(self, member: Member, content: Iterator[bytes]) -> str:
        node = member.node
        if node.type not in _KINDS:
            return f"a {node.type} cannot be in a zip archive"
        name = member.name + (b"/" if node.type == "dir" else b"")
        if len(name) > 0xFFFF:
            return "its path is too long for a zip archive"
        if node.type == "symlink":
            content = iter((node.linktarget,))
        method = _DEFLATED if node.type == "file" and member.size else _STORED
        zip64 = member.size >= _ZIP64_FROM_BYTES
        version = _VERSION_ZIP64 if zip64 else _VERSION
        flags = _SIZES_FOLLOW | (_UTF8 if _is_utf8(name) else 0)
        extra = _extra(node)
        offset = self._written
        common = (flags, method, *_dos_time(node.mtime_ns))
        local_extra = (struct.pack("<HHQQ", 1, 16, 0, 0) if zip64 else b"") + extra
        sizes = (0, _MOST, _MOST) if zip64 else (0, 0, 0)
        self._write(_LOCAL.pack(b"PK\3\4", version, *common, *sizes, len(name), len(local_extra)) + name + local_extra)
        check, packed, size = self._content(content, method)
        self._write(struct.pack("<4sIQQ" if zip64 else "<4sIII", b"PK\7\x08", check, packed, size))
        self._remember(name, node, common, extra, check, packed, size, offset)
        return ""

    def _content(self, content: Iterator[bytes], method: int) -> tuple[int, int, int]:
        """CRC-32, bytes as packed, bytes."""
        check, size, start = 0, 0, self._written
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS) if method == _DEFLATED else None
        for piece in content:
            check = zlib.crc32(piece, check)
            size += len(piece)
            self._write(packer.compress(piece) if packer else piece)
        if packer:
            self._write(packer.flush())
        return check, self._written - start, size

    def _remember(
        self,
        name: bytes,
        node: Node,
        common: tuple[int, ...],
        extra: bytes,
        check: int,
        packed: int,
        size: int,
        offset: int,
    ) -> None:
        large = [number for number in (size, packed, offset) if number >= _MOST]
        if large:
            extra = struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large) + extra
        version = _VERSION_ZIP64 if large or size >= _ZIP64_FROM_BYTES else _VERSION
        rights = (_KINDS[node.type] | node.mode & 0o7777) << 16 | (0x10 if node.type == "dir" else 0)
        entry = _CENTRAL.pack(
            b"PK\1\2",
            _UNIX | version,
            version,
            *common,
            check,
            min(packed, _MOST),
            min(size, _MOST),
            len(name),
            len(extra),
            0,  # comment
            0,  # disk
            0,  # internal attributes
            rights,
            min(offset, _MOST),
        )
        self._directory.write(entry + name + extra)
        self._entries += 1

    def finish(self) -> None:
        start = self._written
        self._directory.seek(0)
        while piece := self._directory.read(1 << 20):
            self._write(piece)
        self._directory.close()
        size, count, end = self._written - start, self._entries, self._written
        if count >= 0xFFFF or start >= _MOST or size >= _MOST:
            versions = (_UNIX | _VERSION_ZIP64, _VERSION_ZIP64)
            self._write(_END64.pack(b"PK\6\6", _END64.size - 12, *versions, 0, 0, count, count, size, start))
            self._write(_LOCATOR.pack(b"PK\6\7", 0, end, 1))
        self._write(
            _END.pack(b"PK\5\6", 0, 0, min(count, 0xFFFF), min(count, 0xFFFF), min(size, _MOST), min(start, _MOST), 0)
        )

    def fail(self) -> None:
        """Nothing to do: without its directory at the end, no program takes it for a zip archive."""
        self._directory.close()

    def _write(self, data: bytes) -> None:
        self._receive(data)
        self._written += len(data)


def _extra(node: Node) -> bytes:
    """Info-ZIP's own fields: the time of change (UT, UTC), and the owners (ux)."""
    seconds = node.mtime_ns // 1_000_000_000
    time = struct.pack("<HHBi", 0x5455, 5, 1, seconds) if -(2**31) <= seconds < 2**31 else b""
    return time + struct.pack("<HHBBIBI", 0x7875, 11, 1, 4, node.uid, 4, node.gid)


def _dos_time(mtime_ns: int) -> tuple[int, int]:
    """Time and date, in steps of two seconds, from 1980 to 2107."""
    span = (_DOS_FIRST - _EPOCH) // timedelta(seconds=1), (_DOS_LAST - _EPOCH) // timedelta(seconds=1)
    when = _EPOCH + timedelta(seconds=min(max(mtime_ns // 1_000_000_000, span[0]), span[1]))
    date = (when.year - 1980) << 9 | when.month << 5 | when.day
    return when.hour << 11 | when.minute << 5 | when.second // 2, date


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
