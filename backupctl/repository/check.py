"""Check a repository: everything `restic check` verifies, and what it does not: blob sums against sizes, the order of
names, every key file, and our own records. With `read_data`, every byte of every pack.

Damage is reported, never raised: each problem names the object and the snapshots that lose something by it. What says
nothing about the repository (the store is unreachable) is raised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from backupctl.errors import Corrupt, DamageError, Denied, NoSuchError, NotFound, UserError
from backupctl.repository import records
from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import unseal
from backupctl.repository.format.index import decode_index
from backupctl.repository.format.keyfile import parse_keyfile
from backupctl.repository.format.names import display_name
from backupctl.repository.format.node import Node
from backupctl.repository.format.pack import (
    BlobKind,
    PackedBlob,
    decode_header,
    encode_header,
    pack_bytes,
    sealed_header,
)
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import iterate_tree
from backupctl.repository.memory_index import MemoryIndex
from backupctl.repository.records import fingerprints_of as fingerprints_of
from backupctl.repository.records import manifest_id as manifest_id
from backupctl.repository.repository import Repository, pack_name

Progress = Callable[[int, int], None]  # bytes read so far, bytes to read


@dataclass(slots=True, eq=False)
class CheckProblem:
    """`snapshots`: ids of the snapshots that cannot be restored in full because of it."""

    object_name: str
    message: str
    snapshots: list[str] = field(default_factory=list)


@dataclass(slots=True)
class CheckReport:
    """`hints` are harmless: leftovers that a prune tidies up."""

    problems: list[CheckProblem] = field(default_factory=list)
    packs: int = 0
    blobs: int = 0
    bytes_read: int = 0
    snapshots: int = 0
    hints: list[str] = field(default_factory=list)


def check(repository: Repository, *, read_data: bool = False, progress: Progress | None = None) -> CheckReport:
    """Hold at least a shared lock meanwhile. Raises only what says nothing about the repository's content."""
    checker = _Checker(repository)
    snapshots = checker.read_snapshots()  # before the index: a backup may be finishing right now
    checker.check_keys()
    packs = checker.read_index()
    checker.check_packs(packs)
    if read_data:
        checker.read_packs(packs, progress)
    for snapshot in snapshots:
        checker.check_snapshot(snapshot)
    checker.check_records(snapshots, every=read_data)
    return checker.report


@dataclass(slots=True)
class _Pack:
    size: int  # as the index says
    blobs: int
    digest: bytes  # of the header that the index implies


_NONE: frozenset[CheckProblem] = frozenset()


@dataclass(slots=True)
class _Visit:
    """A tree on the way down; `problems` gathers what its part of the snapshot loses."""

    id: bytes
    path: bytes
    subtrees: list[tuple[bytes, bytes]]  # path and tree id, still to do
    problems: set[CheckProblem]


