"""Object names and byte ranges: the rules every store applies in the same way."""

from __future__ import annotations

from backupctl.errors import Corrupt, StorageError

TEMPORARY = ".tmp-"  # unfinished files of the local store; no object may be called so


def check_name(name: str, location: str) -> str:
    """Return `name`, or raise StorageError: relative, parts joined by `/`, none empty, `.` or `..`, all printable."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or part.startswith(TEMPORARY) for part in parts) or not name.isprintable():
        raise StorageError(f"{name!r} is no valid object name", name=name, location=location)
    return name


def cut(data: bytes, offset: int, length: int | None, *, name: str, location: str) -> bytes:
    """`data[offset:offset + length]`, exactly, or Corrupt."""
    check_range(offset, length)
    end = len(data) if length is None else offset + length
    if offset > len(data) or end > len(data):
        raise too_short(name, location, offset, length, max(0, len(data) - offset))
    return data[offset:end]


def check_range(offset: int, length: int | None) -> None:
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"negative range: offset {offset}, length {length}")


def too_short(name: str, location: str, offset: int, length: int | None, came: int) -> Corrupt:
    wanted = "the rest" if length is None else f"{length} bytes"
    return Corrupt(
        f"{location}: {name}: asked for {wanted} at offset {offset}, only {came} bytes came back",
        name=name,
        location=location,
        next_step="the object is shorter than it must be: run `backupctl check --read-data`",
    )
