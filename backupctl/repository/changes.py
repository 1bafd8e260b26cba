"""What became of a source's files since the parent snapshot, told from the two trees alone.

Directories whose trees have one id are not read, and of the others only the nodes whose text differs: the time grows with
what changed. Both trees are of our own writing; what is not is left out, and counted as `unread`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from backupctl.errors import DamageError, NoSuchError
from backupctl.repository.endless import WalkLimits
from backupctl.repository.format import FormatError
from backupctl.repository.format.node import Node
from backupctl.repository.format.node_text import node_spans
from backupctl.repository.format.tree import decode_node
from backupctl.repository.looks import extension

MOST_MOVED = 500_000
"""So many files that are gone are remembered, to be recognised under another name; 100 bytes each."""

_ADDRESSES = re.compile(rb"(?i)how[ _-]?to|read[ _-]?me|help|instruction|(your|my|all)[ _-]?files")
_OFFERS = re.compile(rb"(?i)decrypt|unlock|restore|recover|ransom|encrypted|get[ _-]?back")
_NOTE_TYPES = (b"txt", b"htm", b"html", b"hta", b"rtf")


def is_ransom_note(name: bytes) -> bool:
    """Whether a file is called as such notes are: HOW_TO_DECRYPT.txt, !RESTORE-MY-FILES!.html."""
    return extension(name) in _NOTE_TYPES and bool(_ADDRESSES.search(name)) and bool(_OFFERS.search(name))


LoadTree = Callable[[bytes], bytes]


@dataclass(slots=True)
class Changes:
    """Counts of files. `rewritten`: other content under the same name; `moved`: content that is now under another name,
    and counts neither as new nor as deleted; `suffixed`: by extension, names that are gone and stand there again with that
    extension added and other content; `notes`: new files that are called as ransom notes are."""

    new: int = 0
    rewritten: int = 0
    deleted: int = 0
    moved: int = 0
    suffixed: Counter[bytes] = field(default_factory=Counter)
    notes: int = 0
    unread: int = 0


def changes(load: LoadTree, old: bytes | None, new: bytes) -> Changes:
    """`old` and `new` are ids of trees; without `old` everything is new."""
    return _Comparison(load).run(old, new)


class _Comparison:
    def __init__(self, load: LoadTree) -> None:
        self._load = load
        self._found = Changes()
        self._gone: Counter[int] = Counter()  # content of files that are gone, and of new ones
        self._came: Counter[int] = Counter()
        self._limits = WalkLimits()

    def run(self, old: bytes | None, new: bytes | None) -> Changes:
        stack: list[tuple[bytes | None, bytes | None]] = [(old, new)]
        while stack:
            before, after = stack.pop()
            if before != after:
                stack += self._directory(before, after)
        found = self._found
        found.moved = sum((self._gone & self._came).values())
        found.new -= found.moved
        found.deleted -= found.moved
        return found

    def _directory(self, old: bytes | None, new: bytes | None) -> list[tuple[bytes | None, bytes | None]]:
        before, after = self._texts(old), self._texts(new)
        if before is None or after is None:
            self._found.unread += 1
            return []
        below: list[tuple[bytes | None, bytes | None]] = []
        gone: dict[bytes, Node] = {}
        came: dict[bytes, Node] = {}
        for name, text in before.items():
            other = after.get(name)
            if other == text:
                continue
            was, is_now = self._node(text), self._node(other)
            self._pair(was, is_now, below, gone, came)
        for name, text in after.items():
            if name not in before:
                self._pair(None, self._node(text), below, gone, came)
        self._names(gone, came)
        return below

    def _pair(
        self,
        was: Node | None,
        is_now: Node | None,
        below: list[tuple[bytes | None, bytes | None]],
        gone: dict[bytes, Node],
        came: dict[bytes, Node],
    ) -> None:
        trees = [node.subtree if node is not None and node.type == "dir" else None for node in (was, is_now)]
        if any(trees):
            for node in (was, is_now):
                if node is not None and node.type == "dir":
                    self._limits.enter(node.name, node)
            below.append((trees[0], trees[1]))
        file_was, file_is = (node is not None and node.type == "file" for node in (was, is_now))
        if was is not None and is_now is not None and file_was and file_is:
            self._found.rewritten += was.content != is_now.content
        elif was is not None and file_was:
            gone[was.name] = was
        if is_now is not None and file_is and not file_was:
            came[is_now.name] = is_now

    def _names(self, gone: dict[bytes, Node], came: dict[bytes, Node]) -> None:
        found = self._found
        found.deleted += len(gone)
        found.new += len(came)
        for nodes, contents in ((gone, self._gone), (came, self._came)):
            for node in nodes.values():
                if node.content and len(contents) < MOST_MOVED:
                    contents[hash((node.size, *node.content))] += 1
        for name, node in came.items():
            found.notes += is_ransom_note(name)
            stem, dot, _ = name.rpartition(b".")
            if dot and stem in gone and gone[stem].content != node.content:
                found.suffixed[extension(name)] += 1

    def _texts(self, tree: bytes | None) -> dict[str, str] | None:
        """None for what cannot be read."""
        if tree is None:
            return {}
        try:
            text = self._load(tree).decode()
        except (DamageError, NoSuchError, UnicodeDecodeError):
            return None
        return {name: text[start:end] for name, (start, end) in node_spans(text).items()}

    def _node(self, text: str | None) -> Node | None:
        if text is None:
            return None
        try:
            return decode_node(json.loads(text))
        except (ValueError, RecursionError, FormatError):
            self._found.unread += 1
            return None
