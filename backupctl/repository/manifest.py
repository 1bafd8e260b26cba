"""The manifest: what every entry of a snapshot was, with the SHA-256 of each whole file as it was read from its source.

A restore is judged against it, and an unchanged file takes its hash from the parent's. It is kept as the record
`manifest`: zstd frames, one per source in byte order of their names, of JSON lines in depth-first order. Names are
written as in trees (Go's `strconv.Quote`), so any byte survives. Memory holds one compressed manifest, never its lines.

    {"path":"uploads/srv/www/a.html","type":"file","mode":420,"uid":33,"gid":33,"mtime_ns":1700000000000000000,
     "size":3,"sha256":"<hex>"[,"linktarget":"…"][,"xattrs":"<hex>"][,"privileged_xattrs":"<hex>"][,"device":n][,"link_group":n]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, cast, get_args

import zstandard

from backupctl.errors import DamageError
from backupctl.repository.format import FormatError
from backupctl.repository.format.names import quote_name, unquote_name
from backupctl.repository.format.node import Node, NodeType

RECORD_KIND = "manifest"
_TYPES = frozenset(get_args(NodeType))
_READ_SIZE = 512  # compressed bytes at a time: zstd can make 16 MiB of them, and a hostile manifest would
_LONGEST_LINE_BYTES = 1 << 20


@dataclass(slots=True)
class ManifestEntry:
    """`path` starts with the source's name. Hashes are hex; "" means: does not apply, or there are none.
    `xattrs` covers what any owner may set (`user.*` and ACLs), `privileged_xattrs` the others. Files with an equal,
    non-zero `link_group` are hard links of one file. `fresh`: the file had changed so shortly before it was read that
    a further change could carry the same times, so equal times prove nothing."""

    path: bytes
    type: NodeType
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    sha256: str = ""
    linktarget: bytes = b""
    xattrs: str = ""
    privileged_xattrs: str = ""
    device: int = 0
    link_group: int = 0
    fresh: bool = False

    @property
    def source(self) -> bytes:
        return self.path.partition(b"/")[0]


def manifest_entry(path: bytes, node: Node) -> ManifestEntry:
    """The entry that describes `node` at `path`; the fields about a file's content are still to be filled in."""
    owner_set, privileged = xattr_hashes(node.xattrs)
    return ManifestEntry(
        path=path,
        type=node.type,
        mode=node.mode,
        uid=node.uid,
        gid=node.gid,
        mtime_ns=node.mtime_ns,
        size=node.size if node.type == "file" else 0,
        linktarget=node.linktarget,
        xattrs=owner_set,
        privileged_xattrs=privileged,
        device=node.device if node.type in ("dev", "chardev") else 0,
    )


def xattr_hashes(xattrs: Iterable[tuple[bytes, bytes]]) -> tuple[str, str]:
    """Hash of what an owner may set, hash of the rest; "" for none. The order of attributes does not matter. SELinux
    labels are left out: the machine that restores gives every file one by its own policy."""
    hashes = []
    pairs = sorted(pair for pair in xattrs if pair[0] != b"security.selinux")
    for wanted in (True, False):
        chosen = [pair for pair in pairs if pair[0].startswith((b"user.", b"system.posix_acl_")) is wanted]
        digest = sha256()
        for part in (part for pair in chosen for part in pair):
            digest.update(len(part).to_bytes(8, "big") + part)
        hashes.append(digest.hexdigest() if chosen else "")
    return hashes[0], hashes[1]


def path_key(path: bytes) -> list[bytes]:
    """Sorts paths the way a depth-first walk meets them."""
    return path.split(b"/")


class ManifestWriter:
    def __init__(self) -> None:
        self._sources: dict[bytes, tuple[zstandard.ZstdCompressionObj, list[bytes]]] = {}
        self.entries = 0

    def add(self, entry: ManifestEntry) -> None:
        """Entries of one source arrive depth first; sources in any order."""
        source = entry.source
        if source not in self._sources:
            self._sources[source] = (zstandard.ZstdCompressor(level=3).compressobj(), [])
        compressor, parts = self._sources[source]
        if part := compressor.compress(_encode(entry)):
            parts.append(part)
        self.entries += 1

    def finish(self) -> bytes:
        """The whole manifest, for `Repository.save_record`. Call once."""
        frames = []
        for _, (compressor, parts) in sorted(self._sources.items()):
            frames += [*parts, compressor.flush()]
        return b"".join(frames)


