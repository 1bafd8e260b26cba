"""Reads an RDB file from its first byte to its checksum and says what it holds: run as text by a Python (>= 3.6) anywhere.

    BASE FILE     BASE: milliseconds since 1970 from which expiries are counted, or - for the file's own time; FILE or -

One line of JSON. Exit status 3 and `error` for a file that ends early, is malformed, or does not match its checksum.

The digest of a database does not depend on the order of its keys, nor on how the server packs small collections in memory:
a set of ten numbers is the same as an intset, a listpack or a table. Keys that expire are summed in classes of time to live,
each at most 12.5 % wide, so that a later comparison can leave out exactly those that may be gone by then.
The types of values are those of Redis' rdb.h, up to version 12 of the file.
"""

import hashlib
import json
import struct
import sys
from pathlib import Path

from backupctl.sources.rdb_format import TRAILER_BYTES, Input, Malformed, intset, listpack, ziplist

STRING, LIST, SET, HASH, ZSET, STREAM, MODULE = "string", "list", "set", "hash", "zset", "stream", "module"


class Unknown(Exception):
    """Nothing wrong, but nothing that this program knows how to walk over."""


def packed(*parts: bytes) -> bytes:
    """Unambiguous: each part after its length."""
    return b"".join(b"%d:%s" % (len(part), part) for part in parts)


class Sum:
    """An order-independent digest: hashes added up, which unlike XOR notices what is there twice."""

    def __init__(self) -> None:
        self.count = 0
        self._total = 0

    def add(self, data: bytes) -> None:
        self.count += 1
        self._total += int.from_bytes(hashlib.sha256(data).digest(), "big")

    def digest(self) -> str:
        return "%064x" % (self._total & (1 << 256) - 1)

    def value(self) -> bytes:
        return b"%d %064x" % (self.count, self._total & (1 << 256) - 1)


def in_order(parts: "object") -> bytes:
    digest, count = hashlib.sha256(), 0
    for part in parts:  # type: ignore[attr-defined]  # any iterable: the far Python need not load `typing`
        digest.update(packed(part))
        count += 1
    return b"%d %s" % (count, digest.hexdigest().encode())


def in_any_order(parts: "object") -> bytes:
    total = Sum()
    for part in parts:  # type: ignore[attr-defined]  # any iterable: the far Python need not load `typing`
        total.add(part)
    return total.value()


def pairs(values: "list[bytes]") -> "list[tuple[bytes, bytes]]":
    return [(values[at], values[at + 1]) for at in range(0, len(values), 2)]


def scored(member: bytes, score: float) -> bytes:
    return packed(member, struct.pack("<d", score + 0.0))  # -0.0 is 0 after a trip through a listpack


def old_score(source: Input) -> float:
    size = source.byte()
    special = {253: float("nan"), 254: float("inf"), 255: float("-inf")}
    return special[size] if size in special else float(source.take(size))


def list_value(kind: int, source: Input) -> bytes:
    def parts() -> "object":
        if kind == 10:
            yield from ziplist(source.string())
            return
        for _ in range(source.number()):
            if kind == 1:
                yield source.string()
            elif kind == 14:
                yield from ziplist(source.string())
            elif source.number() == 1:  # a quicklist node that is one large element
                yield source.string()
            else:
                yield from listpack(source.string())

    return in_order(parts())


def set_value(kind: int, source: Input) -> bytes:
    if kind == 2:
        return in_any_order(source.string() for _ in range(source.number()))
    return in_any_order((intset if kind == 11 else listpack)(source.string()))


def hash_value(kind: int, source: Input) -> bytes:
    if kind == 4:
        return in_any_order(packed(source.string(), source.string()) for _ in range(source.number()))
    values = (ziplist if kind == 13 else listpack)(source.string())
    return in_any_order(packed(*pair) for pair in pairs(values))


def zset_value(kind: int, source: Input) -> bytes:
    if kind == 5:
        return in_any_order(
            scored(source.string(), struct.unpack("<d", source.take(8))[0]) for _ in range(source.number())
        )
    if kind == 3:
        return in_any_order(scored(source.string(), old_score(source)) for _ in range(source.number()))
    values = (ziplist if kind == 12 else listpack)(source.string())
    return in_any_order(scored(member, float(score)) for member, score in pairs(values))


def stream_value(kind: int, source: Input) -> bytes:
    """Entries, last id, and every group with what it has pending. Not the times at which consumers were last seen."""
    parts = [source.string() for _ in range(source.number() * 2)]
    parts += [b"%d" % source.number() for _ in range(3)]  # length, last id
    if kind >= 19:
        for _ in range(5):
            source.number()  # first id, greatest deleted id, entries ever added: absent before version 7
    for _ in range(source.number()):
        parts += [b"group", source.string(), b"%d-%d" % (source.number(), source.number())]
        if kind >= 19:
            source.number()
        for _ in range(source.number()):
            parts += [source.take(16 + 8), b"%d" % source.number()]
        for _ in range(source.number()):
            parts += [b"consumer", source.string()]
            source.take(8 if kind < 21 else 16)
            parts += [source.take(16) for _ in range(source.number())]
    return in_order(parts)


def skip_module(source: Input) -> bytes:
    while True:
        code = source.number()
        if code == 0:
            return b""
        if code in (1, 2):
            source.number()
        elif code in (3, 4):
            source.take(4 if code == 3 else 8)
        elif code == 5:
            source.string()
        else:
            raise Malformed(f"holds a module's value with the code {code}")


