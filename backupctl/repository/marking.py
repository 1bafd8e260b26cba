"""What is still needed: one byte for each copy of each blob that the index lists."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile

from backupctl.errors import DamageError
from backupctl.repository.format import FormatError
from backupctl.repository.format.pack import BlobKind
from backupctl.repository.format.tree import iterate_tree
from backupctl.repository.memory_index import Location, MemoryIndex
from backupctl.repository.repository import Repository, pack_name

log = logging.getLogger(__name__)

NOTHING_DELETED = (
    "nothing was deleted; run `backupctl check`, then the `backupctl repair` that it names, then prune again"
)


def mark_used(
    repository: Repository,
    index: MemoryIndex,
    roots: Iterable[bytes],
    lost: Mapping[bytes, str],
    *,
    hints: Iterable[bytes] = (),
) -> tuple[bytearray, set[bytes]]:
    """For each record of the index 1 when that copy stays, and the packs with copies that cannot be read and must be
    written anew. Every tree below `roots` is read, and of what is stored more than once each copy until a good one is
    found; what lies in a `lost` pack is not there. Raises DamageError for anything needed that cannot be read. What lies below
    `hints` stays as far as it is there."""
    used, spoilt = bytearray(len(index)), set[bytes]()

    def mark(kind: BlobKind, blob: bytes) -> bool:
        """True when the blob was not marked before."""
        copies, what = index.numbers(kind, blob), f"{kind}/{blob.hex()}"
        if any(used[number] for number in copies):
            return False
        if not copies:
            raise DamageError(f"{what} is in no index", name=what, next_step=NOTHING_DELETED)
        there = copies if not lost else [number for number in copies if index.at(number).pack not in lost]
        if not there:
            pack = index.at(copies[0]).pack
            name = pack_name(pack)
            raise DamageError(f"the pack {name} {lost[pack]}", name=name, next_step=NOTHING_DELETED)
        chosen = there[0]
        if len(there) > 1:
            bad = list(takewhile(lambda number: not _is_good(repository, index.at(number)), there))
            spoilt.update(index.at(number).pack for number in bad)
            chosen = there[len(bad) % len(there)]  # the first when none is good
        used[chosen] = 1
        return True

    def walk(root: bytes, mark: Callable[[BlobKind, bytes], bool]) -> None:
        todo = [root]
        while todo:
            tree = todo.pop()
            if not mark("tree", tree):
                continue
            try:
                for node in iterate_tree(repository.load_blob("tree", tree)):
                    if node.type == "dir":
                        if node.subtree is None:
                            raise FormatError("a directory without a tree")
                        todo.append(node.subtree)
                    for blob in node.content or ():
                        mark("data", blob)
                    if node.type == "file" and node.content is None:
                        raise FormatError("a file without a content list")
            except FormatError as error:
                name = f"tree/{tree.hex()}"
                raise DamageError(f"{name} is malformed: {error}", name=name, next_step=NOTHING_DELETED) from None

    def mark_what_is_there(kind: BlobKind, blob: bytes) -> bool:
        try:
            return mark(kind, blob)
        except DamageError:
            return False  # a hint promises nothing

    for root in roots:
        walk(root, mark)
    for hint in hints:
        try:
            walk(hint, mark_what_is_there)
        except DamageError as error:
            log.warning("what an interrupted run left is not kept in full: %s", error.message)
    _keep_where_data_would_be_lost(repository, index, used, spoilt)
    return used, spoilt


def _is_good(repository: Repository, place: Location) -> bool:
    try:
        repository.load_copy(place)
    except DamageError:
        return False
    return True


def _keep_where_data_would_be_lost(
    repository: Repository, index: MemoryIndex, used: bytearray, spoilt: set[bytes]
) -> None:
    """Take out of `spoilt` the packs that hold the only copy of something needed that cannot be read: they cannot be
    written anew, and what else is in them must stay."""
    if not spoilt:
        return
    for number, place in enumerate(index):
        if used[number] and place.pack in spoilt and not _is_good(repository, place):
            spoilt.discard(place.pack)
