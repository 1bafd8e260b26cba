"""The manifest, schema 2: what the trees of a snapshot do not say.

A file of one blob has its SHA-256 in the tree, as that blob's id; owners, times and the like are there too. What is left
is kept as the record `manifest`, one zstd frame of JSON lines: a head, then lines in the order of a depth-first walk. Names
are written as in trees.

    {"schema":2,"tree":"<id of the root>","sources":{"uploads":{"files":3,"dirs":2,"others":0,"bytes":4711}}}
    {"path":"uploads/srv/www/film.mkv","sha256":"<hex>"[,"fresh":true]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import zstandard

from backupctl.repository.format import FormatError
from backupctl.repository.format.gojson import hex_id, unsigned
from backupctl.repository.format.names import quote_name, unquote_name

SCHEMA = 2
_encode_line = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(slots=True)
class SourceTotals:
    """What lies below a source's directory in the snapshot: a check on whoever reads it back. `others` are links, devices
    and fifos; `bytes` the sizes of files, every hard link counted."""

    files: int = 0
    dirs: int = 0
    others: int = 0
    bytes: int = 0

    @property
    def entries(self) -> int:
        return self.files + self.dirs + self.others

    def add(self, other: SourceTotals) -> None:
        self.files += other.files
        self.dirs += other.dirs
        self.others += other.others
        self.bytes += other.bytes

    def count(self, kind: str, size: int) -> None:
        """One more entry; `size` counts for a file."""
        if kind == "file":
            self.files += 1
            self.bytes += size
        elif kind == "dir":
            self.dirs += 1
        else:
            self.others += 1


@dataclass(slots=True)
class ManifestFacts:
    """Paths start with the source's name. `whole`: the SHA-256 of files of several blobs. `fresh`: files that had changed so
    shortly before they were read that a further change could carry the same times, so equal times prove nothing."""

    tree: bytes = b""
    sources: dict[str, SourceTotals] = field(default_factory=dict)
    whole: dict[bytes, bytes] = field(default_factory=dict)
    fresh: set[bytes] = field(default_factory=set)

    def encode(self) -> bytes:
        """The record's bytes, for `Repository.save_record`."""
        head = {
            "schema": SCHEMA,
            "tree": self.tree.hex(),
            "sources": {name: asdict(totals) for name, totals in sorted(self.sources.items())},
        }
        compressor = zstandard.ZstdCompressor(level=3).compressobj()
        parts = [compressor.compress(_encode_line(head).encode() + b"\n")]
        for path in sorted(self.whole.keys() | self.fresh, key=lambda path: path.split(b"/")):
            line: dict[str, object] = {"path": quote_name(path)}
            if path in self.whole:
                line["sha256"] = self.whole[path].hex()
            if path in self.fresh:
                line["fresh"] = True
            parts.append(compressor.compress(_encode_line(line).encode() + b"\n"))
        return b"".join([*parts, compressor.flush()])


def is_head(line: bytes) -> bool:
    """Whether a manifest that begins so is of this schema or a later one."""
    return line.startswith(b'{"schema":')


def decode_facts(lines: Iterable[bytes]) -> ManifestFacts:
    """Raises FormatError, ValueError, TypeError, KeyError or AttributeError for lines that are not what they must be."""
    rest = iter(lines)
    head = json.loads(next(rest))
    if head["schema"] != SCHEMA:
        raise FormatError(f"schema {str(head['schema'])[:20]} is not known here: upgrade backupctl")
    facts = ManifestFacts(hex_id(head["tree"]))
    for name, totals in head["sources"].items():
        name.encode()  # half a surrogate pair is no name
        facts.sources[name] = SourceTotals(**{field: unsigned(count) for field, count in totals.items()})
    for line in rest:
        fields = json.loads(line)
        path = unquote_name(fields["path"])
        if "sha256" in fields:
            facts.whole[path] = hex_id(fields["sha256"])
        if fields.get("fresh") is True:
            facts.fresh.add(path)
    return facts
