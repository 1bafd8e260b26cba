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
from dataclasses import dataclass
from typing import Any

from backupctl.errors import Corrupt, DamageError, Exists, NoSuchError, NotFound, UserError
from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import seal, unseal
from backupctl.repository.format.unpacked import decode_unpacked, encode_unpacked
from backupctl.repository.repository import Repository

PREFIX = "backupctl/log/"
SCHEMA = 1
_LENGTH = struct.Struct(">I")
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")
_FACTS_BYTES = 4096  # asked for at once: facts are rarely longer


class DifferentContentError(UserError):
    """A segment of that name is there and holds something else."""


@dataclass(frozen=True, slots=True)
class LogSegment:
    """`facts` as given when it was stored; `sha256` and `size` are of the content."""

    name: str
    size: int
    sha256: str
    facts: dict[str, Any]


class LogArchive:
    """The segments of one server in one repository. Reading raises NoSuchError only for what is truly not there; DamageError
    names an object that is not what it was."""

    def __init__(self, repository: Repository, server: str) -> None:
        self._repository, self._store, self._keys = repository, repository.store, repository.keys
        self.server = server
        self._directory = PREFIX + repository.derive(b"log " + server.encode(), 16).hex() + "/"

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
        header = {"schema": SCHEMA, "server": self.server, "name": name, "size": len(content), "sha256": digest}
        sealed = seal(self._keys, encode_unpacked(json.dumps({**header, "facts": facts}).encode()))
        whole = b"".join((_LENGTH.pack(len(sealed)), sealed, seal(self._keys, encode_unpacked(content))))
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

    def look(self, name: str) -> LogSegment:
        """What is known of a segment, without its content."""
        return self._opened(name, self._fetch(name, _FACTS_BYTES))[0]

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

    def _fetch(self, name: str, length: int | None) -> bytes:
        full = self._directory + name
        try:
            if length is None:
                return self._store.get(full)
            size = self._store.stat(full).size
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
        if len(data) < _LENGTH.size:
            raise self._damage(name, "it is cut short")
        (length,) = _LENGTH.unpack_from(data)
        end = _LENGTH.size + length
        try:
            header = json.loads(decode_unpacked(unseal(self._keys, data[_LENGTH.size : end])))
            if (header["schema"], header["server"], header["name"]) != (SCHEMA, self.server, name):
                raise FormatError("it is another segment than its name says")
            return LogSegment(name, header["size"], header["sha256"], header["facts"]), end
        except (FormatError, ValueError, KeyError, TypeError) as error:
            raise self._damage(name, str(error)) from None

    def _damage(self, name: str, what: str) -> DamageError:
        return DamageError(
            f"log segment {name} ({self._directory}{name}): {what}",
            name=self._directory + name,
            next_step="restore to a point before it; a new base backup (`backupctl run`) begins a new chain",
        )
