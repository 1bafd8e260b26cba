"""Log segments of a database server, each a sealed object of its own beside the repository's packs.

    backupctl/log/<archive>/<name>          four bytes length, sealed facts, sealed content

`archive` is derived from the repository's key and the server's own identifier, so that the store learns neither. A segment is
written once: the same content again is fine, other content under its name is refused. Facts (size, digest, what the content
holds) can be read without the content. Stock restic neither lists nor deletes these names.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from backupctl.errors import Corrupt, DamageError, Denied, Exists, NoSuchError, NotFound, UserError
from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import seal, unseal
from backupctl.repository.format.unpacked import decode_unpacked, encode_unpacked
from backupctl.repository.repository import Repository
from backupctl.storage.protocol import ObjectInfo

PREFIX = "backupctl/log/"
SCHEMA = 1
_LENGTH = struct.Struct(">I")
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")
_HEADER = {"server", "name", "size", "sha256", "facts"}
_FACTS_BYTES = 4096  # asked for at once: facts are rarely longer


class DifferentContentError(UserError):
    """A segment of that name is there and holds something else."""


@dataclass(frozen=True, slots=True)
class LogSegment:
    """`facts` as given when it was stored; `sha256` and `size` are of the content. `object_bytes`: of the whole object; 0
    when that was not noted."""

    name: str
    size: int
    sha256: str
    facts: dict[str, Any]
    object_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LogObject(ObjectInfo):
    """A segment as the store lists it, in the `directory` of its archive."""

    @property
    def directory(self) -> str:
        return self.name.rpartition("/")[0] + "/"

    @property
    def segment(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def id(self) -> bytes:
        """By which the ledger of reading knows it."""
        return hashlib.sha256(self.name.encode()).digest()


def list_objects(repository: Repository, directory: str = PREFIX) -> list[LogObject]:
    """Of every archive, or of the one with this directory, sorted by name."""
    found = [LogObject(info.name, info.size, info.modified) for info in repository.store.list(directory)]
    return sorted(found, key=lambda one: one.name)


def find_archive(repository: Repository, objects: Iterable[LogObject]) -> LogArchive | None:
    """The archive in whose directory they all lie, by what the first readable of them says; None when none can be read."""
    for one in objects:
        try:
            server = LogArchive.read_server(repository, one)
        except (DamageError, NoSuchError, Denied):
            continue
        archive = LogArchive(repository, server)
        if archive.directory == one.directory:
            return archive
    return None


class LogArchive:
    """The segments of one server in one repository. Reading raises NoSuchError only for what is truly not there; DamageError
    names an object that is not what it was."""

    def __init__(self, repository: Repository, server: str) -> None:
        self._repository, self._store, self._keys = repository, repository.store, repository.keys
        self.server = server
        self._directory = PREFIX + repository.derive(b"log " + server.encode(), 16).hex() + "/"

    @property
    def directory(self) -> str:
        return self._directory

    @classmethod
    def read_server(cls, repository: Repository, one: LogObject) -> str:
        """Whose segment an object says that it is. Raises as reading does."""
        archive = cls(repository, "")
        archive._directory = one.directory
        return str(archive._header(one.segment, archive._fetch(one.segment, _FACTS_BYTES, one.size))[0]["server"])

    def names(self, beginning: str = "") -> list[str]:
        """Sorted."""
        found = self._store.list(self._directory + beginning)
        return sorted(info.name.removeprefix(self._directory) for info in found)

    def put(self, name: str, content: bytes, facts: dict[str, Any]) -> bool:
        """Whether it is new. Raises DifferentContentError."""
        if not _NAME.fullmatch(name):
            raise UserError(f"{name!r} is no name for a log segment")
        self._repository.require_writable()
        digest = hashlib.sha256(content).hexdigest()
        body = seal(self._keys, encode_unpacked(content))
        header = {"schema": SCHEMA, "server": self.server, "name": name, "size": len(content), "sha256": digest}
        header |= {"stored": len(body), "facts": facts}
        sealed = seal(self._keys, encode_unpacked(json.dumps(header).encode()))
        whole = b"".join((_LENGTH.pack(len(sealed)), sealed, body))
        try:
            self._store.put(self._directory + name, whole, if_absent=True)
        except Exists:
            there = self.look(name)
            if there.sha256 == digest:
                return False
            raise DifferentContentError(
                f"log segment {name} is in the archive with other content ({there.size} bytes, SHA-256 {there.sha256[:12]}…; "
                f"this one {len(content)} bytes, {digest[:12]}…): it was not replaced",
                next_step="two servers of one origin archive to one place: stop one of them, or give it another repository",
            ) from None
        return True

    def look(self, name: str, object_bytes: int | None = None) -> LogSegment:
        """What is known of a segment, without its content. `object_bytes`: what a listing says that the object has; it is asked
        for otherwise."""
        return self._opened(name, self._fetch(name, _FACTS_BYTES, object_bytes))[0]

    def get(self, name: str) -> bytes:
        """Its content, verified."""
        data = self._fetch(name, None)
        segment, at = self._opened(name, data)
        try:
            content = decode_unpacked(unseal(self._keys, data[at:]))
        except FormatError as error:
            raise self._damage(name, str(error)) from None
        if len(content) != segment.size or hashlib.sha256(content).hexdigest() != segment.sha256:
            raise self._damage(name, "the content is not what its facts say")
        return content

    def delete(self, name: str) -> None:
        self._repository.require_locks()
        self._store.delete(self._directory + name)

    def _fetch(self, name: str, length: int | None, object_bytes: int | None = None) -> bytes:
        full = self._directory + name
        try:
            if length is None:
                return self._store.get(full)
            size = self._store.stat(full).size if object_bytes is None else object_bytes
            data = self._store.get(full, offset=0, length=min(length, size))
            if len(data) >= _LENGTH.size:
                (needed,) = _LENGTH.unpack_from(data)
                if len(data) < _LENGTH.size + needed <= size:
                    data = self._store.get(full, offset=0, length=_LENGTH.size + needed)
            return data
        except NotFound:
            raise NoSuchError(f"{self._store.location}: no log segment {name}") from None
        except Corrupt as error:
            raise self._damage(name, error.message) from None

    def _opened(self, name: str, data: bytes) -> tuple[LogSegment, int]:
        """The facts, and where the sealed content begins."""
        header, end = self._header(name, data)
        if (header["server"], header["name"]) != (self.server, name):
            raise self._damage(name, "it is another segment than its name says")
        object_bytes = end + header["stored"] if "stored" in header else 0
        return LogSegment(name, header["size"], header["sha256"], header["facts"], object_bytes), end

    def _header(self, name: str, data: bytes) -> tuple[dict[str, Any], int]:
        if len(data) < _LENGTH.size:
            raise self._damage(name, "it is cut short")
        (length,) = _LENGTH.unpack_from(data)
        end = _LENGTH.size + length
        try:
            header: dict[str, Any] = json.loads(decode_unpacked(unseal(self._keys, data[_LENGTH.size : end])))
            if header["schema"] != SCHEMA or not header.keys() >= _HEADER:
                raise FormatError("its facts have a form that this version does not know")
        except (FormatError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damage(name, str(error)) from None
        return header, end

    def _damage(self, name: str, what: str) -> DamageError:
        return DamageError(
            f"log segment {name} ({self._directory}{name}): {what}",
            name=self._directory + name,
            next_step="restore to a point before it; a new base backup (`backupctl run`) begins a new chain",
        )
