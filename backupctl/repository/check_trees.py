"""What snapshots refer to. Every tree is read once, by whole packs; what it refers to is kept as numbers.

Records of the index are called by their number. For each there is one byte of flags, for each tree one word for every
directory in it; that is all, however many blobs there are. Names and paths are looked up only below what is damaged.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from backupctl.errors import DamageError, Denied, UserError
from backupctl.repository.format import FormatError
from backupctl.repository.format.names import display_name
from backupctl.repository.format.node import Node
from backupctl.repository.format.pack import BlobKind
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import iterate_tree
from backupctl.repository.format.tree_scan import ID_BYTES, TreeScan, scan_tree
from backupctl.repository.memory_index import MemoryIndex
from backupctl.repository.repository import Repository
from backupctl.repository.segment import Segment

SHOWN_PATHS = 10
COUNTED_PATHS = 100_000  # of one problem; more are "at least"

_BAD = 1  # this copy cannot be read
_SCANNED = 2  # of a tree: what it refers to is known (set on its first copy, whichever was read)
_LOSES = 4  # of a tree: something that it refers to directly is missing or bad, or it is itself wrong
_ABOVE = 8  # of a tree: it, or something below it, has _LOSES


@dataclass(slots=True, eq=False)
class CheckProblem:
    """`snapshots`: ids of the snapshots that cannot be restored in full because of it. `paths`: the first of the paths in
    them that it hits, in tree order, without duplicates; `path_count`: how many there are (from COUNTED_PATHS on: at
    least)."""

    object_name: str
    message: str
    snapshots: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    path_count: int = 0


Report = Callable[[str, str], CheckProblem]
_NONE: frozenset[CheckProblem] = frozenset()


@dataclass(slots=True)
class _Visit:
    """A directory on the way down; `problems` gathers what its part of the snapshot loses."""

    tree: bytes
    path: bytes
    subtrees: list[tuple[bytes, bytes]]  # path and tree id, still to do
    problems: set[CheckProblem]


class Structure:
    """`index` has just one `segment`; `sizes`: content bytes of each of its copies."""

    def __init__(
        self, repository: Repository, index: MemoryIndex, segment: Segment, sizes: array[int], problem: Report
    ) -> None:
        self._repository, self._index, self._sizes, self._problem = repository, index, sizes, problem
        self._find, self._references, self._record = segment.blobs.find, segment.references, segment.record
        self._flags = bytearray(len(index))
        self._edges = array("I")  # per tree: its number, how many directories, their numbers
        self._reasons: dict[int, CheckProblem] = {}  # why a copy is bad, by number or, for whole packs, by the first
        self._any_bad = False
        self._missing: dict[tuple[BlobKind, bytes], CheckProblem] = {}
        self._walked: dict[tuple[bytes, bytes], frozenset[CheckProblem]] = {}  # by tree and path
        self._seen_paths: dict[CheckProblem, set[bytes]] = {}
        self._all_paths = False

    # while packs are read

    def mark_bad(self, numbers: Iterable[int], reason: CheckProblem) -> None:
        """These copies cannot be read, for this reason."""
        for number in numbers:
            self._flags[number] |= _BAD
            self._reasons[number] = reason
            self._any_bad = True

    def clear_bad(self, numbers: Iterable[int]) -> None:
        """Take it back: they were read after all."""
        for number in numbers:
            self._flags[number] &= ~_BAD
            self._reasons.pop(number, None)

    def add(self, number: int, scan: TreeScan) -> None:
        """A copy of a tree that was read. When something is marked bad later, `begin_again`."""
        flags, sizes, copies_of = self._flags, self._sizes, self._copies
        copies = copies_of(self._record(number)[0], 1)
        if flags[copies[0]] & _SCANNED:
            return
        loses = not scan.sound or self._lost(copies)
        content = scan.content
        position = 0
        for size, count in zip(scan.sizes, scan.counts, strict=True):
            held = 0
            complete = True
            for _ in range(count):
                found = copies_of(content[position : position + ID_BYTES], 0)
                position += ID_BYTES
                if not found or (self._any_bad and self._lost(found)):
                    loses = True
                complete = complete and bool(found)
                held += sizes[found[0]] if found else 0
            loses = loses or (complete and held != size)
        edges = []
        for start in range(0, len(scan.subtrees), ID_BYTES):
            found = copies_of(scan.subtrees[start : start + ID_BYTES], 1)
            if found:
                edges.append(found[0])
            else:
                loses = True
        flags[copies[0]] |= _SCANNED | (_LOSES if loses else 0)
        self._edges.append(copies[0])
        self._edges.append(len(edges))
        self._edges.extend(edges)

    def begin_again(self) -> None:
        """Forget what trees refer to, and remember what is bad."""
        self._flags = self._flags.translate(bytes(flags & _BAD for flags in range(256)))
        self._edges = array("I")

    def add_from_store(self, numbers: Iterable[int]) -> None:
        """The same for the trees among these copies, each fetched by itself."""
        for number in numbers:
            if self._references[number] & 1:
                try:
                    self.add(number, scan_tree(self._repository.load_copy(self._index.at(number))))
                except (DamageError, Denied):
                    continue  # not scanned: `judge` finds it wherever a snapshot needs it

    def _copies(self, blob_id: bytes, is_tree: int) -> list[int]:
        """The numbers of a blob's copies, ascending."""
        found = self._find(blob_id)
        if len(found) == 1 and self._references[found[0]] & 1 == is_tree:
            return found
        return sorted(number for number in found if self._references[number] & 1 == is_tree)

    def _lost(self, copies: list[int]) -> bool:
        return all(self._flags[number] & _BAD for number in copies)

    # when all are read

    def judge(self, snapshots: Iterable[Snapshot], *, all_paths: bool) -> None:
        """Report what each snapshot loses, and name the snapshot and the paths at every problem that costs it something."""
        self._all_paths = all_paths
        self._spread()
        for snapshot in snapshots:
            if not self._is_whole(snapshot.tree):
                for found in self._walk(snapshot.tree):
                    found.snapshots.append(snapshot.id)
        for problem, paths in self._seen_paths.items():
            problem.path_count = len(paths)

    def _is_whole(self, tree: bytes) -> bool:
        copies = self._copies(tree, 1)
        return bool(copies) and self._flags[copies[0]] & (_SCANNED | _ABOVE) == _SCANNED

    def _trees(self) -> Iterator[tuple[int, array[int]]]:
        edges = self._edges
        position = 0
        while position < len(edges):
            count = edges[position + 1]
            yield edges[position], edges[position + 2 : position + 2 + count]
            position += 2 + count

    def _spread(self) -> None:
        """Set _ABOVE on everything above a loss. Writers store subtrees before the trees that hold them, so that a pass or
        two do; the worst order takes as many passes as the tree is deep."""
        flags = self._flags
        changed = True
        while changed:
            changed = False
            for tree, subtrees in self._trees():
                if flags[tree] & _ABOVE:
                    continue
                if flags[tree] & _LOSES or any(flags[below] & (_SCANNED | _ABOVE) != _SCANNED for below in subtrees):
                    flags[tree] |= _ABOVE
                    changed = True

    def _walk(self, root: bytes) -> frozenset[CheckProblem]:
        """What the snapshot with this root loses. Only what is damaged is walked, each path with the same tree once per
        check, depth first without recursion."""
        if (root, b"") not in self._walked:
            stack = [self._visit(root, b"")]
            while stack:
                visit = stack[-1]
                if visit.subtrees:
                    path, tree = visit.subtrees[-1]
                    if self._is_whole(tree):
                        visit.subtrees.pop()
                    elif (tree, path) in self._walked:
                        visit.problems |= self._walked[tree, path]
                        visit.subtrees.pop()
                    else:
                        stack.append(self._visit(tree, path))
                else:
                    self._walked[visit.tree, visit.path] = frozenset(visit.problems) or _NONE
                    stack.pop()
        return self._walked[root, b""]

    def _visit(self, tree: bytes, path: bytes) -> _Visit:
        visit = _Visit(tree, path, [], set())
        where = display_name(path or b"/")
        name = f"tree/{tree.hex()}"
        self._hit(visit, self._blob_problems("tree", tree, where), path)
        data = self._load(tree, where, visit)
        previous = b""
        try:
            for node in iterate_tree(data) if data is not None else ():
                if node.name <= previous:
                    message = f"the names in {where} are not in order at {display_name(node.name)}"
                    self._hit(visit, (self._problem(name, message),), path + b"/" + node.name)
                previous = node.name
                self._visit_node(node, visit)
        except FormatError as error:
            self._hit(visit, (self._problem(name, f"the tree of {where} is malformed: {error}"),), path)
        visit.subtrees.reverse()  # the first is done first
        return visit

    def _hit(self, visit: _Visit, problems: Iterable[CheckProblem], path: bytes) -> None:
        for problem in problems:
            visit.problems.add(problem)
            paths = self._seen_paths.setdefault(problem, set())
            if path not in paths and (self._all_paths or len(paths) < COUNTED_PATHS):
                paths.add(path)
                if self._all_paths or len(problem.paths) < SHOWN_PATHS:
                    problem.paths.append(display_name(path or b"/"))

    def _load(self, tree: bytes, where: str, visit: _Visit) -> bytes | None:
        failure: UserError | None = None
        for place in self._index.lookup("tree", tree):
            try:
                return self._repository.load_copy(place)
            except (DamageError, Denied) as error:
                failure = error
        if failure is not None and not visit.problems:
            found = self._problem(f"tree/{tree.hex()}", f"the tree of {where}: {failure.message}")
            self._hit(visit, (found,), visit.path)
        return None

    def _visit_node(self, node: Node, visit: _Visit) -> None:
        path = visit.path + b"/" + node.name
        where = display_name(path)
        name = f"tree/{visit.tree.hex()}"
        if node.type == "dir":
            if node.subtree is None:
                self._hit(visit, (self._problem(name, f"the directory {where} has no tree"),), path)
            else:
                visit.subtrees.append((path, node.subtree))
        elif node.type == "file":
            if node.content is None:
                self._hit(visit, (self._problem(name, f"the file {where} has no content list"),), path)
                return
            held = [self._index.blob_size("data", blob) for blob in node.content]
            if None not in held and sum(size or 0 for size in held) != node.size:
                message = f"the file {where} says {node.size} bytes, its blobs hold {sum(size or 0 for size in held)}"
                self._hit(visit, (self._problem(name, message),), path)
            for blob in node.content:
                self._hit(visit, self._blob_problems("data", blob, where), path)

    def _blob_problems(self, kind: BlobKind, blob: bytes, where: str) -> list[CheckProblem]:
        """Why no good copy of the blob is there; empty when one is."""
        copies = self._copies(blob, int(kind == "tree"))
        if not copies:
            if (kind, blob) not in self._missing:
                message = f"{kind} blob {blob.hex()} of {where} is in no index"
                self._missing[kind, blob] = self._problem(f"{kind}/{blob.hex()}", message)
            return [self._missing[kind, blob]]
        return [self._reasons[number] for number in copies] if self._lost(copies) else []
