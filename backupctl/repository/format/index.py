"""Index files: which pack holds which blobs, as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from backupctl.repository.format import FormatError
from backupctl.repository.format.crypto import OVERHEAD_BYTES
from backupctl.repository.format.gojson import hex_id, iterate_list, unsigned
from backupctl.repository.format.pack import BlobKind, PackedBlob


def encode_index(packs: Iterable[tuple[bytes, Iterable[PackedBlob]]]) -> bytes:
    return b'{"packs":[' + ",".join(_pack(pack_id, blobs) for pack_id, blobs in packs).encode() + b"]}\n"


def _pack(pack_id: bytes, blobs: Iterable[PackedBlob]) -> str:
    entries = ",".join(
        f'{{"id":"{blob.id.hex()}","type":"{blob.kind}","offset":{blob.offset},"length":{blob.length}'
        + (f',"uncompressed_length":{blob.plain_length}}}' if blob.plain_length else "}")
        for blob in blobs
    )
    return f'{{"id":"{pack_id.hex()}","blobs":[{entries}]}}'


def decode_index(data: bytes) -> Iterator[tuple[bytes, list[PackedBlob]]]:
    """Each pack with its blobs in the order of their offsets, one pack in memory at a time. Raises FormatError."""
    for pack in iterate_list(data, "packs"):
        if not isinstance(pack, dict) or not isinstance(pack.get("blobs"), list):
            raise FormatError("a pack without a list of blobs")
        yield hex_id(pack.get("id")), sorted(map(_blob, pack["blobs"]), key=lambda blob: blob.offset)


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
