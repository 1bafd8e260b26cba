"""One source stored by several writers: cut into stretches, each a few directories, and joined into the tree of one writer.

A stretch is stored like a source of its own: its tree has the source's directory, plain directories down to its own ones,
and those with all that is below. Whoever stores the rest leaves them out. Joining goes down only where several trees have a
directory; there the rest's is the one that was read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from backupctl.errors import DamageError, SourceError
from backupctl.hosts.protocol import FileInfo
from backupctl.repository.entry import Problem
from backupctl.repository.format import FormatError
from backupctl.repository.format.names import display_name
from backupctl.repository.format.node import Node
from backupctl.repository.format.tree import iterate_tree
from backupctl.repository.format.tree_scan import ID_BYTES, scan_tree
from backupctl.repository.looks import Looks
from backupctl.repository.manifest import read_manifest
from backupctl.repository.manifest_facts import ManifestFacts
from backupctl.repository.written import SnapshotStats, WrittenSnapshot

if TYPE_CHECKING:
    from backupctl.repository.repository import Repository

RECORD_KIND = "stretch"
SCHEMA = 1
LEAST = 64 << 20
"""A stretch of less weight is not worth a worker."""
EACH = 64 << 10
"""What a file weighs beside its bytes: opening it, its own blob."""
FOR_EACH_WRITER = 4
"""So many stretches: who is done early takes another."""
_MOST_TREES = 2_000_000  # looked at for a plan; hostile ones may stand in each other without end
_DEEPEST = 100


@dataclass(slots=True)
class Weight:
    """A directory with what it holds, in bytes, about. `below`: its directories, where it weighs enough to be cut."""

    path: bytes  # absolute on the host
    total: int = 0
    below: list[Weight] = field(default_factory=list)


def weigh_tree(load: Callable[[bytes], bytes], tree: bytes, path: bytes, *, least: int) -> Weight:
    """What a snapshot's tree says of the directory at `path`. Raises DamageError, FormatError as `load` does."""
    looked = 0

    def look(tree: bytes, path: bytes, depth: int) -> Weight:
        nonlocal looked
        looked += 1
        found = Weight(path)
        if looked > _MOST_TREES or depth > _DEEPEST:
            return found
        data = load(tree)
        scan = scan_tree(data)
        found.total = sum(scan.sizes) + EACH * len(scan.sizes)
        inside = [scan.subtrees[at : at + ID_BYTES] for at in range(0, len(scan.subtrees), ID_BYTES)]
        found.below = [look(one, b"", depth + 1) for one in inside]
        found.total += sum(one.total for one in found.below)
        if found.total < least:
            found.below = []
        names = [node.name for node in iterate_tree(data) if node.type == "dir"] if found.below else []
        for one, name in zip(found.below, names, strict=False):
            one.path = name
        return found

    return _placed(look(tree, path, 0), path)


def _placed(found: Weight, path: bytes) -> Weight:
    found.path = path
    for one in found.below:
        _placed(one, path.rstrip(b"/") + b"/" + one.path)
    return found


def weigh_scan(infos: Iterator[FileInfo], *, least: int) -> Weight | None:
    """The same of a directory as `Host.scan` lists it; None when it cannot be read."""
    stack: list[Weight] = []
    for info in infos:
        while len(stack) > 1 and not info.path.startswith(stack[-1].path.rstrip(b"/") + b"/"):
            _leave(stack, least)
        if info.error or (not stack and info.kind != "dir"):
            continue
        if info.kind == "dir":
            stack.append(Weight(info.path))
        elif info.kind == "file":
            stack[-1].total += info.size + EACH
    while len(stack) > 1:
        _leave(stack, least)
    return stack[0] if stack else None


def _leave(stack: list[Weight], least: int) -> None:
    done = stack.pop()
    if done.total < least:
        done.below = []
    stack[-1].total += done.total
    stack[-1].below.append(done)


