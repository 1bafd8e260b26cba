"""A base backup as it comes from the server: frames of `replication_program`, taken apart into files while they pass.

The archives of all tablespaces come one after the other; each is a tar file, and nothing of it is kept in between. What
was stored of every file is compared with the server's own manifest, which comes last.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, NoReturn, cast

from backupctl.errors import SourceError
from backupctl.hosts.protocol import Process
from backupctl.sources.streams import said

BASE = "base.tar"
MANIFEST = b"backup_manifest"
TABLESPACES = b"pg_tblspc"
READ_BYTES = 1 << 20
TAR_BYTES = 1 << 16
"""Asked for at a time by the tar reader, which copies what is left of it at each call."""
_DEAD = "see the server's log for why it ended the base backup, then run the job again"
_NOT_IN_MANIFEST = re.compile(rb"backup_manifest|pg_wal(/.*)?|postgresql\.auto\.conf|recovery\.signal|standby\.signal")
_ARCHIVE = re.compile(rb"\d+\.tar")


class Frames:
    """What the program beside the server sends. Every end that is not the true one raises SourceError, again and again."""

    def __init__(self, process: Process, source: str) -> None:
        self._process, self._source = process, source
        self._buffer, self._at = b"", 0  # what was read, and how much of it was given
        self._failure: SourceError | None = None
        self.notices: list[tuple[str, str]] = []  # severity, text

    def next(self) -> tuple[bytes, bytes]:
        """The next frame; notices are collected on the way."""
        while True:
            kind, length = struct.unpack(">cI", self._exactly(5))
            payload = self._exactly(length)
            if kind != b"N":
                return kind, payload
            notice = json.loads(payload)
            self.notices.append((notice["severity"], notice["text"]))

    def expect(self, wanted: bytes) -> bytes:
        kind, payload = self.next()
        if kind != wanted:
            self.fail(f"sent {kind!r} where {wanted!r} was expected")
        return payload

    def ask(self, line: str) -> None:
        try:
            self._process.stdin.write(line.encode())
        except OSError:
            self.fail("ended early")

    def end(self) -> None:
        """Nothing more will be asked: the program must end well."""
        self._process.stdin.close()
        self.expect(b"Z")
        completed = self._process.finish()
        if completed.returncode != 0:
            self.fail(f"ended with {said(completed)}")

    def _exactly(self, size: int) -> bytes:
        if self._failure is not None:
            raise self._failure
        if len(self._buffer) - self._at < size:
            parts = [self._buffer[self._at :]]
            have = len(parts[0])
            while have < size:
                data = self._process.stdout.read(READ_BYTES)
                if not data:
                    self.fail(f"ended early: {said(self._process.finish())}")
                parts.append(data)
                have += len(data)
            self._buffer, self._at = b"".join(parts), 0
        self._at += size
        return self._buffer[self._at - size : self._at]

    def fail(self, what: str) -> NoReturn:
        self._failure = SourceError(
            f"source {self._source}: the base backup {what}",
            source=self._source,
            item="base backup",
            next_step=_DEAD,
        )
        raise self._failure


class _Archive:
    """The bytes of one archive: D frames, up to the first frame of another kind, which is kept in `following`."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._data = b""
        self.following: tuple[bytes, bytes] | None = None

    def read(self, size: int) -> bytes:
        parts, have = [self._data], len(self._data)
        while have < size and self.following is None:
            kind, payload = self._frames.next()
            if kind != b"D":
                self.following = (kind, payload)
            else:
                parts.append(payload)
                have += len(payload)
        data = b"".join(parts)
        self._data = data[size:]
        return data[:size]


@dataclass(slots=True)
class BackupFile:
    """One object of the data directory. `path` as it lies below the directory, tablespaces in place: what is below
    pg_tblspc/OID is the tablespace itself. `content` gives a file's bytes."""

    path: bytes
    member: tarfile.TarInfo
    content: IO[bytes] | None = None


@dataclass(frozen=True, slots=True)
class PassedFile:
    size: int
    sha256: str


