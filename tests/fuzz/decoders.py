"""Every decoder of bytes that come from a repository, each with real objects to spoil and a way to read all of them.

Adding a kind of object to the repository means adding it here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from backupctl.clock import FakeClock
from backupctl.drills.model import DrillResult
from backupctl.governance import holds
from backupctl.operations import records
from backupctl.repository.check import manifest_id
from backupctl.repository.format.config import decode_config, encode_config, new_config
from backupctl.repository.format.crypto import Keys, derive_user_keys, seal, unseal
from backupctl.repository.format.index import decode_index, encode_index
from backupctl.repository.format.keyfile import encode_keyfile, open_keyfile, parse_keyfile
from backupctl.repository.format.lock import LockInfo, decode_lock, encode_lock
from backupctl.repository.format.node import Node
from backupctl.repository.format.pack import PackedBlob, decode_header, encode_header, encode_trailer, sealed_header
from backupctl.repository.format.snapshot import Snapshot, decode_snapshot, encode_snapshot
from backupctl.repository.format.tree import decode_tree, encode_tree
from backupctl.repository.format.unpacked import compress, decode_unpacked, decompress, encode_unpacked
from backupctl.repository.manifest import ManifestEntry, ManifestReader
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
    yield Decoder("snapshot", decode_snapshot, (_snapshot(),))
    yield Decoder("lock", decode_lock, (_lock(),))
    yield Decoder("manifest frames", _read_manifest, (compress(lines), compress(lines) * 2), is_json=False)
    yield Decoder("manifest lines", _lines_as_manifest, (lines,), is_json=False)
    yield Decoder("manifest line", _one_line, (lines.partition(b"\n")[0],))
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
