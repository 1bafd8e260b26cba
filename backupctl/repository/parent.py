"""What the parent snapshot knows, met in the same order as the new entries, so that nothing of it is held in memory."""

from __future__ import annotations

from collections.abc import Iterator

from backupctl.errors import DamageError
from backupctl.repository.format import FormatError
from backupctl.repository.format.names import display_name
from backupctl.repository.format.node import Node


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

    def next(self) -> Node | None:
        """The next of them, for whoever wants them all; None at the end."""
        found = self._next
        if found is not None:
            self._advance()
        return found

    def _advance(self) -> None:
        try:
            self._next = next(self._nodes, None)
        except (DamageError, FormatError) as error:
            self._next = None
            self._notes.append(
                f"{display_name(self._path)}: read in full, the parent snapshot is damaged there: {error}"
            )
