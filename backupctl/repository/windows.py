"""The content of a restore in windows: some thousand files whose blobs are read pack by pack, each pack in few requests,
instead of blob by blob. Memory holds the nodes of two windows, and the content of a few batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from backupctl.repository.fetching import Place, Run, runs
from backupctl.repository.memory_index import MemoryIndex
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.steps import Step, facts_of
from backupctl.repository.unpacking import FileParts, SealedBlob

WINDOW_FILES = 8192
WINDOW_BLOBS = 16384
WINDOW_BYTES = 1 << 30  # of content
_BATCH_SEALED_BYTES = 4 << 20
_BATCH_BYTES = 16 << 20  # of content
_BATCH_BLOBS = 1024


@dataclass(slots=True)
class WantedFile:
    """A file whose content is to be made. `trouble`: a blob that was not what it must be (b"": something else was in the
    way), so the file has to be made the careful way, from its beginning."""

    step: Step
    destination: bytes
    size: int
    trouble: bytes | None = None
    planned_bytes: int = 0
    divided: bool = False  # into several batches
    made: bool = False  # divided, and there with its size
    counted_bytes: int = 0  # of its parts that are placed
    placed: bool = False  # all of it, by a batch


@dataclass(slots=True)
class Batch:
    """What is fetched, opened and written together. `files` and `wanted` are the same files in the same order."""

    runs: list[Run]
    blobs: list[SealedBlob] = field(default_factory=list)
    files: list[FileParts] = field(default_factory=list)
    wanted: list[WantedFile] = field(default_factory=list)


@dataclass(slots=True)
class Window:
    """`pieces`: files, or parts of their content: from which blob to which. `after`: steps for when all files are done. It is
    `full` at one in `share` of what a window may hold."""

    share: int = 1
    pieces: list[tuple[WantedFile, int, int]] = field(default_factory=list)
    blobs: int = 0
    bytes: int = 0
    after: list[Step] = field(default_factory=list)

    @property
    def most_blobs(self) -> int:
        return WINDOW_BLOBS // self.share

    @property
    def full(self) -> bool:
        share = self.share
        return (
            len(self.pieces) * share >= WINDOW_FILES
            or self.blobs >= self.most_blobs
            or self.bytes * share >= WINDOW_BYTES
        )

    def add(self, file: WantedFile, start: int, end: int) -> None:
        count = end - start
        self.pieces.append((file, start, end))
        self.blobs += count
        self.bytes += file.size * count // max(1, len(file.step.node.content or ()))

    def ended(self) -> Iterator[WantedFile]:
        """The files whose last part is in this window, in the order of the tree."""
        return (file for file, _, end in self.pieces if end == len(file.step.node.content or ()))


def batches(reader: SnapshotReader, window: Window, *, divide: bool) -> list[Batch]:
    """The batches of a window, packs in the order in which the tree meets them. Files in several batches are marked
    `divided`, and left out without `divide`. Files that no index describes get into trouble."""
    index = reader.repo.index
    places = _places(index, window)
    order: dict[int, int] = {}
    for place in places.values():
        order.setdefault(place.pack, len(order))
    made: list[Batch] = []
    where: dict[bytes, tuple[int, int]] = {}  # blob → its batch, its number there
    for number, members in enumerate(_cut(sorted(places.values(), key=lambda p: (order[p.pack], p.offset)))):
        made.append(Batch(list(runs(members, index.pack))))
        for position, place in enumerate(members):
            where[place.id] = (number, position)
    if not made:
        made.append(Batch([]))
    uses: dict[bytes, int] = {}
    for file, start, end in window.pieces:
        if file.trouble is None:
            _distribute(file, start, end, places, where, made, uses, divide=divide)
    for batch in made:
        for number, run in enumerate(batch.runs):
            for place in run.places:
                blob, _, offset, length, plain_length = place
                used = uses.get(blob, 0)
                batch.blobs.append((blob, number, offset - run.start, length, place.size, bool(plain_length), used))
    return [batch for batch in made if batch.files]


def _places(index: MemoryIndex, window: Window) -> dict[bytes, Place]:
    """Where each blob of the window is, in the order in which the tree meets them."""
    places: dict[bytes, Place] = {}
    for file, start, end in window.pieces:
        for blob in (file.step.node.content or ())[start:end]:
            if blob not in places:
                found = index.first("data", blob)
                if found is not None:
                    places[blob] = Place(blob, *found)
                else:
                    file.trouble = blob
    return places


def _cut(places: list[Place]) -> Iterator[list[Place]]:
    """Into what one batch may hold."""
    members: list[Place] = []
    sealed = plain = 0
    for place in places:
        sealed += place.length
        plain += place.size
        if members and (sealed > _BATCH_SEALED_BYTES or plain > _BATCH_BYTES or len(members) >= _BATCH_BLOBS):
            yield members
            members, sealed, plain = [], place.length, place.size
        members.append(place)
    if members:
        yield members


def _distribute(
    file: WantedFile,
    start: int,
    end: int,
    places: dict[bytes, Place],
    where: dict[bytes, tuple[int, int]],
    made: list[Batch],
    uses: dict[bytes, int],
    *,
    divide: bool,
) -> None:
    node, content = file.step.node, file.step.node.content or ()
    if len(content) == 1 and (place := places.get(content[0])) is not None and place.size == file.size:
        batch, number = where[place.id]  # as below, for what most files are
        uses[place.id] = uses.get(place.id, 0) + 1
        made[batch].files.append((file.destination, file.size, [(0, number)], facts_of(node)))
        made[batch].wanted.append(file)
        return
    shares: dict[int, list[tuple[int, int]]] = {}  # batch → parts
    position = file.planned_bytes
    for blob in content[start:end]:
        place = places.get(blob)
        if place is None:
            file.trouble = blob
            return
        batch, number = where[blob]
        shares.setdefault(batch, []).append((position, number))
        position += place.size
        uses[blob] = uses.get(blob, 0) + 1
    file.planned_bytes = position
    if end == len(content) and position != file.size:
        file.trouble = b""
        return
    file.divided = file.divided or len(shares) > 1 or end - start < len(content)
    if file.divided and not divide:
        return
    for batch, parts in (shares or {len(made) - 1: []}).items():
        facts = None if file.divided else facts_of(node)
        made[batch].files.append((file.destination, file.size, parts, facts))
        made[batch].wanted.append(file)


def spans(file: WantedFile, window: Window) -> Iterator[tuple[int, int]]:
    """The blobs of a file, in parts of what a window like this one holds at most."""
    count = len(file.step.node.content or ())
    starts = range(0, max(1, count), window.most_blobs)
    yield from zip(starts, [*starts[1:], count], strict=True)
