"""What travels in a copy: one walk over the trees of the source marks what each of several destinations lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from backupctl.errors import DamageError, UserError
from backupctl.repository.format import FormatError
from backupctl.repository.format.pack import BlobKind
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.format.tree import iterate_tree
from backupctl.repository.repository import Repository

READERS = 4  # threads: enough to hide the latency of an object store


@dataclass(slots=True)
class CopyPlan:
    """What one destination lacks. Sizes are of content. `error` is why it is no destination any more."""

    destination: Repository
    wanted: bytearray = field(repr=False)  # 1 for each place in the source's index that travels, 2 for one seen
    strays: list[tuple[BlobKind, bytes]] = field(default_factory=list)  # what no index of the source lists
    blobs: int = 0
    bytes: int = 0
    error: UserError | None = None


def plan_copy(
    source: Repository, destination: Repository, snapshots: Iterable[Snapshot], *, base: Snapshot | None = None
) -> CopyPlan:
    """Walk the trees of the snapshots and mark what the destination lacks. `base` is a snapshot that is whole in the
    destination: directories equal to its own are not walked. Raises DamageError for a tree that cannot be read."""
    plan = CopyPlan(destination, bytearray(len(source.index)))
    for snapshot in snapshots:
        plan_copies(source, [plan], snapshot, [base])
    if plan.error is not None:
        raise plan.error
    return plan


def plan_copies(
    source: Repository, plans: Sequence[CopyPlan], snapshot: Snapshot, bases: Sequence[Snapshot | None]
) -> None:
    """The same for several destinations at once, each with its own base; a tree is read once, whoever needs it."""
    _Walk(source, plans).run(snapshot.tree, [base.tree if base is not None else None for base in bases])


@dataclass(slots=True)
class _Walk:
    source: Repository
    plans: Sequence[CopyPlan]
    seen_strays: set[tuple[int, BlobKind, bytes]] = field(default_factory=set)

    def run(self, root: bytes, bases: Sequence[bytes | None]) -> None:
        # a tree, and for each destination that may need it the tree of its base in the same place
        todo: list[tuple[bytes, dict[int, bytes | None]]] = [(root, dict(enumerate(bases)))]
        with ThreadPoolExecutor(READERS, thread_name_prefix="walk") as readers:
            while todo:
                batch = [(tree, needed) for tree, olds in todo[-READERS:] if (needed := self.needed(tree, olds))]
                del todo[-READERS:]
                trees = readers.map(self.source.load_blob, ["tree"] * len(batch), [tree for tree, _ in batch])
                for (tree, olds), data in zip(batch, trees, strict=True):
                    known = {(one, old): self.directories(one, old) for one, old in self.distinct(olds)}
                    below = {number: self.known_to(number, old, known) for number, old in olds.items()}
                    for name, subtree, content in self.nodes(tree, data):
                        if subtree is not None:
                            todo.append((subtree, {number: names.get(name) for number, names in below.items()}))
                        for blob in content:
                            for number in olds:
                                self.mark(number, "data", blob)

    def needed(self, tree: bytes, olds: dict[int, bytes | None]) -> dict[int, bytes | None]:
        """Those destinations that have not got the whole of it."""
        return {number: old for number, old in olds.items() if tree != old and self.mark(number, "tree", tree)}

    def distinct(self, olds: dict[int, bytes | None]) -> list[tuple[int, bytes]]:
        """Each old tree once: what the source has is the same for all."""
        found: dict[bytes, int] = {}
        for number, old in olds.items():
            if old is not None:
                found.setdefault(old, number)
        return [(number, old) for old, number in found.items()]

    def known_to(
        self, number: int, old: bytes | None, known: dict[tuple[int, bytes], dict[bytes, bytes]]
    ) -> dict[bytes, bytes]:
        if self.plans[number].error is not None:
            return {}
        return next((names for (_, tree), names in known.items() if tree == old), {})

    def nodes(self, tree: bytes, data: bytes) -> Iterator[tuple[bytes, bytes | None, Sequence[bytes]]]:
        """(name, subtree, content) of each node. A copy with a hole in it would be no copy: both must be there."""
        name = f"tree/{tree.hex()}"
        try:
            for node in iterate_tree(data):
                if node.type == "dir" and node.subtree is None:
                    raise FormatError("a directory without a tree")
                if node.type == "file" and node.content is None:
                    raise FormatError("a file without a content list")
                yield node.name, node.subtree if node.type == "dir" else None, node.content or ()
        except FormatError as error:
            raise DamageError(f"{name} is malformed: {error}", name=name, next_step="backupctl check") from None

    def directories(self, number: int, tree: bytes) -> dict[bytes, bytes]:
        """The subtrees of a directory that the destination has; nothing when they cannot be read: then all is walked."""
        holder = self.source if self.source.has_blob("tree", tree) else self.plans[number].destination
        try:
            nodes = iterate_tree(holder.load_blob("tree", tree))
            return {node.name: node.subtree for node in nodes if node.type == "dir" and node.subtree is not None}
        except (DamageError, FormatError):
            return {}
        except UserError as error:
            if holder is self.source:
                raise
            self.plans[number].error = error
            return {}

    def mark(self, number: int, kind: BlobKind, blob: bytes) -> bool:
        """True when the blob was not met before and the destination is still one."""
        plan = self.plans[number]
        if plan.error is not None:
            return False
        wanted = plan.wanted
        numbers = [place for place in self.source.index.numbers(kind, blob) if place < len(wanted)]
        if numbers:
            if wanted[numbers[0]]:
                return False
            wanted[numbers[0]] = 2
        else:
            if (number, kind, blob) in self.seen_strays:
                return False
            self.seen_strays.add((number, kind, blob))
        try:
            if plan.destination.has_blob(kind, blob):
                return True
        except UserError as error:
            plan.error = error
            return False
        plan.blobs += 1
        if numbers:
            wanted[numbers[0]] = 1
            plan.bytes += self.source.index.at(numbers[0]).blob.size
        else:
            plan.strays.append((kind, blob))
        return True
