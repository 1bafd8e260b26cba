"""Every blob of a pack opened and compared with its id: what takes the time of a check, for a worker process.

Imports little on purpose: a worker starts by importing this module.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import Keys, unseal
from backupctl.repository.format.opening import BlobOpener
from backupctl.repository.format.pack import pack_bytes, sealed_header
from backupctl.repository.format.tree_scan import TreeScan, scan_tree
from backupctl.storage.nearby import Directory, open_object, read_exactly, scratch

_SLICE_BYTES = 1 << 20  # what stays in a processor's cache between reading, hashing and opening it
_local = threading.local()


@dataclass(slots=True)
class Opened:
    """`bad` and the numbers of `trees` are positions among the blobs."""

    bad: list[int] = field(default_factory=list)
    trees: list[tuple[int, TreeScan]] = field(default_factory=list)


def cut(header: bytes, slice_bytes: int) -> Iterator[tuple[int, bytes, int, int]]:
    """The blobs of a plain pack header in slices of at least so many bytes: (position of the first blob, header of the slice,
    where its blobs begin and end in the pack)."""
    first = number = start = position = offset = begin = 0
    while position < len(header):
        offset += int.from_bytes(header[position + 1 : position + 5], "little")
        position += 37 if header[position] < 2 else 41
        number += 1
        if offset - begin >= slice_bytes or position >= len(header):
            yield first, header[start:position], begin, offset
            first, start, begin = number, position, offset


def open_slice(keys: Keys, header: bytes, sealed: bytes | memoryview, scan: bool) -> Opened:
    """Consecutive blobs of a pack. With `scan` what each good tree refers to is told too. Stateless but for its ciphers."""
    opened = Opened()
    _open(keys, header, sealed, scan, 0, opened)
    return opened


def open_file(
    keys: Keys, directory: Directory, name: str, size: int, digest: bytes, count: int, scan: bool
) -> Opened | None:
    """All blobs of the pack `name`, read from the store's own directory. None unless it is as a file what its name and the
    index say (`size`, `count` blobs, SHA-256 `digest` of its plain header): whoever asked then reads it again the careful way,
    and says what is wrong."""
    try:
        file = open_object(directory, name)
    except OSError:
        return None
    try:
        if os.fstat(file).st_size != size:
            return None
        return _open_file(keys, file, name, size, digest, count, scan)
    except (OSError, EOFError, FormatError):
        return None
    finally:
        os.close(file)


def _open_file(keys: Keys, file: int, name: str, size: int, digest: bytes, count: int, scan: bool) -> Opened | None:
    tail = bytearray(min(size, 41 * count + pack_bytes(())))
    read_exactly(file, memoryview(tail), size - len(tail))
    header = unseal(keys, sealed_header(bytes(tail)))
    if hashlib.sha256(header).digest() != digest:
        return None
    opened = Opened()
    whole = hashlib.sha256()
    end = 0
    for first, part, begin, end in cut(header, _SLICE_BYTES):
        view = scratch(end - begin)
        read_exactly(file, view, begin)
        whole.update(view)
        _open(keys, part, view, scan, first, opened)
    whole.update(memoryview(tail)[len(tail) - (size - end) :])
    return opened if whole.hexdigest() == name.rpartition("/")[2] else None


def _open(keys: Keys, header: bytes, sealed: bytes | memoryview, scan: bool, first: int, opened: Opened) -> None:
    if getattr(_local, "keys", None) != keys:
        _local.keys, _local.opener = keys, BlobOpener(keys)
    opener: BlobOpener = _local.opener
    for position, (is_tree, content) in enumerate(opener.open_all(header, sealed), first):
        if content is None:
            opened.bad.append(position)
        elif scan and is_tree:
            opened.trees.append((position, scan_tree(content)))
