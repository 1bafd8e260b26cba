"""Reads absurd objects in a process of its own that may use only so much memory and processor time.

python -m tests.fuzz.bounded CASE → prints what the decoder said; dies when it takes more than it may.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import zstandard

from backupctl.clock import FakeClock
from backupctl.errors import UserError
from backupctl.repository.format import FormatError
from backupctl.repository.format.config import new_config
from backupctl.repository.format.crypto import seal
from backupctl.repository.format.pack import PackedBlob, decode_header
from backupctl.repository.format.unpacked import decompress
from backupctl.repository.manifest import ManifestReader
from backupctl.repository.memory_index import Location
from backupctl.repository.repository import Repository, pack_name
from backupctl.storage.memory import MemoryStore
from tests.fuzz.decoders import DECODERS, KEYS, NOW

MORE_BYTES = 192 << 20
CPU_SECONDS = 20
BOMB_BYTES = 1 << 30


def bomb(byte: bytes = b"\0") -> bytes:
    """1 GiB in some 30 KiB."""
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    piece = byte * (1 << 20)
    return b"".join(compressor.compress(piece) for _ in range(BOMB_BYTES >> 20)) + compressor.flush()


def key(**fields: int) -> bytes:
    return json.dumps({**json.loads(DECODERS["key file"].seeds[0]), **fields}).encode()


def frame(window_log: int) -> bytes:
    """A frame that asks for a window of 2^window_log bytes and holds one raw byte."""
    magic = zstandard.FRAME_HEADER and b"\x28\xb5\x2f\xfd"
    return magic + bytes([0, (window_log - 10) << 3]) + (1 | 0 << 1 | 1 << 3).to_bytes(3, "little") + b"x"


def open_key(data: bytes) -> None:
    from backupctl.repository.format.keyfile import open_keyfile

    open_keyfile(data, "whatever")


def read_manifest(data: bytes) -> None:
    for _ in ManifestReader(data):
        pass


def load_blob(kind: str, plain_length: int, stored: bytes) -> None:
    repository = Repository(MemoryStore(), KEYS, new_config(), clock=FakeClock(NOW))
    sealed = seal(KEYS, stored)
    repository.store.put(pack_name(b"p" * 32), sealed)
    blob = PackedBlob("tree" if kind == "tree" else "data", b"i" * 32, 0, len(sealed), plain_length)
    repository.load_copy(Location(b"p" * 32, blob))


def load_file(stored: bytes) -> None:
    """As an index or a snapshot is read."""
    repository = Repository(MemoryStore(), KEYS, new_config(), clock=FakeClock(NOW))
    sealed = seal(KEYS, stored)
    name = f"index/{hashlib.sha256(sealed).hexdigest()}"
    repository.store.put(name, sealed)
    repository.load_file(name)


def load_record(stored: bytes) -> None:
    """As a hold, a fingerprint or a manifest is read."""
    repository = Repository(MemoryStore(), KEYS, new_config(), clock=FakeClock(NOW))
    sealed = seal(KEYS, stored)
    record = hashlib.sha256(sealed).hexdigest()
    repository.store.put(f"backupctl/manifest/{record}", sealed)
    repository.load_record("manifest", record)


def read_facts(head: bytes) -> None:
    from backupctl.repository.format.unpacked import compress

    for _ in ManifestReader(compress(head + b"\n"), load_tree=lambda tree: b'{"nodes":[]}\n'):
        pass


def many_entries() -> bytes:
    return (b"\0" + (32).to_bytes(4, "little") + b"i" * 32) * 50_000


CASES: dict[str, Callable[[], Callable[[], object]]] = {
    # each prepares, then gives what is to be done within bounds
    "scrypt N=2^40": lambda: lambda: open_key(key(N=1 << 40)),
    "scrypt N=2^31": lambda: lambda: open_key(key(N=1 << 31)),
    "scrypt N=2^22": lambda: lambda: open_key(key(N=1 << 22)),
    "scrypt r=2^27": lambda: lambda: open_key(key(r=1 << 27)),
    "scrypt p=2^29": lambda: lambda: open_key(key(p=1 << 29, r=1)),
    "scrypt long": lambda: lambda: open_key(key(N=1 << 17, p=1 << 20)),
    "zstd bomb": lambda: (lambda data: lambda: decompress(data, max_bytes=1 << 20))(bomb()),
    "zstd bomb of many frames": lambda: (lambda data: lambda: decompress(data, max_bytes=1 << 20))(
        zstandard.compress(b"0" * 1000) * 100_000
    ),
    "zstd window of 2 GiB": lambda: lambda: decompress(frame(31), max_bytes=1 << 20),
    "manifest of one line": lambda: (lambda data: lambda: read_manifest(data))(bomb(b"x")),
    "manifest of empty lines": lambda: (lambda data: lambda: read_manifest(data))(bomb(b"\n")),
    "index or snapshot, a bomb": lambda: (lambda data: lambda: load_file(b"\x02" + data))(bomb()),
    "record, a bomb": lambda: (lambda data: lambda: load_record(b"\x02" + data))(bomb()),
    "manifest of another schema": lambda: lambda: read_facts(b'{"schema":3}'),
    "manifest of a count of a million digits": lambda: (
        lambda: read_facts(
            b'{"schema":2,"tree":"' + b"ab" * 32 + b'","sources":{"w":{"files":' + b"9" * 1_000_000 + b"}}}"
        )
    ),
    "manifest of a count that is none": lambda: (
        lambda: read_facts(b'{"schema":2,"tree":"' + b"ab" * 32 + b'","sources":{"w":{"files":[[]]}}}')
    ),
    "manifest of a name that is none": lambda: (
        lambda: read_facts(b'{"schema":2,"tree":"' + b"ab" * 32 + b'","sources":{"\\ud800":{"files":1}}}')
    ),
    "data blob that says 4 GiB": lambda: (lambda data: lambda: load_blob("data", (1 << 32) - 1, data))(bomb()),
    "data blob that says 1000": lambda: (lambda data: lambda: load_blob("data", 1000, data))(bomb()),
    "tree blob that says 1000": lambda: (lambda data: lambda: load_blob("tree", 1000, data))(bomb()),
    "brackets": lambda: lambda: DECODERS["tree"].read(b'{"nodes":[' + b"[" * 5_000_000),
    "a number of a million digits": lambda: lambda: DECODERS["lock"].read(b'{"time":' + b"9" * 1_000_000 + b"}"),
    "a header of a million entries": lambda: lambda: decode_header(many_entries() + b"\xff"),
}


def limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def main() -> None:
    act = CASES[sys.argv[1]]()
    limit()
    try:
        act()
    except (FormatError, UserError) as error:
        print(f"refused: {str(error).splitlines()[0][:200]}")
    else:
        print("read")


if __name__ == "__main__":
    main()