class _Checker:
    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.store = repository.store
        self.report = CheckReport()
        self.index = MemoryIndex()
        self.bad_packs: dict[bytes, CheckProblem] = {}
        self.bad_copies: dict[tuple[bytes, bytes], CheckProblem] = {}  # pack, blob
        self.missing: dict[tuple[BlobKind, bytes], CheckProblem] = {}
        self.trees: dict[bytes, frozenset[CheckProblem]] = {}  # what each tree visited loses, all it holds included

    def problem(self, name: str, message: str, snapshots: Iterable[str] = ()) -> CheckProblem:
        found = CheckProblem(name, message, list(snapshots))
        self.report.problems.append(found)
        return found

    def read_snapshots(self) -> list[Snapshot]:
        readable = []
        for snapshot_id in self.repository.snapshot_ids():
            self.report.snapshots += 1
            try:
                readable.append(self.repository.reread_snapshot(snapshot_id))
            except NotFound:
                self.report.snapshots -= 1  # forgotten between list and get
            except (DamageError, Denied) as error:
                self.problem(f"snapshots/{snapshot_id}", error.message, [snapshot_id])
        return sorted(readable, key=lambda snapshot: snapshot.time)

    def check_keys(self) -> None:
        for key_id in self.repository.list_ids("keys/"):
            name = f"keys/{key_id}"
            try:
                data = self.store.get(name)
                if hashlib.sha256(data).hexdigest() != key_id:
                    raise FormatError("the stored bytes do not match their name")
                parse_keyfile(data)
            except FormatError as error:
                self.problem(name, f"{name}: {error}")
            except (NotFound, Denied, Corrupt) as error:
                self.problem(name, f"{name}: {error.message}")

    def read_index(self) -> dict[bytes, _Pack]:
        packs: dict[bytes, _Pack] = {}
        for file_id in self.repository.list_ids("index/"):
            name = f"index/{file_id}"
            try:
                for pack_id, blobs in decode_index(self.repository.load_file(name)):
                    self._add_pack(name, packs, pack_id, blobs)
            except NotFound:
                continue  # replaced by a prune between list and get
            except (DamageError, Denied, FormatError) as error:
                message = error.message if isinstance(error, UserError) else f"{name}: {error}"
                self.problem(name, message)
        self.report.packs, self.report.blobs = len(packs), len(self.index)
        return packs

    def _add_pack(self, name: str, packs: dict[bytes, _Pack], pack_id: bytes, blobs: list[PackedBlob]) -> None:
        pack = _Pack(pack_bytes(blobs), len(blobs), hashlib.sha256(encode_header(blobs)).digest())
        known = packs.setdefault(pack_id, pack)
        if known is not pack:
            if known.digest == pack.digest:
                self.report.hints.append(f"{pack_name(pack_id)} is in more than one index")
            else:
                self.problem(name, f"{name}: lists {pack_name(pack_id)} differently than another index")
            return
        offset = 0
        for blob in blobs:
            if blob.offset != offset:
                self.problem(name, f"{name}: the blobs of {pack_name(pack_id)} leave a gap or overlap at byte {offset}")
                break
            offset += blob.length
        if len({blob.kind for blob in blobs}) > 1:
            self.report.hints.append(f"{pack_name(pack_id)} mixes trees and data")
        self.index.add_pack(pack_id, blobs)

    def check_packs(self, packs: dict[bytes, _Pack]) -> None:
        """Every indexed pack is there with the size that its blobs imply."""
        sizes = {info.name: info.size for info in self.store.list("data/")}
        for pack_id, pack in packs.items():
            name = pack_name(pack_id)
            size = sizes.pop(name, None)
            if size is None:
                self.bad_packs[pack_id] = self.problem(name, f"{name}: the pack is missing, {pack.blobs} blobs with it")
            elif size != pack.size:
                message = f"{name}: the pack has {size} bytes, its blobs need {pack.size}"
                self.bad_packs[pack_id] = self.problem(name, message)
        self.report.hints += [f"{name} is in no index" for name in sizes]

    def read_packs(self, packs: dict[bytes, _Pack], progress: Progress | None) -> None:
        total = sum(pack.size for pack in packs.values())
        for pack_id, pack in packs.items():
            self._read_pack(pack_id, pack)
            if progress is not None:
                progress(min(self.report.bytes_read, total), total)

    def _read_pack(self, pack_id: bytes, pack: _Pack) -> None:
        name = pack_name(pack_id)
        try:
            data = self.store.get(name)
        except NotFound:
            if pack_id not in self.bad_packs:
                self.bad_packs[pack_id] = self.problem(name, f"{name}: the pack is missing")
            return
        except (Denied, Corrupt) as error:
            if pack_id not in self.bad_packs:
                self.bad_packs[pack_id] = self.problem(name, error.message)
            return
        self.report.bytes_read += len(data)
        messages = []
        if hashlib.sha256(data).digest() != pack_id:
            messages.append("the stored bytes do not match their name")
        try:
            header = unseal(self.repository.keys, sealed_header(data))
            blobs = decode_header(header)
            if hashlib.sha256(header).digest() != pack.digest:
                messages.append("its header differs from the index")
        except FormatError as error:
            messages.append(f"its header cannot be read: {error}")
            blobs = []
        bad = list(self._bad_blobs(data, blobs or self._indexed_blobs(pack_id)))
        if bad:
            messages.append(f"{len(bad)} of {pack.blobs} blobs are bad: {bad[0].kind} {bad[0].id.hex()}")
        if not messages:
            return
        earlier = self.bad_packs.pop(pack_id, None)  # now each blob speaks for itself
        found = earlier or self.problem(name, "")
        found.message = (found.message or f"{name}") + (", " if earlier else ": ") + ", ".join(messages)
        for blob in bad:
            self.bad_copies[pack_id, blob.id] = found

    def _indexed_blobs(self, pack_id: bytes) -> list[PackedBlob]:
        return [place.blob for place in self.index if place.pack == pack_id]

    def _bad_blobs(self, data: bytes, blobs: Iterable[PackedBlob]) -> Iterable[PackedBlob]:
        for blob in blobs:
            try:
                self.repository.open_blob(blob, data[blob.offset : blob.offset + blob.length])
            except FormatError:
                yield blob

    # what snapshots refer to

    def check_snapshot(self, snapshot: Snapshot) -> None:
        for found in self._walk(snapshot.tree):
            found.snapshots.append(snapshot.id)

    def _walk(self, root: bytes) -> frozenset[CheckProblem]:
        """What the tree and all below it lose. Every tree is visited once per check, depth first without recursion."""
        if root not in self.trees:
            stack = [self._visit(root, b"")]
            while stack:
                visit = stack[-1]
                if visit.subtrees:
                    path, tree = visit.subtrees[-1]
                    if tree in self.trees:
                        visit.problems |= self.trees[tree]
                        visit.subtrees.pop()
                    else:
                        stack.append(self._visit(tree, path))
                else:
                    self.trees[visit.id] = frozenset(visit.problems) or _NONE
                    stack.pop()
        return self.trees[root]

    def _visit(self, tree: bytes, path: bytes) -> _Visit:
        where = display_name(path or b"/")
        visit = _Visit(tree, path, [], set(self._blob_problems("tree", tree, where)))
        name = f"tree/{tree.hex()}"
        data = self._load_tree(tree, where, visit)
        previous = b""
        try:
            for node in iterate_tree(data) if data is not None else ():
                if node.name <= previous:
                    message = f"the names in {where} are not in order at {display_name(node.name)}"
                    visit.problems.add(self.problem(name, message))
                previous = node.name
                self._check_node(node, visit)
        except FormatError as error:
            visit.problems.add(self.problem(name, f"the tree of {where} is malformed: {error}"))
        return visit

    def _load_tree(self, tree: bytes, where: str, visit: _Visit) -> bytes | None:
        failure: UserError | None = None
        for place in self.index.lookup("tree", tree):
            try:
                return self.repository.load_copy(place)
            except (DamageError, Denied) as error:
                failure = error
        if failure is not None and not visit.problems:
            visit.problems.add(self.problem(f"tree/{tree.hex()}", f"the tree of {where}: {failure.message}"))
        return None

    def _check_node(self, node: Node, visit: _Visit) -> None:
        path = visit.path + b"/" + node.name
        where = display_name(path)
        name = f"tree/{visit.id.hex()}"
        if node.type == "dir":
            if node.subtree is None:
                visit.problems.add(self.problem(name, f"the directory {where} has no tree"))
            else:
                visit.subtrees.append((path, node.subtree))
        elif node.type == "file":
            if node.content is None:
                visit.problems.add(self.problem(name, f"the file {where} has no content list"))
                return
            sizes = [self.index.blob_size("data", blob) for blob in node.content]
            if None not in sizes and sum(size or 0 for size in sizes) != node.size:
                message = f"the file {where} says {node.size} bytes, its blobs hold {sum(size or 0 for size in sizes)}"
                visit.problems.add(self.problem(name, message))
            for blob in node.content:
                visit.problems |= self._blob_problems("data", blob, where)

    def _blob_problems(self, kind: BlobKind, blob: bytes, where: str) -> set[CheckProblem]:
        """Why no good copy of the blob is there; empty when one is."""
        if (kind, blob) in self.missing:
            return {self.missing[kind, blob]}
        if not self.bad_packs and not self.bad_copies and (kind, blob) in self.index:
            return set()
        found = set()
        for place in self.index.lookup(kind, blob):
            bad = self.bad_packs.get(place.pack) or self.bad_copies.get((place.pack, blob))
            if bad is None:
                return set()
            found.add(bad)
        if not found:
            message = f"{kind} blob {blob.hex()} of {where} is in no index"
            self.missing[kind, blob] = self.problem(f"{kind}/{blob.hex()}", message)
            return {self.missing[kind, blob]}
        return found

    # our own records

    def check_records(self, snapshots: Iterable[Snapshot], *, every: bool) -> None:
        """The fingerprint and manifest of each snapshot; with `every`, all other records too."""
        done: dict[tuple[str, str], CheckProblem | None] = {}
        for snapshot in snapshots:
            for fingerprint in fingerprints_of(snapshot):
                found = self._check_record(done, "fingerprint", fingerprint)
                manifest = "" if found else self._manifest_of(fingerprint)
                for bad in (found, self._check_record(done, "manifest", manifest) if manifest else None):
                    if bad is not None:
                        bad.snapshots.append(snapshot.id)
        for info in self.store.list(records.PREFIX) if every else ():
            kind, _, record_id = info.name.removeprefix(records.PREFIX).partition("/")
            if records.is_record(kind, record_id):
                self._check_record(done, kind, record_id)

    def _check_record(
        self, done: dict[tuple[str, str], CheckProblem | None], kind: str, record_id: str
    ) -> CheckProblem | None:
        if (kind, record_id) not in done:
            found = None
            name = f"{records.PREFIX}{kind}/{record_id}"
            try:
                data = self.repository.load_record(kind, record_id)
                self.report.bytes_read += len(data)
                if kind == "fingerprint":
                    manifest_id(data)
            except FormatError as error:
                found = self.problem(name, f"{name}: {error}")
            except (DamageError, NoSuchError, Denied) as error:
                found = self.problem(name, error.message)
            done[kind, record_id] = found
        return done[kind, record_id]

    def _manifest_of(self, fingerprint: str) -> str:
        return manifest_id(self.repository.load_record("fingerprint", fingerprint))