def module_value(kind: int, source: Input) -> bytes:
    source.number()
    return skip_module(source)


def expiring_hash(kind: int, source: Input) -> bytes:
    """A hash whose fields expire by themselves: walked over, not compared."""
    source.take(8)
    if kind == 25:
        source.string()
    else:
        for _ in range(source.number()):
            source.number()
            source.string()
            source.string()
    return b""


def string_value(kind: int, source: Input) -> bytes:
    return source.string()


READERS = (
    (STRING, string_value, (0,)),
    (LIST, list_value, (1, 10, 14, 18)),
    (SET, set_value, (2, 11, 20)),
    (ZSET, zset_value, (3, 5, 12, 17)),
    (HASH, hash_value, (4, 13, 16)),
    (STREAM, stream_value, (15, 19, 21)),
    (MODULE, module_value, (7,)),
    (HASH, expiring_hash, (24, 25)),
)
VALUES = {kind: (name, read) for name, read, kinds in READERS for kind in kinds}
OPAQUE = (7, 24, 25)


def class_of(left_ms: int) -> int:
    """The class of a time to live: four leading bits. 0 for one that was over already."""
    if left_ms <= 0:
        return 0
    bits = left_ms.bit_length()
    return bits * 8 + ((left_ms >> (bits - 4) if bits > 3 else left_ms << (4 - bits)) & 7)


class Database:
    def __init__(self) -> None:
        self.lasting = Sum()
        self.expiring = {}  # type: dict[int, Sum]
        self.kinds = {}  # type: dict[str, int]
        self.opaque = 0

    def facts(self) -> "dict[str, object]":
        expiring = {str(key): [one.count, one.digest()] for key, one in sorted(self.expiring.items())}
        return {
            "keys": self.lasting.count + sum(one.count for one in self.expiring.values()),
            "lasting": [self.lasting.count, self.lasting.digest()],
            "expiring": expiring,
            "kinds": self.kinds,
            "values_not_compared": self.opaque,
        }


class Walk:
    def __init__(self, source: Input, base_ms: "int | None") -> None:
        self.source = source
        self.base_ms = base_ms
        self.version = 0
        self.aux = {}  # type: dict[str, str]
        self.databases = {}  # type: dict[int, Database]
        self.functions = Sum()

    def run(self) -> None:
        magic = self.source.take(9)
        if magic[:5] != b"REDIS" and magic[:6] != b"VALKEY":
            raise Malformed("does not begin with REDIS: it is no RDB file")
        self.version = int(magic[5:].lstrip(b"Y") if magic[:6] == b"VALKEY" else magic[5:])
        number, expires = 0, 0
        while True:
            code = self.source.byte()
            if code < 30:
                self._key(code, self.databases.setdefault(number, Database()), expires)
                expires = 0
            elif code == 255:
                return
            elif code == 254:
                number = self.source.number()
            elif code == 253:
                expires = int.from_bytes(self.source.take(4), "little", signed=True) * 1000
            elif code == 252:
                expires = int.from_bytes(self.source.take(8), "little", signed=True)
            else:
                self._other(code)

    def _key(self, kind: int, database: Database, expires: int) -> None:
        key = self.source.string()
        if kind not in VALUES:
            raise Unknown(f"a key of the type {kind}")
        name, read = VALUES[kind]
        try:
            value = read(kind, self.source)
        except (IndexError, ValueError, struct.error):
            raise Malformed(f"holds a {name} that cannot be read, near byte {self.source.bytes}") from None
        database.kinds[name] = database.kinds.get(name, 0) + 1
        database.opaque += kind in OPAQUE
        total = database.lasting
        if expires:
            total = database.expiring.setdefault(class_of(expires - (self.base_ms or 0)), Sum())
        total.add(packed(key, name.encode(), b"%d" % expires, value))

    def _other(self, code: int) -> None:
        source = self.source
        if code == 250:
            name, value = source.string(), source.string()
            self.aux[name.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
            if name == b"ctime" and self.base_ms is None:
                self.base_ms = int(value) * 1000
        elif code in (251, 244):
            for _ in range(2 if code == 251 else 3):
                source.number()
        elif code == 248:
            source.number()
        elif code == 249:
            source.byte()
        elif code == 245:
            self.functions.add(source.string())
        elif code == 247:
            for _ in range(3):
                source.number()
            skip_module(source)
        else:
            raise Unknown(f"a record of the type {code}")

    def facts(self) -> "dict[str, object]":
        """Raises Malformed. What follows something unknown is only read for the checksum."""
        stopped = ""
        try:
            self.run()
        except Unknown as error:
            stopped = str(error)
        rest = self.source.rest()
        checksum = self.source.checksum()
        if not stopped and rest != TRAILER_BYTES:
            raise Malformed(f"has {rest} bytes after its end, where there should be {TRAILER_BYTES}")
        return {
            "rdb_version": self.version,
            "bytes": self.source.bytes,
            "checksum": checksum,
            "aux": self.aux,
            "base_ms": self.base_ms or 0,
            "unknown": stopped,
            "databases": {str(key): one.facts() for key, one in sorted(self.databases.items())},
            "functions": [self.functions.count, self.functions.digest()],
        }


def main(arguments: "list[str]") -> int:
    base, path = arguments
    try:
        with sys.stdin.buffer if path == "-" else Path(path).open("rb") as file:
            answer = Walk(Input(file), None if base == "-" else int(base)).facts()
    except Malformed as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 3 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