@dataclass(slots=True)
class BaseBackup:
    """`files` is read to its end before anything else is known."""

    frames: Frames
    source: str
    start_lsn: str = ""
    end_lsn: str = ""
    timeline: int = 0
    system: str = ""
    segment_bytes: int = 0
    tablespaces: dict[str, str] = field(default_factory=dict)  # oid → where it lies on the source's host
    expected_bytes: int = 0  # of all files, as the server estimated
    passed: dict[bytes, PassedFile] = field(default_factory=dict)
    manifest: bytes = b""
    failed: str = ""  # what the server said at the end, although everything had been sent

    def begin(self) -> None:
        facts = json.loads(self.frames.expect(b"B"))
        self.start_lsn, self.timeline = facts["lsn"], facts["timeline"]
        self.tablespaces = {oid: path for oid, path, _ in facts["tablespaces"] if oid}
        self.expected_bytes = sum(int(size or 0) << 10 for _, _, size in facts["tablespaces"])
        self.system, size = facts["system"].split(" ")
        self.segment_bytes = parse_bytes(size)

    def files(self) -> Iterator[BackupFile]:
        kind, payload = self.frames.next()
        while kind == b"A":
            archive = _Archive(self.frames)
            yield from self._members(archive, payload)
            while archive.following is None:  # what a tar reader leaves after the end mark
                archive.read(READ_BYTES)
            kind, payload = archive.following
        if kind != b"M":
            self.frames.fail(f"sent {kind!r} where its manifest was expected")
        parts = []
        while (frame := self.frames.next())[0] == b"D":
            parts.append(frame[1])
        self.manifest = b"".join(parts)
        if frame[0] != b"E":
            self.frames.fail(f"sent {frame[0]!r} where its end was expected")
        ended = json.loads(frame[1])
        self.end_lsn, self.failed = ended["lsn"], ended["failed"]
        if ended["timeline"] != self.timeline:
            self.frames.fail(
                f"began on timeline {self.timeline} and ended on {ended['timeline']}: a promotion meanwhile"
            )

    def _members(self, archive: _Archive, name: bytes) -> Iterator[BackupFile]:
        if name != BASE.encode() and not _ARCHIVE.fullmatch(name):
            self.frames.fail(f"sent an archive with the name {name!r}")
        prefix = b"" if name == BASE.encode() else TABLESPACES + b"/" + name.removesuffix(b".tar") + b"/"
        try:
            with tarfile.open(fileobj=cast(Any, archive), mode="r|", bufsize=TAR_BYTES) as tar:
                for member in tar:
                    path = member.name.encode("utf-8", "surrogateescape").removeprefix(b"./").rstrip(b"/")
                    if path in (b"", b"."):
                        continue
                    if any(part in (b"", b".", b"..") for part in path.split(b"/")):
                        self.frames.fail(f"holds the impossible path {path!r}")
                    if path.startswith(TABLESPACES + b"/"):
                        continue  # a link to a tablespace, whose own archive was put in its place
                    if member.isdir():
                        yield BackupFile(prefix + path, member)
                    elif member.isreg():
                        stream = tar.extractfile(member)
                        assert stream is not None
                        yield BackupFile(prefix + path, member, stream)
                    else:
                        self.frames.fail(f"holds {path!r}, which is neither a file nor a directory")
        except tarfile.TarError as error:
            self.frames.fail(f"is no proper archive: {name.decode()}: {error}")

    def note(self, path: bytes, size: int, sha256: bytes) -> None:
        """What was stored of a file."""
        self.passed[path] = PassedFile(size, sha256.hex())

    def differences(self) -> list[tuple[bytes, str]]:
        """What was stored against the server's manifest: (path, what is wrong)."""
        try:
            expected = parse_manifest(self.manifest)
        except (ValueError, KeyError, TypeError) as error:
            return [(MANIFEST, f"the server's manifest is not what it must be: {error}")]
        passed = {path: one for path, one in self.passed.items() if not _NOT_IN_MANIFEST.fullmatch(path)}
        found = []
        for path in sorted(expected.keys() | passed.keys()):
            want, have = expected.get(path), passed.get(path)
            if _NOT_IN_MANIFEST.fullmatch(path) or want == have:
                continue
            if want is None or have is None:
                what = "is in the manifest and was not sent" if have is None else "was sent and is not in the manifest"
            elif want.size != have.size:
                what = f"has {have.size} bytes, the manifest says {want.size}"
            else:
                what = f"has SHA-256 {have.sha256}, the manifest says {want.sha256}"
            found.append((path, what))
        return found


def parse_manifest(data: bytes) -> dict[bytes, PassedFile]:
    """path → size and digest. Raises ValueError, KeyError or TypeError for what is no manifest, or not whole: its last line
    holds the digest of all before it."""
    document = json.loads(data)
    body, mark, _ = data.rpartition(b'"Manifest-Checksum"')
    if not mark or hashlib.sha256(body).hexdigest() != document["Manifest-Checksum"]:
        raise ValueError("its own checksum does not match")
    files = {}
    for one in document["Files"]:
        path = one["Path"].encode() if "Path" in one else bytes.fromhex(one["Encoded-Path"])
        if one["Size"] and one["Checksum-Algorithm"] != "SHA256":
            raise ValueError(f"{path!r} has a checksum of kind {one['Checksum-Algorithm']}")
        files[path] = PassedFile(one["Size"], one["Checksum"])
    return files


def parse_bytes(text: str) -> int:
    """What SHOW prints for a size: 16MB."""
    found = re.fullmatch(r"(\d+)(kB|MB|GB|B)?", text)
    if not found:
        raise ValueError(f"{text!r} is no size")
    return int(found[1]) << {"kB": 10, "MB": 20, "GB": 30}.get(found[2] or "", 0)
