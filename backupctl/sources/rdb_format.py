"""The grammar of an RDB file: numbers, strings, packed collections, the checksum. Sent as text to a far Python (>= 3.6)
together with `rdb_program.py`. Source: Redis' rdb.c, listpack.c, ziplist.c, intset.c, crc64.c, and lzf."""

import struct

READ_BYTES = 1 << 20
LANES = 4096
LANE_BYTES = 256
BLOCK_BYTES = LANES * LANE_BYTES
TRAILER_BYTES = 8
POLYNOMIAL = 0x95AC9329AC4BC9B5  # 0xAD93D23594C935A9 with its bits in reverse order


class Malformed(Exception):
    pass


def crc_table() -> "list[int]":
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return table


TABLE = crc_table()


def crc64(data: bytes, crc: int) -> int:
    table = TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc


def skip_tables() -> "list[list[int]]":
    """What LANE_BYTES zero bytes make of a checksum: the operation is linear, so a table for each of its eight bytes."""
    bits = [crc64(bytes(LANE_BYTES), 1 << number) for number in range(64)]
    tables = []
    for place in range(8):
        table = [0] * 256
        for byte in range(256):
            for number in range(8):
                if byte >> number & 1:
                    table[byte] ^= bits[8 * place + number]
        tables.append(table)
    return tables


PLANES = [bytes(entry >> 8 * place & 255 for entry in TABLE) for place in range(8)]
SKIP = skip_tables()


def crc64_block(data: bytes, crc: int) -> int:
    """Of exactly BLOCK_BYTES, four to five times as fast as `crc64` (34 against 6 MB/s, measured).

    The block is cut into lanes that go on in step, one byte each at a time; byte n of every lane's checksum lies together in
    plane n, so that each step is a few operations on long strings. Then the lanes are put one behind the other."""
    planes = [crc >> 8 * place & 255 for place in range(8)]  # all lanes begin with 0, but the first
    for at in range(LANE_BYTES):
        column = int.from_bytes(data[at::LANE_BYTES], "little")
        index = (planes[0] ^ column).to_bytes(LANES, "little")
        moved = [int.from_bytes(index.translate(table), "little") for table in PLANES]
        planes = [moved[place] ^ planes[place + 1] for place in range(7)] + [moved[7]]
    crc = 0
    for lane in zip(*(plane.to_bytes(LANES, "little") for plane in planes)):  # noqa: B905 - Python 3.6 has no `strict`
        skipped = int.from_bytes(bytes(lane), "little")
        for table in SKIP:
            skipped ^= table[crc & 255]
            crc >>= 8
        crc = skipped
    return crc


class Input:
    """The file, with its checksum so far. The last eight bytes are the expected checksum."""

    def __init__(self, file: "object") -> None:
        self._file = file
        self._data = b""
        self._at = 0
        self._crc = 0
        self._unsummed = b""
        self.bytes = 0

    def _more(self, wanted: int) -> bool:
        """At least `wanted` bytes more, unless the file ends."""
        parts = [self._data[self._at :]]
        while wanted > 0:
            data = self._file.read(READ_BYTES)  # type: ignore[attr-defined]  # a file of bytes: the far Python need not load `typing`
            if not data:
                break
            parts.append(data)
            wanted -= len(data)
            self.bytes += len(data)
            self._sum(data)
        self._data, self._at = b"".join(parts), 0
        return wanted <= 0

    def _sum(self, data: bytes) -> None:
        self._unsummed += data
        while len(self._unsummed) >= BLOCK_BYTES + TRAILER_BYTES:
            self._crc = crc64_block(self._unsummed[:BLOCK_BYTES], self._crc)
            self._unsummed = self._unsummed[BLOCK_BYTES:]

    def take(self, size: int) -> bytes:
        at = self._at
        if at + size > len(self._data):
            if not self._more(at + size - len(self._data)):
                raise Malformed(f"ends in the middle, after {self.bytes} bytes")
            at = 0
        self._at = at + size
        return self._data[at : at + size]

    def byte(self) -> int:
        if self._at >= len(self._data) and not self._more(1):
            raise Malformed(f"ends in the middle, after {self.bytes} bytes")
        self._at += 1
        return self._data[self._at - 1]

    def rest(self) -> int:
        """Reads to the end of the file; how many bytes that were."""
        count = 0
        while True:
            count += len(self._data) - self._at
            self._at = len(self._data)
            if not self._more(1):
                return count

    def checksum(self) -> str:
        """After `rest`: "ok", or "off" when the server writes none. Raises Malformed."""
        last = self._unsummed
        crc = crc64(last[:-TRAILER_BYTES], self._crc)
        (expected,) = struct.unpack("<Q", last[-TRAILER_BYTES:])
        if expected == 0:
            return "off"
        if expected != crc:
            raise Malformed(f"does not match its checksum: the file says {expected:016x}, its content gives {crc:016x}")
        return "ok"

    def length(self) -> "tuple[int, bool]":
        """(number, whether it tells how a string is encoded)."""
        first = self.byte()
        kind = first >> 6
        if kind == 0:
            return first, False
        if kind == 1:
            return (first & 63) << 8 | self.byte(), False
        if kind == 3:
            return first & 63, True
        if first == 0x80:
            return struct.unpack(">I", self.take(4))[0], False
        if first == 0x81:
            return struct.unpack(">Q", self.take(8))[0], False
        raise Malformed(f"holds a length that begins with 0x{first:02x}, near byte {self.bytes}")

    def number(self) -> int:
        number, encoded = self.length()
        if encoded:
            raise Malformed(f"holds an encoded string where a number should be, near byte {self.bytes}")
        return number

    def string(self) -> bytes:
        size, encoded = self.length()
        if not encoded:
            return self.take(size)
        if size < 3:
            width = 1 << size
            return b"%d" % int.from_bytes(self.take(width), "little", signed=True)
        if size == 3:
            packed, plain = self.number(), self.number()
            return unpack_lzf(self.take(packed), plain)
        raise Malformed(f"holds a string of encoding {size}, near byte {self.bytes}")


