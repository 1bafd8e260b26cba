"""What snapshots need and cannot be read here any more: looked at before anything is repaired, the same way for each repair.

`examine` reads packs that are suspected and says which of their blobs are bad. A `Survey` then walks every tree once and
finds what is needed and has no good copy here: whether another repository holds it, and otherwise which paths lose by it.
Copies in packs that nobody suspects are believed, but for trees, which are read.

Memory: a byte for each blob of the index, an entry for each bad blob and each tree that loses something, some packs of trees.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from backupctl.errors import Corrupt, DamageError, NotFound
from backupctl.repository.check_reading import HEADER_DIFFERS, ListedPack, PackReading, read_packs, reading_pool
from backupctl.repository.check_trees import COUNTED_PATHS, SHOWN_PATHS, CheckProblem
from backupctl.repository.format import FormatError
from backupctl.repository.format.names import display_name
from backupctl.repository.format.pack import BlobKind, PackedBlob, encode_header, pack_bytes
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import iterate_tree
from backupctl.repository.format.tree_scan import ID_BYTES, scan_tree
from backupctl.repository.memory_index import Location, MemoryIndex
from backupctl.repository.repository import Repository, pack_name
from backupctl.repository.segment import RECORD, Segment, from_rows
from backupctl.repository.unlisted import read_headers, unlisted_packs

Key = tuple[BlobKind, bytes]

_TREE_PACKS = 4  # kept: neighbouring directories lie in one pack
_LOSES, _WAITS = 1, 2


@dataclass(slots=True)
class DamagedPack:
    """A pack that is not whole. `bad`: the offsets of its blobs that cannot be read. `mislisted`: its own header can be read,
    and the index says something else; before that is put right nobody may take it for damaged."""

    id: bytes
    why: str
    blobs: int
    is_there: bool
    mislisted: bool = False
    bad: set[int] = field(default_factory=set)
    bad_ids: set[bytes] = field(default_factory=set)

    @property
    def name(self) -> str:
        return pack_name(self.id)


def examine(repository: Repository, packs: Collection[bytes]) -> dict[bytes, DamagedPack]:
    """Read these packs of the index whole and tell about those with anything wrong. A blob that is bad is read once more,
    by itself: it may have been the line, and a disk may give a part of what it will not give whole."""
    damaged: dict[bytes, DamagedPack] = {}
    listed = repository.index.blobs_of(packs)
    segment, described = _described(listed)
    with reading_pool(sum(pack.size for pack in described)) as pool:
        for reading in read_packs(repository, segment, described, pool, scan=False):
            if not reading.good:
                damaged[reading.pack.id] = _judged(repository, reading, listed[reading.pack.id])
    return damaged


def _described(packs: Mapping[bytes, Sequence[PackedBlob]]) -> tuple[Segment, list[ListedPack]]:
    described: list[ListedPack] = []
    rows: list[bytes] = []
    for number, (pack, blobs) in enumerate(packs.items()):
        trees = sum(blob.kind == "tree" for blob in blobs)
        digest = hashlib.sha256(encode_header(blobs)).digest()
        described.append(ListedPack(pack, pack_bytes(blobs), len(rows), len(blobs), trees, digest))
        rows += [
            RECORD.pack(blob.id, number << 1 | (blob.kind == "tree"), blob.offset, blob.length, blob.plain_length)
            for blob in blobs
        ]
    return from_rows(list(packs), b"".join(rows), []), described


def _judged(repository: Repository, reading: PackReading, blobs: Sequence[PackedBlob]) -> DamagedPack:
    pack = reading.pack
    mislisted = HEADER_DIFFERS in reading.messages
    found = DamagedPack(pack.id, "", pack.count, is_there=not reading.missing, mislisted=mislisted)
    for position in range(pack.count) if reading.failure else reading.bad:
        blob = blobs[position]
        try:
            if reading.missing:
                raise DamageError("missing", name=pack.name)
            repository.load_copy(Location(pack.id, blob))
        except DamageError:
            found.bad.add(blob.offset)
            found.bad_ids.add(blob.id)
    messages = [reading.failure.removeprefix(f"{pack.name}: ")] if reading.failure else list(reading.messages)
    if found.bad and not reading.missing:
        messages.append(f"{len(found.bad)} of {pack.count} blobs are bad")
    found.why = ", ".join(messages) or "its blobs could be read only one by one"
    return found


def take(copies: Sequence[Repository], kind: BlobKind, blob: bytes) -> tuple[bytes | None, int | None]:
    """The content, verified, and which of the copies gave it; nothing when none has it. A copy that cannot be asked just
    now raises: what it holds must not be taken for lost."""
    for number, copy in enumerate(copies):
        try:
            return copy.load_blob(kind, blob), number
        except DamageError:
            continue
    return None, None


class Survey:
    """What `snapshots` need and has no good copy here. `copies` are asked for it, in order; `extra` lists packs that no
    index lists, or lists wrongly, and that are believed like those that one lists; None: looked for, and read."""

    def __init__(
        self,
        repository: Repository,
        snapshots: Sequence[Snapshot],
        suspects: Collection[bytes],
        *,
        copies: Sequence[Repository] = (),
        extra: MemoryIndex | None = None,
    ) -> None:
        self._repository, self._copies, self._index = repository, copies, repository.index
        self._believe_extra = extra is not None  # reading all of a repository that lost its index would take hours
        self.extra = unlisted_packs(repository.store, repository.keys, self._index) if extra is None else extra
        self.snapshots = snapshots
        self.damaged: dict[bytes, DamagedPack] = {}
        self._headers = MemoryIndex()  # of packs that are mislisted
        self._examine(suspects)
        examined = set(suspects)
        while True:
            self.missing: dict[Key, int | None] = {}  # which of the copies holds it; None: none of them
            self.unlisted: set[bytes] = set()  # packs with what is needed and no index lists, or not rightly
            self._flags: dict[bytes, int] = {}  # of trees that, or something below them, lose or wait for something
            self._verdicts: dict[Key, bool] = {}
            self._bad_ids = {blob for pack in self.damaged.values() for blob in pack.bad_ids}
            self._unreadable: set[bytes] = set()  # packs with a tree that could not be read
            self._packs: OrderedDict[bytes, bytes] = OrderedDict()
            self._walk(snapshot.tree for snapshot in snapshots)
            if not (found := self._unreadable - examined):
                break
            examined |= found
            self._examine([pack for pack in found if pack in self._index.packs])

    def _examine(self, packs: Collection[bytes]) -> None:
        found = examine(self._repository, packs)
        self.damaged |= found
        mislisted = {pack.name for pack in found.values() if pack.mislisted}
        present = [info for info in self._repository.store.list("data/") if info.name in mislisted] if mislisted else []
        for info, blobs, _ in read_headers(self._repository.store, self._repository.keys, present):
            if blobs is not None:
                self._headers.add_pack(bytes.fromhex(info.name.rpartition("/")[2]), blobs)

    @property
    def lost(self) -> list[Key]:
        return [key for key, holder in self.missing.items() if holder is None]

    @property
    def found(self) -> dict[Key, int]:
        return {key: holder for key, holder in self.missing.items() if holder is not None}

    def loses(self, tree: bytes) -> bool:
        """Whether something in or below a tree is lost for good."""
        return bool(self._flags.get(tree, 0) & _LOSES)

    def waits(self, tree: bytes) -> bool:
        """Whether something in or below a tree is to be had from a copy."""
        return bool(self._flags.get(tree, 0) & _WAITS)

    def is_lost(self, kind: BlobKind, blob: bytes) -> bool:
        return self.missing.get((kind, blob), 0) is None

    # the walk

    def _walk(self, roots: Iterable[bytes]) -> None:
        seen = bytearray(len(self._index))
        seen_elsewhere: set[bytes] = set()

        def is_new(tree: bytes) -> bool:
            if numbers := self._index.numbers("tree", tree):
                new, seen[numbers[0]] = not seen[numbers[0]], 1
                return new
            new = tree not in seen_elsewhere
            seen_elsewhere.add(tree)
            return new

        for root in roots:
            stack: list[tuple[bytes, Iterator[bytes]]] = [(root, self._enter(root))] if is_new(root) else []
            while stack:
                tree, below = stack[-1]
                subtree = next(below, None)
                if subtree is None:
                    stack.pop()
                    if stack:
                        self._flag(stack[-1][0], self._flags.get(tree, 0))
                elif is_new(subtree):
                    stack.append((subtree, self._enter(subtree)))
                else:
                    self._flag(tree, self._flags.get(subtree, 0))

    def _flag(self, tree: bytes, flags: int) -> None:
        if flags:
            self._flags[tree] = self._flags.get(tree, 0) | flags

    def _enter(self, tree: bytes) -> Iterator[bytes]:
        data = self.tree(tree)
        if data is None:
            self._flag(tree, _LOSES)
            return iter(())
        if ("tree", tree) in self.missing:
            self._flag(tree, _WAITS)
        scan = scan_tree(data)
        if not scan.sound:
            self._flag(tree, _LOSES)
        for start in range(0, len(scan.content), ID_BYTES):
            blob = scan.content[start : start + ID_BYTES]
            if blob not in self._bad_ids and ("data", blob) in self._index:
                continue
            if not self._is_readable(blob):
                self._flag(tree, _LOSES if self.missing["data", blob] is None else _WAITS)
        return (scan.subtrees[start : start + ID_BYTES] for start in range(0, len(scan.subtrees), ID_BYTES))

    def _is_readable(self, blob: bytes) -> bool:
        """Of data; what is not goes to `missing`."""
        key: Key = ("data", blob)
        if key not in self._verdicts:
            believed = self._believe_extra and key in self.extra
            self._verdicts[key] = believed or any(self._is_good(place) for place in self._places(*key))
            if not self._verdicts[key]:
                self._miss(key)
        return self._verdicts[key]

    def _places(self, kind: BlobKind, blob: bytes) -> Iterator[Location]:
        """Where it may be read: what is known to be bad is left out."""
        for place in self._index.lookup(kind, blob):
            if (pack := self.damaged.get(place.pack)) is None or place.blob.offset not in pack.bad:
                yield place
        for place in (*self.extra.lookup(kind, blob), *self._headers.lookup(kind, blob)):
            self.unlisted.add(place.pack)
            yield place

    def _is_good(self, place: Location) -> bool:
        try:
            self._repository.load_copy(place)
        except DamageError:
            self._unreadable.add(place.pack)
            return False
        return True

    def _miss(self, key: Key) -> None:
        holders = (number for number, copy in enumerate(self._copies) if copy.has_blob(*key))
        self.missing[key] = next(holders, None)

    def tree(self, tree: bytes) -> bytes | None:
        """A tree's content from wherever it can be had; None when nobody has it."""
        for place in self._places("tree", tree):
            try:
                return self._load_tree(place)
            except DamageError:
                self._unreadable.add(place.pack)
        data, self.missing["tree", tree] = take(self._copies, "tree", tree)
        return data

    def _load_tree(self, place: Location) -> bytes:
        """By whole packs: a request for each directory would take hours on an object store."""
        if place.pack in self._packs:
            self._packs.move_to_end(place.pack)
        else:
            try:
                self._packs[place.pack] = self._repository.store.get(pack_name(place.pack))
            except (NotFound, Corrupt):
                return self._repository.load_copy(place)
            while len(self._packs) > _TREE_PACKS:
                self._packs.popitem(last=False)
        blob = place.blob
        try:
            return self._repository.open_blob(blob, self._packs[place.pack][blob.offset : blob.offset + blob.length])
        except FormatError:
            return self._repository.load_copy(place)

    # what is hit

    def problems(self) -> list[CheckProblem]:
        """What is lost for good, with the snapshots and the first of the paths that it hits: one for each damaged pack, and
        for each blob that is in no pack at all."""
        found: dict[str, CheckProblem] = {}
        paths: dict[str, set[bytes]] = {}
        for snapshot in self.snapshots:
            for path, key in self.losses(snapshot.tree):
                name = self._blamed(key)
                if name not in found:
                    found[name], paths[name] = CheckProblem(name, self._said(name, key)), set()
                problem, seen = found[name], paths[name]
                if problem.snapshots[-1:] != [snapshot.id]:
                    problem.snapshots.append(snapshot.id)
                if path not in seen and len(seen) < COUNTED_PATHS:
                    seen.add(path)
                    if len(problem.paths) < SHOWN_PATHS:
                        problem.paths.append(display_name(path or b"/"))
                    problem.path_count = len(seen)
        return list(found.values())

    def _blamed(self, key: Key) -> str:
        for place in self._index.lookup(*key):
            if place.pack in self.damaged:
                return self.damaged[place.pack].name
        return f"{key[0]}/{key[1].hex()}"

    def _said(self, name: str, key: Key) -> str:
        pack = self.damaged.get(bytes.fromhex(name.rpartition("/")[2])) if name.startswith("data/") else None
        nowhere = ", and no copy has it" if self._copies else ""
        if pack is not None:
            return f"{name}: {pack.why}; something that is needed of it is nowhere else{nowhere}"
        if key in self.missing:
            return f"{key[0]} blob {key[1].hex()} is in no pack that can be read{nowhere}"
        return f"{name}: the tree is malformed"

    def losses(self, root: bytes) -> Iterator[tuple[bytes, Key]]:
        """Each path below `root` that loses something for good, in tree order, with the blob that it lacks, or the tree that
        is malformed there. A file that lacks several blobs comes once for each of them."""
        stack = [(b"", root)] if self.loses(root) else []
        while stack:
            path, tree = stack.pop()
            data = self.tree(tree)
            if data is None:
                yield path, ("tree", tree)
                continue
            below: list[tuple[bytes, bytes]] = []
            previous = b""
            try:
                for node in iterate_tree(data):
                    inner = path + b"/" + node.name
                    if node.name <= previous:
                        yield inner, ("tree", tree)
                    previous = node.name
                    if node.type == "dir" and node.subtree is not None:
                        if self.loses(node.subtree):
                            below.append((inner, node.subtree))
                    elif node.type == "dir" or (node.type == "file" and node.content is None):
                        yield inner, ("tree", tree)
                    for blob in dict.fromkeys(node.content or ()):
                        if self.is_lost("data", blob):
                            yield inner, ("data", blob)
            except FormatError:
                yield path, ("tree", tree)
            stack += reversed(below)
