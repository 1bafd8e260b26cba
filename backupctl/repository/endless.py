"""Stops a walk that a hostile snapshot made endless.

A tree is named by its hash, so it cannot hold itself. But a directory may hold the same directory twice, and that one
another twice: forty such levels are forty small trees and a million million paths.
"""

from __future__ import annotations

from array import array
from hashlib import sha256

from backupctl.errors import DamageError
from backupctl.repository.format.names import display_name
from backupctl.repository.format.node import Node
from backupctl.repository.format.tree import encode_tree

MAX_REPEATS = 100_000
"""Of one directory that is not empty, in one walk. Its nodes hold inode numbers and times, so that in a snapshot of a real
file system it stands in one place."""
MAX_PATH_BYTES = 32 << 10
"""Eight times what a system call takes as a path. A walk holds the path of each level it is in."""
_EMPTY_TREE = sha256(encode_tree([])).digest()
_BUCKETS = 1 << 16  # 256 KiB instead of a set of every tree: a bucket fills up as early as its fullest tree


class WalkLimits:
    """One for each walk. `enter` is told of every directory on the way."""

    def __init__(self) -> None:
        self._counts = array("I", bytes(4 * _BUCKETS))

    def enter(self, path: bytes, node: Node) -> None:
        """Raises DamageError that names the directory at `path`."""
        if len(path) > MAX_PATH_BYTES:
            where = display_name(b"/" + path[:200])
            raise DamageError(
                f"{where}…: directories are nested {path.count(b'/') + 1} deep, a path of more than {MAX_PATH_BYTES} bytes",
                name=where,
                next_step="no file system made this snapshot; take another one",
            )
        if node.subtree is None or node.subtree == _EMPTY_TREE:
            return
        bucket = int.from_bytes(node.subtree[:2], "big")
        self._counts[bucket] += 1
        if self._counts[bucket] > MAX_REPEATS:
            where = display_name(b"/" + path[:200])
            raise DamageError(
                f"{where}: the same directories stand in each other more than {MAX_REPEATS} times, without end",
                name=f"tree/{node.subtree.hex()}",
                next_step="no file system made this snapshot; take another one",
            )
