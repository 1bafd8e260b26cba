"""Sealed bytes of packs in, restored files out: the part of a restore that takes the time, for a worker process.

Imports little on purpose: a worker starts by importing this module.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from backupctl.hosts import placing
from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import Keys
from backupctl.repository.format.opening import BlobOpener
from backupctl.storage.nearby import Directory, open_object, read_exactly, scratch

_KEPT_BYTES = 16 << 20  # content of blobs that are wanted again in the same batch


class Ranges(NamedTuple):
    """Parts of packs that the worker reads itself."""

    directory: Directory
    parts: Sequence[tuple[str, int, int]]  # (name, start, end)

    def read(self) -> list[memoryview]:
        """Good until the next are read. Raises OSError, EOFError."""
        view = scratch(sum(end - start for _, start, end in self.parts))
        found = []
        for name, start, end in self.parts:
            part, view = view[: end - start], view[end - start :]
            file = open_object(self.directory, name)
            try:
                read_exactly(file, part, start)
            finally:
                os.close(file)
            found.append(part)
        return found


# plain tuples: pickling a named one calls Python, for each blob and each file on both sides
SealedBlob = tuple[bytes, int, int, int, int, bool, int]
"""Where a blob stands in the ranges that were fetched for its batch: id, number of the range, start in it, length, size of its
content, whether it is compressed, how many parts of files in the batch are this blob."""

FileParts = tuple[bytes, int, Sequence[tuple[int, int]], placing.Facts | None]
"""A file, or the parts of one, that a batch holds: path relative to the root, size, parts (offset in the file, number of the
blob in the batch; ascending), and what to set in the end. None: only parts; the file is there, and somebody else finishes it."""


class Trouble(NamedTuple):
    """`file`: its position in the batch. `blob`: the one that is not what it must be; b"" when the file could not be made."""

    file: int
    blob: bytes


class Content:
    """Opens the blobs of a batch, each once as long as what is wanted again fits into memory."""

    def __init__(self, keys: Keys, ranges: Sequence[bytes | memoryview], blobs: Sequence[SealedBlob]) -> None:
        self._opener = BlobOpener(keys)
        self._ranges = [memoryview(data) for data in ranges]
        self._blobs = blobs
        self._left = [blob[-1] for blob in blobs]
        self._kept: dict[int, bytes] = {}
        self._kept_bytes = 0

    def blob(self, number: int) -> bytes:
        """Raises FormatError when it is not what its id says, or not of the size that the index says."""
        self._left[number] -= 1
        data = self._kept.get(number)
        if data is None:
            blob_id, where, start, length, size, compressed, _ = self._blobs[number]
            sealed = self._ranges[where][start : start + length]
            data = self._opener.open(sealed, length, size if compressed else 0, blob_id)
            if data is None or len(data) != size:
                raise FormatError("not what the index says")
            if self._left[number] > 0 and (not self._kept or self._kept_bytes + len(data) <= _KEPT_BYTES):
                self._kept[number] = data
                self._kept_bytes += len(data)
        elif self._left[number] <= 0:
            self._kept_bytes -= len(self._kept.pop(number))
        return data


def opened(
    keys: Keys, ranges: Sequence[bytes], blobs: Sequence[SealedBlob], files: Sequence[FileParts]
) -> list[list[tuple[int, bytes]] | DamagedBlob]:
    """What `files` hold, in their order: (offset, content) of each part, or the blob that is damaged."""
    content = Content(keys, ranges, blobs)
    found: list[list[tuple[int, bytes]] | DamagedBlob] = []
    for file in files:
        try:
            found.append(list(parts_of(content, file[2], blobs)))
        except DamagedBlob as error:
            found.append(error)
    return found


def parts_of(
    content: Content, parts: Sequence[tuple[int, int]], blobs: Sequence[SealedBlob]
) -> Iterator[tuple[int, bytes]]:
    """(offset, content) of each part. Raises DamagedBlob."""
    for offset, number in parts:
        try:
            yield offset, content.blob(number)
        except FormatError:
            raise DamagedBlob(blobs[number][0]) from None


class DamagedBlob(Exception):
    def __init__(self, blob: bytes) -> None:
        super().__init__(blob.hex())
        self.blob = blob


def place_batch(
    keys: Keys,
    root: bytes,
    identity: tuple[int, int],
    ranges: Sequence[bytes] | Ranges,
    blobs: Sequence[SealedBlob],
    files: Sequence[FileParts],
) -> tuple[list[Trouble], list[str]]:
    """Write `files` below `root`, which must still be the directory with this identity. What is in trouble was taken away
    again, as far as it was made here; the rest is written and finished. Gives back the warnings too."""
    try:
        content = Content(keys, ranges.read() if isinstance(ranges, Ranges) else ranges, blobs)
    except (OSError, EOFError):  # a lost pack: each of its files is told about it, if no other copy helps
        return [Trouble(number, b"") for number in range(len(files))], []
    trouble: list[Trouble] = []
    placer = placing.PosixPlacer(root)
    try:
        if placer.identity() != identity:
            return [Trouble(number, b"") for number in range(len(files))], []
        for number, file in enumerate(files):
            try:
                _place(placer, content, file, blobs)
            except DamagedBlob as error:
                trouble.append(Trouble(number, error.blob))
            except OSError:
                trouble.append(Trouble(number, b""))
        return trouble, placer.take_warnings()
    finally:
        placer.close()


def _place(placer: placing.PosixPlacer, content: Content, file: FileParts, blobs: Sequence[SealedBlob]) -> None:
    path, size, parts, facts = file
    if facts is None:
        descriptor = placer.reopen(path)
        try:
            for offset, data in parts_of(content, parts, blobs):
                placing.write_at(descriptor, offset, data)
        finally:
            os.close(descriptor)
        return
    # content before the file: a damaged blob then leaves nothing to take away, and a file's end is not set twice
    try:
        whole = content.blob(parts[0][1]) if len(parts) == 1 else None
    except FormatError:
        raise DamagedBlob(blobs[parts[0][1]][0]) from None
    descriptor = placer.file(path, size if whole is None else 0)
    try:
        if whole is not None:
            placing.write_whole(descriptor, whole)
        else:
            for offset, data in parts_of(content, parts, blobs):
                if not placing.is_zeros(data):  # the file is all hole from the start
                    placing.write_at(descriptor, offset, data)
        placer.finish(path, descriptor, facts)
    except BaseException:
        placer.remove(path)
        raise
    finally:
        os.close(descriptor)
