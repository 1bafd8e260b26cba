"""The stream of mariadb-backup, made by hand: files whole, in their order, and every way in which it can be no such stream."""

from __future__ import annotations

import io
import struct
import zlib

import pytest

from backupctl.errors import SourceError
from backupctl.sources.xbstream import XbStream


def chunk(path: str, payload: bytes, offset: int = 0, *, checksum: int | None = None, kind: bytes = b"P") -> bytes:
    name = path.encode()
    head = struct.pack("<8sBcI", b"XBSTCK01", 0, kind, len(name)) + name
    return (
        head
        + struct.pack("<QQI", len(payload), offset, zlib.crc32(payload) if checksum is None else checksum)
        + payload
    )


def end(path: str) -> bytes:
    name = path.encode()
    return struct.pack("<8sBcI", b"XBSTCK01", 0, b"E", len(name)) + name


def files(stream: bytes) -> dict[str, bytes]:
    return {file.path: file.read() for file in XbStream(io.BytesIO(stream), "db").files()}


A = chunk("./a.ibd", b"first") + chunk("./a.ibd", b"second", 5)
REDO = chunk("ib_logfile0", b"redo"), chunk("ib_logfile0", b"more", 4) + end("ib_logfile0")


def test_files_come_whole_although_the_redo_log_is_sent_all_the_while() -> None:
    stream = REDO[0] + A + end("./a.ibd") + REDO[1] + chunk("b/b.frm", b"B") + end("b/b.frm") + end("empty")
    assert files(stream) == {"a.ibd": b"firstsecond", "b/b.frm": b"B", "empty": b"", "ib_logfile0": b"redomore"}
    between = chunk("./a.ibd", b"first") + REDO[0] + chunk("./a.ibd", b"second", 5) + end("./a.ibd") + REDO[1]
    assert files(between) == {"a.ibd": b"firstsecond", "ib_logfile0": b"redomore"}


def test_a_file_that_nobody_reads_is_passed_over() -> None:
    stream = A + end("./a.ibd") + chunk("b", b"B") + end("b")
    assert [file.path for file in XbStream(io.BytesIO(stream), "db").files()] == ["a.ibd", "b"]


def test_an_empty_stream_has_no_files() -> None:
    assert files(b"") == {}


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (A, "ends in the middle of a.ibd"),
        (REDO[0] + A + end("./a.ibd"), "ends before ib_logfile0 is complete"),
        (A[:-3], "ends in the middle of a chunk"),
        (A[:9], "ends in the middle of a chunk"),
        (b"x" * 100, "is no xbstream"),
        (chunk("a", b"x", kind=b"S"), "is no xbstream"),
        (chunk("", b"x"), "is no xbstream"),
        (chunk("a", b"x", checksum=1), "a checksum does not match"),
        (chunk("a", b"x") + chunk("a", b"y", 2), "is damaged in a: 1 bytes for offset 2"),
        (chunk("a", b"x") + chunk("a", b"x"), "is damaged in a: 1 bytes for offset 0"),
        (chunk("/etc/passwd", b"x"), "leads out of the data directory"),
        (chunk("a/../../b", b"x"), "leads out of the data directory"),
    ],
)
def test_what_is_no_whole_stream_is_refused_however_often_it_is_read(stream: bytes, reason: str) -> None:
    parts = XbStream(io.BytesIO(stream), "db")
    for _ in range(2):
        with pytest.raises(SourceError, match=reason):
            for file in parts.files():
                file.read()
