"""Writes manifests of schema 1, which nothing writes any more and everything still reads."""

from __future__ import annotations

import json
from typing import Any

import zstandard

from backupctl.repository.format.names import quote_name
from backupctl.repository.manifest import ManifestEntry

_encode_fields = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _encode(entry: ManifestEntry) -> bytes:
    fields: dict[str, Any] = {
        "path": quote_name(entry.path),
        "type": entry.type,
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime_ns": entry.mtime_ns,
    }
    if entry.type == "file":
        fields |= {"size": entry.size, "sha256": entry.sha256}
    if entry.linktarget:
        fields["linktarget"] = quote_name(entry.linktarget)
    for name in ("xattrs", "privileged_xattrs", "device", "link_group", "fresh"):
        if value := getattr(entry, name):
            fields[name] = value
    return _encode_fields(fields).encode() + b"\n"


class ManifestWriter:
    def __init__(self) -> None:
        self._sources: dict[bytes, tuple[zstandard.ZstdCompressionObj, list[bytes]]] = {}
        self.entries = 0

    def add(self, entry: ManifestEntry) -> None:
        """Entries of one source arrive depth first; sources in any order."""
        source = entry.source
        if source not in self._sources:
            self._sources[source] = (zstandard.ZstdCompressor(level=3).compressobj(), [])
        compressor, parts = self._sources[source]
        if part := compressor.compress(_encode(entry)):
            parts.append(part)
        self.entries += 1

    def finish(self) -> bytes:
        """The whole manifest, for `Repository.save_record`. Call once."""
        frames = []
        for _, (compressor, parts) in sorted(self._sources.items()):
            frames += [*parts, compressor.flush()]
        return b"".join(frames)