def plan_stretches(weights: Sequence[Weight], writers: int, *, least: int) -> list[list[bytes]]:
    """The directories of each stretch, the heaviest stretch first; as many for each writer, FOR_EACH_WRITER at most, none of
    much less than `least`. What is in none, files beside a directory that was cut, is the rest. Empty when there is nothing to
    divide."""
    total = sum(one.total for one in weights)
    rounds = min(FOR_EACH_WRITER, max(1, total // (least * writers)))
    most = max(least, -(-total // (rounds * writers)))
    stretches: list[tuple[int, list[bytes]]] = []
    filling: list[bytes] = []
    filled = 0
    for one in (piece for weight in weights for piece in _pieces(weight, most)):
        if filling and filled + one.total // 2 > most:  # whichever is nearer
            stretches.append((filled, filling))
            filling, filled = [], 0
        filling.append(one.path)
        filled += one.total
    stretches.append((filled, filling))
    found = sorted((one for one in stretches if one[1]), key=lambda one: -one[0])
    return [directories for _, directories in found] if len(found) > 1 else []


def _pieces(weight: Weight, most: int) -> Iterator[Weight]:
    if weight.total <= most or not weight.below:
        if _can_be_named(weight.path):
            yield weight
        return
    for one in weight.below:
        yield from _pieces(one, most)


def _can_be_named(path: bytes) -> bool:
    """Whether a pattern for it is text that every host understands; the others stay in the rest."""
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True


def nodes_of(load: Callable[[bytes], bytes], tree: bytes) -> list[Node]:
    """Raises DamageError."""
    try:
        return list(iterate_tree(load(tree)))
    except FormatError as error:
        raise DamageError(f"tree {tree.hex()}: {error}", name=f"tree/{tree.hex()}") from None


def pattern_of(path: bytes) -> str:
    """What `Host.scan` has to leave out so that it leaves out this path and no other."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in path.decode())


@dataclass(frozen=True, slots=True)
class Plan:
    """How a source is divided, for everybody who takes part. `inodes`: of the places that are read, see `DividedSession`;
    `distrusted`: packs whose blobs must be stored again."""

    source: str
    parent: str  # the id of the parent snapshot, "" for none
    inodes: list[int]
    stretches: list[list[bytes]]
    distrusted: list[bytes]

    @property
    def directories(self) -> list[bytes]:
        return [directory for stretch in self.stretches for directory in stretch]

    def save(self, repository: Repository) -> str:
        """The record's id."""
        record = {
            "schema": SCHEMA,
            "source": self.source,
            "parent": self.parent,
            "inodes": self.inodes,
            "stretches": [[directory.decode() for directory in stretch] for stretch in self.stretches],
            "distrusted": [pack.hex() for pack in self.distrusted],
        }
        return repository.save_record(RECORD_KIND, json.dumps(record, sort_keys=True).encode())

    @classmethod
    def load(cls, repository: Repository, record_id: str) -> Plan:
        """Raises NoSuchError, DamageError."""
        with _decoding(record_id):
            fields = _fields(repository, record_id)
            return cls(
                str(fields["source"]),
                str(fields["parent"]),
                [int(inode) for inode in fields["inodes"]],
                [[directory.encode() for directory in stretch] for stretch in fields["stretches"]],
                [bytes.fromhex(pack) for pack in fields["distrusted"]],
            )


@contextmanager
def _decoding(record_id: str) -> Iterator[None]:
    name = f"backupctl/{RECORD_KIND}/{record_id}"
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamageError(f"{name} cannot be read: {error}", name=name) from None


def _fields(repository: Repository, record_id: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(repository.load_record(RECORD_KIND, record_id))
    if fields["schema"] != SCHEMA:
        raise ValueError(f"schema {str(fields['schema'])[:20]} is not known here")
    return fields


@dataclass(slots=True)
class Stretch:
    """What one writer has stored of a source. `kinds` and `seen_bytes`: what its session has met."""

    facts: ManifestFacts
    stats: SnapshotStats
    looks: Looks
    problems: list[Problem]
    notes: list[str]
    kinds: dict[str, int]
    seen_bytes: int
    manifest: str  # the record that `facts` is


def save_stretch(
    repository: Repository,
    written: WrittenSnapshot,
    looks: Looks,
    problems: Sequence[Problem],
    notes: Sequence[str],
    met: tuple[Mapping[str, int], int],
) -> str:
    """Keep what a writer with `part` has stored for whoever joins it; the record's id. `met`: see `Stretch`."""
    record = {
        "schema": SCHEMA,
        "manifest": written.manifest,
        "stats": asdict(written.stats),
        "looks": [
            {kind.decode("latin-1"): counts for kind, counts in one.items()} for one in (looks.new, looks.rewritten)
        ],
        "problems": [asdict(one) for one in problems],
        "notes": list(notes),
        "kinds": dict(met[0]),
        "seen_bytes": met[1],
    }
    return repository.save_record(RECORD_KIND, json.dumps(record, sort_keys=True).encode())


def load_stretch(repository: Repository, record_id: str) -> Stretch:
    """Raises NoSuchError, DamageError: also when the index does not have the tree."""
    with _decoding(record_id):
        fields = _fields(repository, record_id)
        facts = read_manifest(repository, fields["manifest"]).facts
        looks = Looks()
        looks.new, looks.rewritten = (
            {kind.encode("latin-1"): counts for kind, counts in one.items()} for one in fields["looks"]
        )
        found = Stretch(
            facts,
            SnapshotStats(**fields["stats"]),
            looks,
            [Problem(**one) for one in fields["problems"]],
            list(fields["notes"]),
            dict(fields["kinds"]),
            int(fields["seen_bytes"]),
            fields["manifest"],
        )
    name = f"backupctl/{RECORD_KIND}/{record_id}"
    if not repository.locate("tree", facts.tree) or not repository.has_blob("tree", facts.tree):
        raise DamageError(f"{name}: tree {facts.tree.hex()} is in no index", name=name)
    return found


Count = Callable[[Node | None, Node, Node | None], None]
"""Told of each directory that several trees had a part of: as the rest has it (None: not at all), as it is now, and as the
parent snapshot has it."""


class Joiner:
    """`load` and `save` trees; `load` may raise DamageError. `made`: the directories above those of the stretches, by their
    path in the snapshot, which every tree may have a part of."""

    def __init__(
        self,
        load: Callable[[bytes], bytes],
        save: Callable[[list[Node]], bytes],
        made: Collection[bytes],
        count: Count,
    ) -> None:
        self._load, self._save, self._made, self._count = load, save, made, count

    def join(self, rest: bytes | None, others: Sequence[bytes], base: bytes | None, path: bytes) -> bytes:
        """One tree of all these of the directory at `path`. Raises SourceError where they are not of one file system:
        something else stood in the place of a directory by then."""
        mine = {node.name: node for node in self._nodes(rest)}
        parts: dict[bytes, list[Node]] = {}
        for tree in others:
            for node in self._nodes(tree):
                parts.setdefault(node.name, []).append(node)
        before = self._before(base) if parts else {}
        nodes = [node for name, node in mine.items() if name not in parts]
        for name, found in parts.items():
            where, first, old = path + b"/" + name, mine.get(name), before.get(name)
            if where not in self._made:
                if first is not None or len(found) > 1:
                    raise self._differ(where)
                nodes += found
                continue
            if any(node.type != "dir" for node in ((first, *found) if first is not None else found)):
                raise self._differ(where)
            trees = [node.subtree for node in found if node.subtree is not None]
            upper = first.subtree if first is not None else None
            joined = self.join(upper, trees, old.subtree if old is not None else None, where)
            node = replace(first or found[0], subtree=joined)
            self._count(first, node, old)
            nodes.append(node)
        return self._save(nodes)

    def _nodes(self, tree: bytes | None) -> Iterator[Node]:
        return iterate_tree(self._load(tree)) if tree is not None else iter(())

    def _before(self, tree: bytes | None) -> dict[bytes, Node]:
        """Of the parent snapshot, which may be damaged: it only says what is new."""
        try:
            return {node.name: node for node in self._nodes(tree)}
        except (DamageError, FormatError):
            return {}

    @staticmethod
    def _differ(path: bytes) -> SourceError:
        return SourceError(
            f"{display_name(path)} was a directory at first and something else later", next_step="run the backup again"
        )


def above(directories: Iterable[bytes], source: str) -> set[bytes]:
    """The directories that lead to these, which are absolute, by their path in the snapshot."""
    found: set[bytes] = set()
    for directory in directories:
        path = source.encode() + directory
        while (path := path.rpartition(b"/")[0]) and path not in found:
            found.add(path)
    return found
