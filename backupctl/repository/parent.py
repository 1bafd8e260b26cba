"""What the parent snapshot knows, met in the same order as the new entries, so that nothing of it is held in memory."""

from __future__ import annotations

from collections.abc import Iterator

from backupctl.errors import DamageError
from backupctl.repository.format import FormatError
from backupctl.repository.format.names import display_name
from backupctl.repository.format.node import Node
from backupctl.repository.manifest import ManifestEntry, path_key


class OldNodes:
    """The parent snapshot's nodes of one directory, met in name order together with the new ones."""

    def __init__(self, nodes: Iterator[Node], notes: list[str], path: bytes) -> None:
        self._nodes = nodes
        self._notes = notes
        self._path = path
        self._next: Node | None = None
        self._advance()

    def take(self, name: bytes) -> Node | None:
        """The old node called `name`. Names must be asked for in ascending order."""
        while self._next is not None and self._next.name < name:
            self._advance()
        return self._next if self._next is not None and self._next.name == name else None

    def _advance(self) -> None:
        try:
            self._next = next(self._nodes, None)
        except (DamageError, FormatError) as error:
            self._next = None
            self._notes.append(
                f"{display_name(self._path)}: read in full, the parent snapshot is damaged there: {error}"
            )


class OldManifest:
    """The parent manifest's entries of one source, met in the same order."""

    def __init__(self, entries: Iterator[ManifestEntry], notes: list[str]) -> None:
        self._entries = entries
        self._notes = notes
        self._next: ManifestEntry | None = None
        self._next_key: list[bytes] = []
        self._advance()

    def take(self, path: bytes) -> ManifestEntry | None:
        key = path_key(path)
        while self._next is not None and self._next_key < key:
            self._advance()
        return self._next if self._next is not None and self._next.path == path else None

    def _advance(self) -> None:
        try:
            self._next = next(self._entries, None)
        except DamageError as error:
            self._next = None
            self._notes.append(f"files are read again, the parent's {error}")
        if self._next is not None:
            self._next_key = path_key(self._next.path)
