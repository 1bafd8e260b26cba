"""Index files: which pack holds which blobs, as JSON.

A big repository has millions of blobs: `iterate_index` takes the fields of well-formed entries as they come, about 3 µs
each, and leaves everything unusual to the slow way, which says what is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from operator import itemgetter
from typing import Any

from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import OVERHEAD_BYTES
from backupctl.repository.format.gojson import hex_id, iterate_list, unsigned
from backupctl.repository.format.pack import BlobKind, PackedBlob


def encode_index(packs: Iterable[tuple[bytes, Iterable[PackedBlob]]]) -> bytes:
    """Of 50,000 blobs 9 MB, of which two are held at the most."""
    text = b",".join([_pack(pack_id, blobs).encode() for pack_id, blobs in packs])
    return b"".join((b'{"packs":[', text, b"]}\n"))


def _pack(pack_id: bytes, blobs: Iterable[PackedBlob]) -> str:
    entries = ",".join(
        f'{{"id":"{blob.id.hex()}","type":"{blob.kind}","offset":{blob.offset},"length":{blob.length}'
        + (f',"uncompressed_length":{blob.plain_length}}}' if blob.plain_length else "}")
        for blob in blobs
    )
    return f'{{"id":"{pack_id.hex()}","blobs":[{entries}]}}'


def decode_index(data: bytes) -> Iterator[tuple[bytes, list[PackedBlob]]]:
    """Each pack with its blobs in the order of their offsets, one pack in memory at a time. Raises FormatError."""
    for pack_id, rows in iterate_index(data):
        yield (
            pack_id,
            [
                PackedBlob("tree" if is_tree else "data", blob_id, offset, length, plain_length)
                for offset, blob_id, is_tree, length, plain_length in rows
            ],
        )


Row = tuple[int, bytes, int, int, int]
"""offset, id, 1 for a tree, length, plain length (0: not compressed)"""


def iterate_index(data: bytes) -> Iterator[tuple[bytes, list[Row]]]:
    """The same as `decode_index`, without an object for each blob."""
    done = yield from _iterate_compact(data)
    if done is None:
        return
    for pack in islice(iterate_list(data, "packs"), done, None):
        if not isinstance(pack, dict) or not isinstance(pack.get("blobs"), list):
            raise FormatError("a pack without a list of blobs")
        yield hex_id(pack.get("id")), _rows(pack["blobs"])


def _iterate_compact(data: bytes) -> Generator[tuple[bytes, list[Row]], None, int | None]:
    """Of JSON without white space, as restic and we write it, a stretch of a pack's blobs in memory at a time: an index of
    60,000 blobs is 8 MB of text, and took 20 more as one string and as objects. Gives back after how many packs something
    else came; None at the end."""
    done, position = 0, len(_START)
    if not data.startswith(_START):
        return done
    while match := _PACK.match(data, position):
        end = data.find(b"]}", match.end())
        if end < 0:
            break
        try:
            rows = _rows(_entries(data, match.end(), end))
        except (ValueError, RecursionError):
            break
        yield bytes.fromhex(match[1].decode()), rows
        done, position = done + 1, end + 2
        if data.startswith(b",", position):
            position += 1
        else:
            return None if data[position:] in _ENDS else done
    return done


def _entries(data: bytes, start: int, end: int) -> Iterator[Any]:
    """Raises ValueError, RecursionError."""
    while start < end:
        stop = data.find(b"},{", start + _STRETCH_BYTES, end) + 1 or end
        yield from _DECODER.decode("[" + data[start:stop].decode("ascii") + "]")
        start = stop + 1


def _rows(entries: Iterable[Any]) -> list[Row]:
    rows = [_plain_row(fields) or _row(fields) for fields in entries]
    rows.sort(key=_OFFSET)
    return rows


_START = b'{"packs":['
_PACK = re.compile(rb'\{"id":"([0-9a-f]{64})","blobs":\[')
_ENDS = (b"]}\n", b"]}")
_STRETCH_BYTES = 64 << 10
_DECODER = json.JSONDecoder()
_OFFSET = itemgetter(0)
_KINDS: dict[object, int] = {"data": 0, "tree": 1}


def _plain_row(fields: Any) -> Row | None:
    """None for an entry with anything out of the ordinary."""
    try:
        text = fields["id"]
        blob_id = _fromhex(text)
        offset, length = fields["offset"], fields["length"]
        plain_length = fields.get("uncompressed_length", 0)
        if (
            len(text) == 64
            and len(blob_id) == 32
            and type(offset) is type(length) is type(plain_length) is int
            and 0 <= offset <= _MAX
            and OVERHEAD_BYTES <= length <= _MAX
            and 0 <= plain_length <= _MAX
        ):
            return offset, blob_id, _KINDS[fields["type"]], length, plain_length
    except (KeyError, TypeError, ValueError, AttributeError):
        pass  # `_row` says what it is
    return None


_MAX = (1 << 32) - 1
_fromhex = bytes.fromhex


def _row(fields: Any) -> Row:
    blob = _blob(fields)
    return blob.offset, blob.id, int(blob.kind == "tree"), blob.length, blob.plain_length


def _blob(fields: Any) -> PackedBlob:
    if not isinstance(fields, dict):
        raise FormatError("a blob is not an object")
    kinds: dict[str, BlobKind] = {"data": "data", "tree": "tree"}
    kind = kinds.get(str(fields.get("type")))
    if kind is None:
        raise FormatError(f"unknown blob type {str(fields.get('type'))[:40]!r}")
    length = unsigned(fields.get("length"), bits=32)
    if length < OVERHEAD_BYTES:
        raise FormatError("a blob shorter than its seal")
    plain_length = unsigned(fields.get("uncompressed_length"), bits=32)
    return PackedBlob(kind, hex_id(fields.get("id")), unsigned(fields.get("offset"), bits=32), length, plain_length)
