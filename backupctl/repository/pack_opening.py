"""Every blob of a pack opened and compared with its id: what takes the time of a check, for a worker process.

Imports little on purpose: a worker starts by importing this module.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import Keys, unseal
from backupctl.repository.format.opening import BlobOpener
from backupctl.repository.format.pack import sealed_header, tail_bytes
from backupctl.repository.format.tree_scan import TreeScans, scan_tree
from backupctl.repository.memory import give_back
from backupctl.storage.nearby import Directory, open_object, read_exactly, scratch

_TAIL_BYTES = 64 << 10  # the headers of most packs
_SLICE_BYTES = 256 << 10  # stays in a processor's cache between reading, hashing and opening; 1 MiB is no faster
_local = threading.local()


@dataclass(slots=True)
class Opened:
    """`bad` and the numbers of `trees` are positions among the blobs. `digest`: SHA-256 of a whole pack's plain header."""

    bad: list[int] = field(default_factory=list)
    trees: TreeScans = field(default_factory=TreeScans)
    digest: bytes = b""


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


def open_file(keys: Keys, directory: Directory, name: str, scan: bool) -> Opened | None:
    """All blobs of the pack `name`, read from the store's own directory, as its own header lists them. With `scan` what each
    good tree refers to is told too, of a pack that holds nothing else. None unless it is as a file what its name says:
    whoever asked then reads it again the careful way, and says what is wrong."""
    give_back()  # what a large blob took before stays free on the heap, up to 16 MiB
    try:
        file = open_object(directory, name)
    except OSError:
        return None
    try:
        return _open_file(keys, file, name, scan)
    except (OSError, EOFError, FormatError, struct.error):
        return None
    finally:
        os.close(file)


def _open_file(keys: Keys, file: int, name: str, scan: bool) -> Opened | None:
    size = os.fstat(file).st_size
    tail = _tail(file, size, min(size, _TAIL_BYTES))
    if (needed := tail_bytes(tail)) > len(tail):
        tail = _tail(file, size, min(size, needed))
    header = unseal(keys, sealed_header(tail))
    scan = scan and _only_trees(header)
    opened = Opened(digest=hashlib.sha256(header).digest())
    whole = hashlib.sha256()
    end = 0
    for first, part, begin, end in cut(header, _SLICE_BYTES):
        if end > size - needed:
            return None
        view = scratch(end - begin)
        read_exactly(file, view, begin)
        whole.update(view)
        _open(keys, part, view, scan, first, opened)
    whole.update(memoryview(tail)[len(tail) - needed :])
    return opened if end == size - needed and whole.hexdigest() == name.rpartition("/")[2] else None


def _only_trees(header: bytes) -> bool:
    position = 0
    while position < len(header):
        if header[position] & 1 == 0:
            return False
        position += 37 if header[position] < 2 else 41
    return True


def _tail(file: int, size: int, length: int) -> bytes:
    tail = bytearray(length)
    read_exactly(file, memoryview(tail), size - length)
    return bytes(tail)


def _open(keys: Keys, header: bytes, sealed: bytes | memoryview, scan: bool, first: int, opened: Opened) -> None:
    if getattr(_local, "keys", None) != keys:
        _local.keys, _local.opener = keys, BlobOpener(keys)
    opener: BlobOpener = _local.opener
    for position, (is_tree, content) in enumerate(opener.open_all(header, sealed), first):
        if content is None:
            opened.bad.append(position)
        elif scan and is_tree:
            opened.trees.add(position, scan_tree(content))
