"""Reading packs in pieces: what is wanted of a pack is read in few requests, not in one for each blob."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from backupctl.repository.format.crypto import OVERHEAD_BYTES

MAX_GAP_BYTES = 128 << 10  # read and thrown away sooner than asking once more
MAX_RUN_BYTES = 4 << 20


class Place(NamedTuple):
    """Where a blob is; a tuple, because a restore makes one for every file."""

    id: bytes
    pack: int  # its number in the index
    offset: int
    length: int
    plain_length: int

    @property
    def size(self) -> int:
        """Bytes of content."""
        return self.plain_length or self.length - OVERHEAD_BYTES


@dataclass(slots=True)
class Run:
    """Blobs of one pack that are read with one request, by ascending offsets."""

    pack: bytes
    start: int  # in the pack
    end: int
    places: list[Place]


def runs(
    places: Iterable[Place],
    pack_id: Callable[[int], bytes],
    *,
    max_bytes: int = MAX_RUN_BYTES,
    max_gap: int = MAX_GAP_BYTES,
) -> Iterator[Run]:
    """The places in their order, as few runs: one goes on while the next blob follows in the same pack."""
    run: Run | None = None
    pack = -1
    for place in places:
        start = place.offset
        end = start + place.length
        if (
            run is not None
            and pack == place.pack
            and run.end <= start <= run.end + max_gap
            and end - run.start <= max_bytes
        ):
            run.end = end
            run.places.append(place)
            continue
        if run is not None:
            yield run
        pack = place.pack
        run = Run(pack_id(pack), start, end, [place])
    if run is not None:
        yield run
