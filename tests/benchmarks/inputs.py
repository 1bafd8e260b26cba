"""The inputs of the benchmarks: built once from a seed and from the Python trees of this machine, then kept.

Each is a directory under the benchmark's own directory; a file `.complete` beside it says that it was built to the end.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

MIB = 1 << 20
SEED = 20260101


@dataclass(frozen=True)
class Size:
    """How large the inputs are: `full` is what the published numbers are made with, `small` a smoke test."""

    tree_files: int
    dump_bytes: int
    media_bytes: int
    database_rows: int  # about 420 bytes each on disk
    million: int


SIZES = {
    "full": Size(60_000, 2048 * MIB, 2048 * MIB, 2_500_000, 1_000_000),
    "quick": Size(60_000, 512 * MIB, 512 * MIB, 600_000, 100_000),
    "small": Size(600, 4 * MIB, 4 * MIB, 8_000, 1_000),
}


def built(directory: Path, build: Callable[[Path], None]) -> Path:
    """`directory`, built by `build` unless it was before."""
    mark = directory.with_name(directory.name + ".complete")
    if not mark.exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        build(directory)
        mark.touch()
    return directory


def python_trees(files: int) -> Callable[[Path], None]:
    """Real Python installations of this machine, two copies where it takes them: the second as another release of the
    same, one file in three with one line more. Byte-compiled files are left where they are found."""

    def build(directory: Path) -> None:
        made = generation = 0
        while made < files:
            generation += 1
            for source in _installations():
                for found in _files_below(source):
                    if made == files:
                        return
                    target = directory / f"release-{generation}" / source.as_posix().strip("/").replace("/", "-")
                    target = target / found.relative_to(source)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    data = found.read_bytes()
                    if generation > 1 and made % 3 == 0:
                        data += b"# release %d\n" % generation
                    target.write_bytes(data)
                    os.utime(target, ns=(SEED * 10**9 + made, SEED * 10**9 + made))
                    made += 1

    return build


def _installations() -> Iterator[Path]:
    """Directories full of Python: the interpreter's own library, what pip installed, other releases beside it."""
    import sysconfig

    base = Path(sys.base_prefix)
    places = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
    if base.parent.name == "versions":  # pyenv keeps releases side by side
        places += sorted(path for path in base.parent.iterdir() if (path / "lib").is_dir())
    places += [Path("/usr/lib/python3"), Path("/usr/share/doc"), Path("/usr/include")]
    seen: list[Path] = []
    for place in places:
        if place.is_dir() and not any(place == one or one in place.parents for one in seen):
            seen.append(place)
            yield place


def _files_below(top: Path) -> Iterator[Path]:
    for where, directories, names in os.walk(top):
        directories.sort()
        for name in sorted(names):
            path = Path(where, name)
            if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                yield path


def change_some(directory: Path, share: float, seed: int) -> int:
    """Append a line to `share` of the files; how many."""
    chosen = random.Random(f"{SEED}/{seed}")
    changed = 0
    for path in _files_below(directory):
        if chosen.random() < share:
            with path.open("ab") as file:
                file.write(b"# changed in round %d\n" % seed)
            changed += 1
    return changed


def dump(size: int) -> Callable[[Path], None]:
    """A plain SQL dump, as `pg_dump` writes a table: text that compresses about 3 : 1."""

    def build(directory: Path) -> None:
        with (directory / "site.sql").open("wb") as file:
            file.write(b"COPY public.orders (id, customer, created, state, amount, note) FROM stdin;\n")
            for lines in _rows(SEED):
                if file.tell() >= size:
                    break
                file.write(lines)
            file.write(b"\\.\n")

    return build


_STATES = ("new", "paid", "packed", "shipped", "returned", "cancelled")
_WORDS = [
    "please",
    "leave",
    "the",
    "parcel",
    "with",
    "our",
    "neighbour",
    "on",
    "the",
    "second",
    "floor",
    "because",
    "nobody",
    "is",
    "at",
    "home",
    "before",
    "six",
]