def unpack_lzf(data: bytes, size: int) -> bytes:
    out = bytearray()
    at, end = 0, len(data)
    try:
        while at < end:
            control = data[at]
            at += 1
            if control < 32:
                out += data[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += data[at]
                at += 1
            start = len(out) - ((control & 31) << 8) - data[at] - 1
            at += 1
            length += 2
            if start < 0:
                raise Malformed("holds a compressed string that refers to before its start")
            piece = out[start : start + length]
            while len(piece) < length:  # a match may reach into what it writes
                piece += piece[: length - len(piece)]
            out += piece
    except IndexError:
        raise Malformed("holds a compressed string that ends early") from None
    if len(out) != size:
        raise Malformed(f"holds a compressed string of {len(out)} bytes that should have {size}")
    return bytes(out)


def integer(data: bytes, at: int, width: int) -> bytes:
    return b"%d" % int.from_bytes(data[at : at + width], "little", signed=True)


def listpack(data: bytes) -> "list[bytes]":
    found = []
    at = 6
    while True:
        first = data[at]
        if first < 0x80:
            found.append(b"%d" % first)
            size = 1
        elif first < 0xC0:
            size = 1 + (first & 63)
            found.append(data[at + 1 : at + size])
        elif first < 0xE0:
            value = (first & 31) << 8 | data[at + 1]
            found.append(b"%d" % (value - 8192 if value >= 4096 else value))
            size = 2
        elif first < 0xF0:
            size = 2 + ((first & 15) << 8 | data[at + 1])
            found.append(data[at + 2 : at + size])
        elif first == 0xF0:
            size = 5 + int.from_bytes(data[at + 1 : at + 5], "little")
            found.append(data[at + 5 : at + size])
        elif first in LISTPACK_INTEGERS:
            width = LISTPACK_INTEGERS[first]
            found.append(integer(data, at + 1, width))
            size = 1 + width
        elif first == 0xFF:
            return found
        else:
            raise Malformed(f"holds a listpack with 0x{first:02x} in it")
        at += size + (1 if size < 128 else 2 if size < 16383 else 3 if size < 2097151 else 4 if size < 268435455 else 5)


LISTPACK_INTEGERS = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}
ZIPLIST_INTEGERS = {0xC0: 2, 0xD0: 4, 0xE0: 8, 0xF0: 3, 0xFE: 1}


def ziplist(data: bytes) -> "list[bytes]":
    found = []
    at = 10
    while data[at] != 0xFF:
        at += 5 if data[at] == 0xFE else 1
        first = data[at]
        kind = first >> 6
        if kind < 3:
            if kind == 0:
                at, size = at + 1, first & 63
            elif kind == 1:
                at, size = at + 2, (first & 63) << 8 | data[at + 1]
            else:
                at, size = at + 5, int.from_bytes(data[at + 1 : at + 5], "big")
            found.append(data[at : at + size])
            at += size
        elif first in ZIPLIST_INTEGERS:
            width = ZIPLIST_INTEGERS[first]
            found.append(integer(data, at + 1, width))
            at += 1 + width
        elif 0xF1 <= first <= 0xFD:
            found.append(b"%d" % ((first & 15) - 1))
            at += 1
        else:
            raise Malformed(f"holds a ziplist with 0x{first:02x} in it")
    return found


def intset(data: bytes) -> "list[bytes]":
    width, count = struct.unpack("<II", data[:8])
    return [integer(data, 8 + number * width, width) for number in range(count)]
