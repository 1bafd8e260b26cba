"""Every decoder of bytes that come from a repository, each with real objects to spoil and a way to read all of them.

Adding a kind of object to the repository means adding it here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from backupctl.clock import FakeClock
from backupctl.drills.model import DrillResult
from backupctl.errors import DamageError
from backupctl.governance import holds
from backupctl.operations import rebuild, records
from backupctl.repository import ledger
from backupctl.repository.check import manifest_id
from backupctl.repository.format import FormatError
from backupctl.repository.format.config import decode_config, encode_config, new_config
from backupctl.repository.format.crypto import Keys, derive_user_keys, seal, unseal
from backupctl.repository.format.index import decode_index, encode_index
from backupctl.repository.format.keyfile import encode_keyfile, open_keyfile, parse_keyfile
from backupctl.repository.format.lock import LockInfo, decode_lock, encode_lock
from backupctl.repository.format.node import Node
from backupctl.repository.format.node_text import node_spans
from backupctl.repository.format.pack import PackedBlob, decode_header, encode_header, encode_trailer, sealed_header
from backupctl.repository.format.snapshot import Snapshot, decode_snapshot, encode_snapshot
from backupctl.repository.format.tree import decode_node, decode_tree, encode_tree
from backupctl.repository.format.tree_reading import read_tree
from backupctl.repository.format.tree_scan import scan_tree
from backupctl.repository.format.unpacked import compress, decode_unpacked, decompress, encode_unpacked
from backupctl.repository.manifest import ManifestEntry, ManifestReader
from backupctl.repository.manifest_facts import ManifestFacts, SourceTotals
from backupctl.repository.repository import Repository
from backupctl.storage.memory import MemoryStore
from tests.repository.manifest_lines import ManifestWriter

PASSWORD = "fuzz"
NOW = datetime(2026, 11, 22, tzinfo=UTC)
KEYS = Keys(bytes(range(1, 33)), bytes(range(1, 17)), bytes(range(1, 17)))
CHEAP_SCRYPT = 1 << 14  # N·r·p that a test may spend on one key


def _ids(count: int) -> list[bytes]:
    return [bytes([number]) * 32 for number in range(1, count + 1)]


def _nodes() -> list[Node]:
    first, second, third = _ids(3)
    common = {"mtime_ns": 1_700_000_000_123_456_789, "uid": 33, "gid": 33, "user": "www-data", "group": "www-data"}
    return [
        Node(b"dir", "dir", 0o755, subtree=first, **common),
        Node(b'f\xff"\\\n', "file", 0o644, content=[second, third, second], size=3000, inode=9, links=2, **common),
        Node(b"link", "symlink", 0o777, linktarget=b"\xfe/elsewhere", **common),
        Node(b"tape", "chardev", 0o660, device=0x903, **common),
        Node("資料".encode(), "file", 0o4755, content=[], xattrs=[(b"user.a", b"\0\1"), (b"user.b", b"")], **common),
    ]


def _blobs() -> list[PackedBlob]:
    first, second, third = _ids(3)
    return [
        PackedBlob("data", first, 0, 100, 0),
        PackedBlob("data", second, 100, 50, 1000),
        PackedBlob("data", third, 150, 32, 0),
    ]


def _snapshot() -> bytes:
    return encode_snapshot(
        Snapshot(
            NOW,
            _ids(1)[0],
            ["/db", "/www"],
            "site",
            "backupctl",
            tags=["backupctl", "job:site", "run:7", f"fingerprint:{'ab' * 32}", "complete"],
            parent="cd" * 32,
            program_version="backupctl 0",
            summary={"backup_start": "2026-11-22T00:00:00Z", "total_files_processed": 7},
        )
    )


def _lock() -> bytes:
    return encode_lock(LockInfo(NOW, True, "host", "user", 77, 1, 1, "boot", "pid:[1]", 12345))


def _keyfile() -> bytes:
    return encode_keyfile(KEYS, PASSWORD, created=NOW, username="u", hostname="h", n=2)


def open_cheap_keyfile(data: bytes) -> None:
    """Read the file; derive the key too, when that costs next to nothing."""
    sealed = parse_keyfile(data)
    if sealed.n * sealed.r * sealed.p <= CHEAP_SCRYPT:
        open_keyfile(data, PASSWORD)


def _sealed_secrets(data: bytes) -> None:
    """A key file that is sealed well and holds `data`: what somebody with the password could write."""
    fields = json.loads(_keyfile())
    import base64

    salt = base64.b64decode(fields["salt"])
    fields["data"] = base64.b64encode(seal(derive_user_keys(PASSWORD, salt, n=2, r=8, p=1), data)).decode()
    open_keyfile(json.dumps(fields).encode(), PASSWORD)


def _manifest_lines() -> bytes:
    writer = ManifestWriter()
    for number in range(40):
        writer.add(ManifestEntry(b"www/file %d\xff" % number, "file", 0o644, size=number, sha256="ab" * 32))
    writer.add(ManifestEntry(b"www/link", "symlink", linktarget=b"a\nb"))
    return decompress(writer.finish(), max_bytes=1 << 20)


def _read_manifest(data: bytes) -> None:
    for _ in ManifestReader(data):
        pass
    for _ in ManifestReader(data).source("www"):
        pass


def _repository_with(kind: str, data: bytes) -> tuple[Repository, str]:
    repository = Repository(MemoryStore(), KEYS, new_config(), clock=FakeClock(NOW))
    return repository, repository.save_record(kind, data)


def _fingerprint(data: bytes) -> None:
    manifest_id(data)
    repository, record_id = _repository_with("fingerprint", data)
    records.fingerprint_of(repository, Snapshot(NOW, bytes(32), tags=["backupctl", f"fingerprint:{record_id}"]))


def _hold(data: bytes) -> None:
    repository, _ = _repository_with(holds.KIND, data)
    holds.held(repository, NOW)


def _drill(data: bytes) -> None:
    repository, record_id = _repository_with("drill", data)
    DrillResult.from_record(records.load_json(repository, "drill", record_id))


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def _scan(data: bytes) -> None:
    """It never raises."""
    try:
        scan_tree(data)
    except FormatError as error:
        raise AssertionError("a scan raised") from error


def _spans(data: bytes) -> None:
    """As a walk looks for what did not change: the old tree as text, each node by its name."""
    text = data.decode("utf-8", "replace")
    for start, end in node_spans(text).values():
        with suppress(ValueError, RecursionError, FormatError):
            decode_node(json.loads(text[start:end]))


def _facts() -> tuple[bytes, dict[bytes, bytes]]:
    """A manifest of schema 2, and the trees it needs."""
    names = {node.name: node for node in _nodes()}
    names[b"dir"] = replace(names[b"dir"], subtree=b"\6" * 32)
    trees = {b"\4" * 32: encode_tree([Node(b"www", "dir", 0o755, subtree=b"\5" * 32)])}
    trees[b"\5" * 32] = encode_tree(names.values())
    trees[b"\6" * 32] = encode_tree([])
    path = b"www/" + names[b'f\xff"\\\n'].name
    totals = SourceTotals(files=2, dirs=1, others=2, bytes=3000)
    return ManifestFacts(b"\4" * 32, {"www": totals}, {path: b"\7" * 32}, {path}).encode(), trees


def _read_facts(data: bytes) -> None:
    trees = _facts()[1]

    def load(tree: bytes) -> bytes:
        if tree not in trees:
            raise DamageError("no such tree", name=tree.hex())
        return trees[tree]

    reader = ManifestReader(data, load_tree=load)
    for _ in islice(reader, 1000):
        pass
    for name in reader.facts.sources if reader.has_facts else ("www",):
        assert reader.totals(name).entries >= 0
        assert reader.totals(name).bytes >= 0


def _reading(data: bytes) -> None:
    """It only makes packs count as unread."""
    repository, _ = _repository_with(ledger.KIND, data)
    read = ledger.Ledger(repository)
    coverage = read.coverage({b"p" * 32: 100}, {})
    assert coverage.packs == 1
    read.note(b"p" * 32, good=True)
    read.save()
    read.fold([b"p" * 32])


def _rebuilt(kind: str) -> Callable[[bytes], None]:
    """As `catalog rebuild` reads them: what cannot be read is left out, and named."""

    def read(data: bytes) -> None:
        repository, record_id = _repository_with(kind, data)
        rebuild._record("main", repository, kind, record_id, rebuild.Rebuilt())

    return read


def _rebuilt_snapshot(data: bytes) -> None:
    repository, record_id = _repository_with("fingerprint", data)
    tags = ["backupctl", "job:site", "run:7", "complete", f"fingerprint:{record_id}"]
    rebuild._snapshot("main", repository, Snapshot(NOW, bytes(32), tags=tags), rebuild.Rebuilt())


_RUN = {"scheduled": "2026-11-22T00:00:00Z", "repository": "main"}
_READING = {
    "schema": 1,
    "readings": [{"at": "2026-11-22T00:00:00+00:00", "good": "70" * 16, "bad": "ab" * 8}],
}
_CHECK = {
    "schema": 1,
    "id": "x",
    "repository": "main",
    "mode": "budget",
    "started": "2026-11-22T00:00:00+00:00",
    "finished": "2026-11-22T00:00:01+00:00",
    "verdict": "fail",
    **dict.fromkeys(("snapshots", "packs", "pack_bytes", "bytes_read"), 1),
    "problems": [{"object": "data/x", "message": "m", "snapshots": ["s"], "paths": ["/a"], "path_count": 1}],
    "coverage": {"packs": 1, "bytes": 1, "oldest": None},
}
_HOLD = {
    "schema": 1,
    "snapshot": "ab" * 32,
    "reason": "audit",
    "owner": "u",
    "created": "2026-11-22T00:00:00Z",
    "expires": "2027-11-22T00:00:00Z",
}
_FINGERPRINT = {
    "schema": 1,
    "job": "site",
    "run": "7",
    "time": "2026-11-22T00:00:00Z",
    "sources": {"www": {"kind": "files", "host": "local", "fingerprint": {}, "data_time": "2026-11-22T00:00:00Z"}},
    "problems": [{"source": "www", "path": "a", "kind": "changed", "message": "m"}],
    "manifest": "cd" * 32,
    "summary": {"total_files_processed": 1},
}
_DRILL = {
    "schema": 1,
    **dict.fromkeys(("id", "name", "job", "scenario", "host", "repository", "snapshot"), "x"),
    **dict.fromkeys(("snapshot_time", "declared", "disaster", "finished"), "2026-11-22T00:00:00Z"),
    "verdict": "pass",
    "level": 5,
    "phases": [{"name": "restore", "seconds": 1.5}],
    "checks": [],
    "rto_seconds": 1.0,
    "rpo_seconds": None,
    "objectives": {"rpo": 1.0, "rto": 2.0},
    "restored_bytes": 5,
    "reasons": [],
    "cleanup": {"proved": True, "facts": []},
}


@dataclass(frozen=True)
class Decoder:
    """`read` takes all of an object apart; `seeds` are good ones; `is_json`: they can be spoilt field by field."""

    name: str
    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    is_json: bool = True


def _lines_as_manifest(data: bytes) -> None:
    _read_manifest(compress(data))


def _one_line(data: bytes) -> None:
    _read_manifest(compress(data.replace(b"\n", b" ") + b"\n"))


def _index(data: bytes) -> None:
    for _ in decode_index(data):
        pass


def decoders() -> Iterator[Decoder]:
    lines = _manifest_lines()
    header = encode_header(_blobs())
    pack = b"x" * 182 + encode_trailer(seal(KEYS, header))
    index = encode_index([(pack_id, _blobs()) for pack_id in _ids(2)])
    tree = encode_tree(_nodes())
    yield Decoder("key file", open_cheap_keyfile, (_keyfile(),))
    yield Decoder(
        "sealed keys", _sealed_secrets, (b'{"mac":{"k":"AQEBAQEBAQEBAQEBAQEBAQ==","r":"AQEB"},"encrypt":""}',)
    )
    yield Decoder("config", decode_config, (encode_config(new_config()),))
    yield Decoder("pack header", decode_header, (header,), is_json=False)
    yield Decoder("pack", lambda data: decode_header(unseal(KEYS, sealed_header(data))), (pack,), is_json=False)
    yield Decoder("sealed", lambda data: unseal(KEYS, data), (seal(KEYS, b""), seal(KEYS, header)), is_json=False)
    yield Decoder("index", _index, (index, b'{"supersedes":["x"],"packs":[]}'))
    yield Decoder("tree", decode_tree, (tree, b'{"nodes":[]}'))
    yield Decoder("tree read quickly", read_tree, (tree, b'{"nodes":[]}\n'))
    yield Decoder("tree scanned", _scan, (tree, b'{"nodes":[]}\n'))
    yield Decoder("nodes in a tree", _spans, (tree, b'{"nodes":[]}\n'))
    yield Decoder("snapshot", decode_snapshot, (_snapshot(),))
    yield Decoder("lock", decode_lock, (_lock(),))
    yield Decoder("manifest frames", _read_manifest, (compress(lines), compress(lines) * 2), is_json=False)
    yield Decoder("manifest lines", _lines_as_manifest, (lines,), is_json=False)
    yield Decoder("manifest line", _one_line, (lines.partition(b"\n")[0],))
    facts = _facts()[0]
    fact_lines = decompress(facts, max_bytes=1 << 20)
    head, _, line = fact_lines.partition(b"\n")
    yield Decoder("manifest facts, frames", _read_facts, (facts,), is_json=False)
    yield Decoder("manifest facts, lines", lambda data: _read_facts(compress(data)), (fact_lines,), is_json=False)
    yield Decoder(
        "manifest facts, head", lambda data: _read_facts(compress(data.replace(b"\n", b" ") + b"\n" + line)), (head,)
    )
    yield Decoder(
        "manifest facts, line",
        lambda data: _read_facts(compress(head + b"\n" + data.replace(b"\n", b" ") + b"\n")),
        (line.rstrip(b"\n"),),
    )
    yield Decoder("reading", _reading, (_json(_READING),))
    yield Decoder("check, rebuilt", _rebuilt("check"), (_json(_CHECK),))
    yield Decoder("drill, rebuilt", _rebuilt("drill"), (_json(_DRILL),))
    yield Decoder("hold, rebuilt", _rebuilt("hold"), (_json(_HOLD),))
    yield Decoder("fingerprint, rebuilt", _rebuilt_snapshot, (_json(_FINGERPRINT | _RUN),))
    yield Decoder("fingerprint", _fingerprint, (_json(_FINGERPRINT),))
    yield Decoder("hold", _hold, (_json(_HOLD),))
    yield Decoder("drill", _drill, (_json(_DRILL),))
    bound = len(tree) * 4
    yield Decoder(
        "zstd", lambda data: decompress(data, max_bytes=bound), (compress(tree), compress(b"")), is_json=False
    )
    yield Decoder("unpacked", lambda data: decode_unpacked(data, max_bytes=1 << 20), (encode_unpacked(tree), index))
    # the same, found behind a seal and a compression that are right
    yield Decoder("unpacked index", lambda data: _index(decode_unpacked(encode_unpacked(data))), (index,))


DECODERS = {decoder.name: decoder for decoder in decoders()}
