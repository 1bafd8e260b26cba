"""Reading packs in pieces: what is wanted of a pack is read in few requests, not in one for each blob."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from backupctl.repository.memory_index import Location

MAX_GAP_BYTES = 128 << 10  # read and thrown away sooner than asking once more
MAX_RUN_BYTES = 4 << 20


@dataclass(slots=True)
class Run:
    """Blobs of one pack that are read with one request, by ascending offsets."""

    pack: bytes
    start: int  # in the pack
    end: int
    places: list[Location]


def runs(places: Iterable[Location], *, max_bytes: int = MAX_RUN_BYTES, max_gap: int = MAX_GAP_BYTES) -> Iterator[Run]:
    """The places in their order, as few runs: one goes on while the next blob follows in the same pack."""
    run: Run | None = None
    for place in places:
        start, end = place.blob.offset, place.blob.offset + place.blob.length
        if (
            run is not None
            and run.pack == place.pack
            and run.end <= start <= run.end + max_gap
            and end - run.start <= max_bytes
        ):
            run.end = end
            run.places.append(place)
            continue
        if run is not None:
            yield run
        run = Run(place.pack, start, end, [place])
    if run is not None:
        yield run
