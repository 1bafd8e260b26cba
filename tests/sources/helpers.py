"""From a session to a restored instance without a repository in between."""

from __future__ import annotations

import io
from pathlib import Path

from backupctl.clock import SystemClock
from backupctl.hosts.local import LocalHost
from backupctl.sources.protocol import CheckResult

HOST = LocalHost()
CLOCK = SystemClock()

__all__ = ["CLOCK", "HOST", "MemoryFiles", "bad", "drain", "processes_with", "take"]


class MemoryFiles:
    """`SnapshotFiles` over a dictionary."""

    def __init__(self, content: dict[bytes, bytes]) -> None:
        self.content = content

    def names(self, directory: bytes = b"") -> list[bytes]:
        prefix = directory + b"/" if directory else b""
        return sorted({path[len(prefix) :].split(b"/")[0] for path in self.content if path.startswith(prefix)})

    def open(self, path: bytes) -> io.BytesIO:
        return io.BytesIO(self.content[path])

    def size(self, path: bytes) -> int:
        return len(self.content[path])


def drain(stream) -> bytes:
    try:
        return b"".join(iter(lambda: stream.read(65536), b""))
    finally:
        stream.close()


def take(source, between=lambda: None, host=HOST):
    """The source's entries in memory and its fingerprint; checks the order that entries promise. `between` runs when an
    entry has been read and before the session goes on."""
    content: dict[bytes, bytes] = {}
    seen: list[bytes] = []
    with source.open(host, CLOCK) as session:
        for entry in session.entries():
            assert not entry.error, entry.error
            seen.append(entry.path)
            assert entry.node.name == entry.path.rpartition(b"/")[2]
            if entry.open is not None:
                content[entry.path] = drain(entry.open())
                between()
        fingerprint = session.fingerprint()
    assert seen == sorted(seen, key=lambda path: path.split(b"/"))
    assert fingerprint["kind"] == source.kind
    return MemoryFiles(content), fingerprint


def bad(results: list[CheckResult]) -> list[str]:
    assert results
    return [result.name for result in results if not result.ok]


def processes_with(text: str) -> list[str]:
    """Command lines on this machine that hold `text`."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                content = (process / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended meanwhile
            if text.encode() in content:
                found.append(content.replace(b"\0", b" ").decode("utf-8", "replace"))
    return found