def _rows(seed: int) -> Iterator[bytes]:
    """Rows by the thousand, for ever."""
    chosen = random.Random(seed)
    number = 0
    while True:
        lines = []
        for _ in range(1000):
            number += 1
            bits = chosen.getrandbits(128)
            note = " ".join(_WORDS[bits >> shift & 15] for shift in range(0, 4 * (4 + (bits >> 60 & 7)), 4))
            lines.append(
                f"{number}\t{bits & 0xFFFFF:06d}\t2026-{bits >> 20 & 7:02d}-{1 + (bits >> 24 & 15):02d} "
                f"{bits >> 28 & 15:02d}:{bits >> 32 & 31:02d}:{bits >> 40 & 31:02d}.{bits >> 64 & 0xFFFFF:06d}\t"
                f"{_STATES[bits % 6]}\t{bits >> 84 & 0xFFFF}.{bits >> 100 & 63:02d}\t{note}\n"
            )
        yield "".join(lines).encode()


def media(size: int) -> Callable[[Path], None]:
    """Bytes that do not compress: AES-CTR over zeros, in files of 64 MiB."""

    def build(directory: Path) -> None:
        key = hashlib.sha256(b"media").digest()
        encryptor = Cipher(AES(key), CTR(bytes(16))).encryptor()
        zeros = bytes(MIB)
        left, number = size, 0
        while left > 0:
            with (directory / f"film-{number:03d}.mp4").open("wb") as file:
                for _ in range(min(64, -(-left // MIB))):
                    file.write(encryptor.update(zeros))
            left -= 64 * MIB
            number += 1

    return build


def database(rows: int) -> Callable[[Path], None]:
    """`today.db`, and `tomorrow.db`: the same with 0.1 % of the rows updated, wherever they are, and 2 % more rows."""

    def build(directory: Path) -> None:
        today, tomorrow = directory / "today.db", directory / "tomorrow.db"
        with sqlite3.connect(today) as connection:
            connection.execute("PRAGMA journal_mode=OFF")
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INT, created TEXT, note TEXT)")
            connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", _records(SEED, 1, rows))
        connection.close()
        shutil.copyfile(today, tomorrow)
        chosen = random.Random(SEED + 1)
        with sqlite3.connect(tomorrow) as connection:
            connection.execute("PRAGMA synchronous=OFF")
            ids = chosen.sample(range(1, rows + 1), rows // 1000)
            connection.executemany(
                "UPDATE orders SET customer = ? WHERE id = ?", ((chosen.getrandbits(20), one) for one in ids)
            )
            connection.executemany(
                "INSERT INTO orders VALUES (?, ?, ?, ?)", _records(SEED + 2, rows + 1, rows + rows // 50)
            )
        connection.close()

    return build


def _records(seed: int, first: int, last: int) -> Iterator[tuple[int, int, str, str]]:
    chosen = random.Random(seed)
    for number in range(first, last + 1):
        bits = chosen.getrandbits(256)
        note = " ".join(_WORDS[bits >> shift & 15] for shift in range(0, 4 * (30 + (bits >> 200 & 31)), 4))
        yield number, bits & 0xFFFFF, f"2026-01-01 {bits >> 32 & 0xFFFFF}", note + f" {bits:x}"


def many_files(count: int) -> Callable[[Path], None]:
    """`count` files of 100 to 1,000 bytes, a thousand to a directory."""

    def build(directory: Path) -> None:
        chosen = random.Random(SEED)
        for number in range(count):
            if number % 1000 == 0:
                where = directory / f"{number // 100_000:02d}" / f"{number // 1000:05d}"
                where.mkdir(parents=True)
            size = chosen.randrange(100, 1000)
            name = os.open(where / f"record-{number:07d}.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(name, (f'{{"id": {number}, "digest": "{chosen.getrandbits(320):x}"}}' * 10)[:size].encode())
            os.close(name)

    return build
