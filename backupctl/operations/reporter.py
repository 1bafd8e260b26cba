"""How an operation tells its face what happens, without knowing whether that is a terminal, a log or a JSON stream."""

from __future__ import annotations

from typing import Any, Protocol


class Reporter(Protocol):
    def event(self, kind: str, message: str, /, **fields: Any) -> None:
        """A fact worth keeping: one line for people (`message`), one JSON object with `type: kind` and `fields`."""

    def progress(self, stage: str, done: int, total: int | None, *, unit: str = "bytes", item: str = "") -> None:
        """Called often and cheaply; the face decides what to draw. `total` None: not known."""


class SilentReporter:
    def event(self, kind: str, message: str, /, **fields: Any) -> None:
        return

    def progress(self, stage: str, done: int, total: int | None, *, unit: str = "bytes", item: str = "") -> None:
        return