class ManifestReader:
    """Iterates over a manifest as often as wanted. Raises DamageError where a line is not what it must be."""

    def __init__(self, data: bytes, *, name: str = "manifest") -> None:
        """`name` is what a DamageError calls the record."""
        self._data = data
        self._name = name

    def __iter__(self) -> Iterator[ManifestEntry]:
        return map(self._decode, self._lines())

    def source(self, name: str) -> Iterator[ManifestEntry]:
        """The entries of one source, depth first."""
        text = _json_string(quote_name(name.encode())).encode()[:-1]
        start = b'{"path":' + text + b"/"
        found = False
        for line in self._lines():
            if line.startswith(start):
                found = True
                yield self._decode(line)
            elif found:
                return

    def _lines(self) -> Iterator[bytes]:
        rest = b""
        for piece in self._pieces():
            text, start = rest + piece, 0
            while (end := text.find(b"\n", start)) >= 0:  # not split: a million empty lines would be a million objects
                yield text[start:end]
                start = end + 1
            rest = text[start:]
            if len(rest) > _LONGEST_LINE_BYTES:
                raise self._damage("a line is too long")
        if rest:
            raise self._damage("it ends in the middle of a line")

    def _pieces(self) -> Iterator[bytes]:
        # By hand, because the library's stream reader takes a cut frame for a short one.
        position = 0
        while position < len(self._data):
            frame = zstandard.ZstdDecompressor().decompressobj()
            while not frame.eof:
                piece = self._data[position : position + _READ_SIZE]
                if not piece:
                    raise self._damage("it is cut short")
                try:
                    yield frame.decompress(piece)
                except zstandard.ZstdError as error:
                    raise self._damage(str(error)) from None
                position += len(piece) - len(frame.unused_data)

    def _decode(self, line: bytes) -> ManifestEntry:
        try:
            fields = json.loads(line)
            return _from_fields(fields)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, FormatError) as error:
            raise self._damage(f"line {line[:80]!r}: {str(error)[:200]}") from None

    def _damage(self, what: str) -> DamageError:
        return DamageError(
            f"{self._name} cannot be read: {what}",
            name=self._name,
            next_step="run `backupctl check --read-data` on this repository",
        )


_json_string = json.JSONEncoder(ensure_ascii=False).encode
_encode_fields = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _encode(entry: ManifestEntry) -> bytes:
    fields: dict[str, Any] = {
        "path": quote_name(entry.path),
        "type": entry.type,
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime_ns": entry.mtime_ns,
    }
    if entry.type == "file":
        fields |= {"size": entry.size, "sha256": entry.sha256}
    if entry.linktarget:
        fields["linktarget"] = quote_name(entry.linktarget)
    for name in ("xattrs", "privileged_xattrs", "device", "link_group", "fresh"):
        if value := getattr(entry, name):
            fields[name] = value
    return _encode_fields(fields).encode() + b"\n"


def _from_fields(fields: dict[str, Any]) -> ManifestEntry:
    kind, digest = fields["type"], fields.get("sha256", "")
    if kind not in _TYPES:
        raise ValueError(f"unknown type {kind!r}")
    if kind == "file" and len(bytes.fromhex(digest)) != 32:
        raise ValueError("no SHA-256 of the content")
    return ManifestEntry(
        path=unquote_name(fields["path"]),
        type=cast(NodeType, kind),
        mode=_integer(fields["mode"]),
        uid=_integer(fields["uid"]),
        gid=_integer(fields["gid"]),
        mtime_ns=_integer(fields["mtime_ns"]),
        size=_integer(fields.get("size", 0)),
        sha256=digest,
        linktarget=unquote_name(fields.get("linktarget", "")),
        xattrs=str(fields.get("xattrs", "")),
        privileged_xattrs=str(fields.get("privileged_xattrs", "")),
        device=_integer(fields.get("device", 0)),
        link_group=_integer(fields.get("link_group", 0)),
        fresh=bool(fields.get("fresh", False)),
    )


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"not an integer: {value!r}")
    return value
