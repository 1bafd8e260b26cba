"""From index files to segments: what the cache has is taken from there, the rest is read, and many small segments become
few, so that looking a blob up stays quick.

A small segment is merged with others of its size; a big one is written anew only when what came since is half as big.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from backupctl.repository.cache import Cache, merged_name
from backupctl.repository.format.index import iterate_index
from backupctl.repository.segment import RECORD, Allocate, Segment, anonymous, from_rows, merged, overlap

MAX_SEGMENTS = 4
MAX_LOOSE = 64  # segments that wait to be merged while index files are read; each holds a descriptor

Load = Callable[[str], tuple[list[bytes], bytes] | None]
"""The packs and rows of the index file with this id; None to leave it out."""


def load_segments(listed: Sequence[str], load: Load, cache: Cache | None) -> tuple[list[Segment], set[str]]:
    """Segments for the index files in `listed`, no pack twice, and the ids of those that `load` gave or the cache had."""
    segments = cache.merged_segments(listed) if cache else []
    read = {file_id for segment in segments for file_id in segment.files}
    loose: list[Segment] = []
    for file_id in listed:
        if file_id in read:
            continue
        segment = cache.segment(file_id) if cache else None
        if segment is None:
            if (found := load(file_id)) is None:
                continue
            segment = _keep(cache, [file_id], partial(from_rows, *found, [file_id]))
        read.add(file_id)
        loose.append(segment)
        if len(loose) == MAX_LOOSE:
            segments.append(_merge(cache, loose))
            loose = []
    return _few(cache, segments + loose), read


def rows_of(index_file: bytes) -> tuple[list[bytes], bytes]:
    """What an index file lists, as `from_rows` takes it. Raises FormatError."""
    packs: dict[bytes, int] = {}
    pieces: list[bytes] = []
    pack = RECORD.pack
    for pack_id, rows in iterate_index(index_file):
        if pack_id in packs:
            continue
        number = packs[pack_id] = len(packs)
        pieces.extend(
            [
                pack(blob_id, number << 1 | is_tree, offset, length, plain_length)
                for offset, blob_id, is_tree, length, plain_length in rows
            ]
        )
    return list(packs), b"".join(pieces)


def _few(cache: Cache | None, segments: list[Segment]) -> list[Segment]:
    segments.sort(key=lambda segment: segment.count)
    if len(segments) > 1 and overlap(segments):
        return [_merge(cache, segments)]
    while len(segments) > MAX_SEGMENTS:
        taken = 2
        total = sum(segment.count for segment in segments[:taken])
        while taken < len(segments) and total * 2 >= segments[taken].count:
            total += segments[taken].count
            taken += 1
        segments = [*segments[taken:], _merge(cache, segments[:taken])]
        segments.sort(key=lambda segment: segment.count)
    return segments


def _merge(cache: Cache | None, segments: Sequence[Segment]) -> Segment:
    files = [file_id for segment in segments for file_id in segment.files]
    return _keep(cache, files, partial(merged, segments))


def _keep(cache: Cache | None, files: Iterable[str], make: Callable[[Allocate], Segment]) -> Segment:
    if cache is None:
        return make(anonymous)
    names = list(files)
    return cache.keep(names[0] if len(names) == 1 else merged_name(names), make)
