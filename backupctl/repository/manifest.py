"""The manifest: what every entry of a snapshot was, with the SHA-256 of each whole file as it was read from its source.

A restore is judged against it. Written today is schema 2 (`manifest_facts.py`): its entries are the nodes of the
snapshot's trees with what those do not say. Schema 1, which is still read, stands for itself: zstd frames, one per source in
byte order of their names, of JSON lines in depth-first order. Names are written as in trees (Go's `strconv.Quote`), so any
byte survives.

    {"path":"uploads/srv/www/a.html","type":"file","mode":420,"uid":33,"gid":33,"mtime_ns":1700000000000000000,
     "size":3,"sha256":"<hex>"[,"linktarget":"…"][,"xattrs":"<hex>"][,"privileged_xattrs":"<hex>"][,"device":n][,"link_group":n]}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast, get_args

import zstandard

from backupctl.errors import DamageError
from backupctl.repository.endless import WalkLimits
from backupctl.repository.format import FormatError
from backupctl.repository.format.names import quote_name, unquote_name
from backupctl.repository.format.node import Node, NodeType
from backupctl.repository.format.tree import iterate_tree
from backupctl.repository.manifest_facts import ManifestFacts, SourceTotals, decode_facts, is_head

if TYPE_CHECKING:
    from backupctl.repository.repository import Repository

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


class ManifestReader:
    """Iterates over a manifest as often as wanted. Raises DamageError where it, or a tree it needs, is not what it must
    be."""

    def __init__(
        self, data: bytes, *, name: str = "manifest", load_tree: Callable[[bytes], bytes] | None = None
    ) -> None:
        """`name` is what a DamageError calls the record. Entries of schema 2 need `load_tree`."""
        self._data = data
        self._name = name
        self._load_tree = load_tree
        self._facts: ManifestFacts | None = None

    @property
    def has_facts(self) -> bool:
        """Whether this is schema 2, which `facts` can read."""
        return is_head(next(self._lines(), b""))

    @property
    def facts(self) -> ManifestFacts:
        if self._facts is None:
            try:
                self._facts = decode_facts(self._lines())
            except (ValueError, TypeError, KeyError, AttributeError, FormatError, RecursionError) as error:
                raise self._damage(str(error)) from None
        return self._facts

    def __iter__(self) -> Iterator[ManifestEntry]:
        if not self.has_facts:
            return map(self._decode, self._lines())
        return (entry for name in sorted(self.facts.sources, key=str.encode) for entry in self._of_trees(name))

    def source(self, name: str) -> Iterator[ManifestEntry]:
        """The entries of one source, depth first."""
        if self.has_facts:
            yield from self._of_trees(name)
            return
        text = _json_string(quote_name(name.encode())).encode()[:-1]
        start = b'{"path":' + text + b"/"
        found = False
        for line in self._lines():
            if line.startswith(start):
                found = True
                yield self._decode(line)
            elif found:
                return

    def totals(self, name: str) -> SourceTotals:
        """What the source held. Of schema 2 without reading a tree."""
        if self.has_facts:
            return self.facts.sources.get(name, SourceTotals())
        found = SourceTotals()
        for entry in self.source(name):
            found.count(entry.type, entry.size)
        return found

    def _of_trees(self, name: str) -> Iterator[ManifestEntry]:
        facts, groups = self.facts, _LinkGroups()
        if name not in facts.sources:
            return
        found = SourceTotals()
        for path, node in self._walk(name.encode()):
            entry = manifest_entry(path, node)
            found.count(node.type, node.size)
            if node.type == "file":
                entry.sha256 = self._hash(path, node)
                entry.fresh = path in facts.fresh
                entry.link_group = groups.of(node)
            yield entry
        if found != facts.sources[name]:
            raise self._damage(f"source {name!r} held {facts.sources[name]}, its trees hold {found}")

    def _walk(self, source: bytes) -> Iterator[tuple[bytes, Node]]:
        top = next((node for node in self._nodes(self.facts.tree) if node.name == source), None)
        if top is None or top.subtree is None:
            raise self._damage(f"its tree has no directory {source!r}")
        stack = [(source, self._nodes(top.subtree))]
        limits = WalkLimits()
        while stack:
            where, nodes = stack[-1]
            node = next(nodes, None)
            if node is None:
                stack.pop()
                continue
            path = where + b"/" + node.name
            yield path, node
            if node.subtree is not None:
                limits.enter(path, node)
                stack.append((path, self._nodes(node.subtree)))

    def _nodes(self, tree: bytes) -> Iterator[Node]:
        if self._load_tree is None:
            raise ValueError("the entries of this manifest are in trees, and nobody said how to load them")
        try:
            yield from iterate_tree(self._load_tree(tree))
        except FormatError as error:
            raise self._damage(f"tree {tree.hex()}: {error}") from None

    def _hash(self, path: bytes, node: Node) -> str:
        content = node.content or []
        if len(content) == 1:
            return content[0].hex()
        digest = self.facts.whole.get(path) if content else sha256(b"").digest()
        if digest is None:
            raise self._damage(f"no SHA-256 of {path!r}")
        return digest.hex()

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


class _LinkGroups:
    """Numbers for files with several names, in the order met. Holds those whose names have not all been met."""

    def __init__(self) -> None:
        self._open: dict[tuple[object, ...], tuple[int, int]] = {}  # file → its number, names still to come
        self._last = 0

    def of(self, node: Node) -> int:
        if node.links <= 1 or not node.inode:
            return 0
        # what differs in any of these was another file by the time its second name was read
        key = (node.device_id, node.inode, node.mtime_ns, node.ctime_ns, *(node.content or ()))
        number, to_come = self._open.get(key, (0, node.links))
        if not number:
            number = self._last = self._last + 1
        if to_come > 1:
            self._open[key] = number, to_come - 1
        else:
            self._open.pop(key, None)
        return number


def read_manifest(repository: Repository, record_id: str) -> ManifestReader:
    """Raises NoSuchError, DamageError."""
    data = repository.load_record(RECORD_KIND, record_id)
    return ManifestReader(
        data, name=f"backupctl/{RECORD_KIND}/{record_id}", load_tree=lambda tree: repository.load_blob("tree", tree)
    )


_json_string = json.JSONEncoder(ensure_ascii=False).encode


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
