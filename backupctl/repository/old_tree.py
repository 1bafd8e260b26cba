"""What the parent snapshot says about a directory and what is in it, read from its tree's text without decoding it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from backupctl.repository.format import FormatError
from backupctl.repository.format.node_text import FILE_TAIL, TREE_START, XATTRS, file_text, node_spans
from backupctl.repository.format.tree import decode_node

NEW, CHANGED, UNMODIFIED = range(3)

_AFTER_XATTRS = "]," + FILE_TAIL


class Old:
    """The parent snapshot's tree of one directory. Its nodes are met in order as long as nothing was added or removed."""

    def __init__(self, text: str) -> None:
        self.tree = text
        self._next = len(TREE_START)
        self._spans: dict[str, tuple[int, int]] | None = None
        self._in_order = text.startswith(TREE_START)

    def find(self, name: str, start: str, end_sign: str) -> str:
        """The whole text of the node that begins with `start` and ends with the first `end_sign` after it; else that of
        the node of that name, "" when there is none."""
        if self._in_order:
            if self.tree.startswith(start, self._next):
                end = self.tree.find(end_sign, self._next + len(start)) + len(end_sign)
                found = self.tree[self._next : end]
                self._next = end + 1
                return found
            self._in_order = False
        return self.node(name)

    def find_file(self, name: str, start: str) -> str:
        """The same for a file whose extended attributes `start` leaves out."""
        first, rest = self._next, self._next + len(start)
        if self._in_order and self.tree.startswith(XATTRS, rest) and self.tree.startswith(start, first):
            content = self.tree.find(_AFTER_XATTRS, rest)  # inside a string its quotes would be escaped
            if content >= 0:
                return self.find(name, self.tree[first : content + len(_AFTER_XATTRS)], "]}")
        return self.find(name, start + FILE_TAIL, "]}")

    def node(self, name: str) -> str:
        """The text of the node of that name, "" when there is none."""
        if self._spans is None:
            self._spans = node_spans(self.tree)
        start, end = self._spans.get(name, (0, 0))
        return self.tree[start:end]


def node_in(tree: Old | None, name: str) -> str:
    return tree.node(name) if tree is not None else ""


def outcome(before: str, after: str, kind: str) -> int:
    """NEW, CHANGED or UNMODIFIED, from a node's texts."""
    if f'","type":"{kind}"' not in before:
        return NEW
    return UNMODIFIED if before == after else CHANGED


def subtree_of(node: str) -> str:
    """The hex id of the tree that a directory's node refers to, "" when it is no such node."""
    tail = '"content":null,"subtree":"'
    start = node.find(tail)
    subtree = node[start + len(tail) : -2] if start >= 0 else ""
    return subtree if len(subtree) == 64 and '","type":"dir"' in node else ""


def content_ids(node: str, start: str) -> str | None:
    """The ids, as they are written, of a file's node that begins with `start`, whatever extended attributes it has; None
    when it begins otherwise or has no content."""
    if not node.startswith(start) or not node.endswith("]}"):
        return None
    if node.startswith(FILE_TAIL, len(start)):
        return node[len(start) + len(FILE_TAIL) : -2]
    if node.startswith(XATTRS, len(start)) and (end := node.find(_AFTER_XATTRS, len(start))) >= 0:
        return node[end + len(_AFTER_XATTRS) : -2]
    return None


def holds(node: str, content: Iterable[bytes]) -> bool:
    """Whether a file's old node has this content: it was read for another reason than that it changed."""
    return node.endswith(file_text("", content))


def same_content(node: str, status: os.stat_result) -> list[bytes] | None:
    """The old node's content, when size, times and inode say that the file is the same although its owner's name, say, is
    not."""
    try:
        old = decode_node(json.loads(node))
    except (ValueError, RecursionError, FormatError):
        return None
    if (old.size, old.mtime_ns, old.ctime_ns, old.inode) != (
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
    ):
        return None
    return old.content if old.type == "file" else None
