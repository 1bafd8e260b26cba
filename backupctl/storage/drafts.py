"""Objects that are written while they grow, where a store can do that: nobody has to hold a whole pack in memory for it."""

from __future__ import annotations

from typing import Protocol


class Draft(Protocol):
    """An object that has no name yet. Nobody sees it before `finish`; without that it goes with its last reference, or with us.
    For one thread at a time."""

    def write(self, data: bytes | bytearray) -> None:
        """Add to its end; raises what `put` raises, and may then be called again with the same."""

    def read(self) -> bytes:
        """All that was written."""

    def finish(self, name: str) -> None:
        """From now on it is the object of that name, as durable as after `put`. Nothing more can be done with the draft."""


def draft_in(store: object) -> Draft | None:
    """A new one, where `store` can write it as it grows and nothing on the way there has to see its bytes at once."""
    begin = getattr(store, "draft", None)
    found: Draft | None = begin() if begin is not None else None
    return found
