"""What runs on the staging host in the mock attack (Python >= 3.7 there, standard library only). Nothing here is malware: it
works on victims that it made itself or that the drill restored, below one directory, with a key that is known.

    asked on stdin: {"root", "owner", "drill", "seed", "round", "step"}      step: plant everyday seep storm tally

It refuses (exit 3) unless `owner` is the owner file of this very drill and `root` lies beside it. Answers one JSON object:
counts of what was done, or for `tally` the SHA-256 of every file by its path.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

BLOCK = 4096
EVERY = 8  # of a seeped file, one block of so many is encrypted
SHARE = 0.25  # of the files, each time that poison seeps in
SUFFIX = ".locked"
WORDS = ("report", "budget", "permit", "record", "citizen", "street", "number", "office", "letter", "school", "bridge")
CANARY = "this text never changes"


def keystream(seed: str, place: str, length: int) -> bytes:
    key = hashlib.sha256(f"{seed} {place}".encode("utf-8", "surrogateescape")).digest()
    blocks = (hashlib.sha256(key + number.to_bytes(8, "big")).digest() for number in range(length // 32 + 1))
    return b"".join(blocks)[:length]


def encrypted(data: bytes, stream: bytes) -> bytes:
    return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")


def text(chance: random.Random, size: int) -> bytes:
    words: list[str] = []
    while size > 0:
        words.append(chance.choice(WORDS) + (f" {chance.randrange(10000)}" if chance.random() < 0.2 else ""))
        size -= len(words[-1]) + 1
    return " ".join(words).encode()


class Attack:
    def __init__(self, root: Path, seed: str) -> None:
        self.seed = seed
        self.files, self.documents, self.database = root / "files", root / "files" / "documents", root / "records.db"

    def all_files(self) -> list[Path]:
        return sorted(path for path in self.files.rglob("*") if path.is_file() and not path.is_symlink())

    def victims(self) -> list[Path]:
        return [path for path in self.all_files() if "canary" not in path.name]

    def sql(self, *statements: tuple[str, Iterable[tuple[object, ...]]]) -> None:
        connection = sqlite3.connect(str(self.database))
        for statement, values in statements:
            connection.executemany(statement, values)
        connection.commit()
        connection.close()

    def plant(self, chance: random.Random) -> dict[str, int]:
        self.documents.mkdir(parents=True, exist_ok=True)
        for number in range(24):
            (self.documents / f"{number:02}.txt").write_bytes(text(chance, chance.choice([3000, 20000, 90000])))
        for number in range(3):
            (self.documents / f"canary-{number}.txt").write_text(f"{CANARY}: {number}\n" * 300)
        once: list[tuple[object, ...]] = [()]
        self.sql(
            ("create table citizens (id integer primary key, name text, street text)", once),
            ("create table permits (id integer primary key, citizen integer, issued text)", once),
            ("create table canary (id integer primary key, said text)", once),
            ("insert into canary values (?, ?)", [(1, CANARY)]),
            ("insert into citizens values (?, ?, ?)", [(n, f"name {n}", f"street {n % 40}") for n in range(800)]),
            ("insert into permits values (?, ?, ?)", [(n, n % 800, f"2026-01-{n % 28 + 1:02}") for n in range(400)]),
        )
        return {"documents": 24, "canaries": 3, "rows": 1201}

    def everyday(self, chance: random.Random) -> dict[str, int]:
        """A day's honest work, which must not look like an attack."""
        documents = [path for path in self.victims() if path.parent == self.documents]
        changed = chance.sample(documents, min(4, len(documents)))
        for path in changed:
            with path.open("ab") as file:
                file.write(text(chance, 2000))
        (self.documents / f"new-{chance.randrange(1 << 30)}.txt").write_bytes(text(chance, 9000))
        first = chance.randrange(10000, 1 << 30)
        self.sql(("insert into citizens values (?, ?, ?)", [(first + n, "new", "street 1") for n in range(5)]))
        return {"changed": len(changed), "new": 1, "rows": 5}

    def seep(self, chance: random.Random) -> dict[str, int]:
        """Slow poison: some blocks of some files, sizes and times as they were."""
        victims = [path for path in self.victims() if path.stat().st_size >= 512]
        chosen = chance.sample(victims, max(1, int(len(victims) * SHARE)))
        for path in chosen:
            info = path.stat()
            with path.open("r+b") as file:
                for position in range(0, info.st_size, BLOCK * EVERY):
                    file.seek(position)
                    block = file.read(BLOCK)
                    file.seek(position)
                    file.write(encrypted(block, keystream(self.seed, f"{path} {position}", len(block))))
            os.utime(str(path), ns=(info.st_atime_ns, info.st_mtime_ns))
        self.sql(
            (
                "update permits set issued = ? where id = ?",
                [(f"{chance.getrandbits(72):x}", n) for n in range(0, 400, 9)],
            )
        )
        return {"encrypted in part": len(chosen), "rows tampered with": 45}

    def storm(self, chance: random.Random) -> dict[str, int]:
        """Everything at once: encrypt, rename, delete, drop, and the note."""
        done = {"encrypted": 0, "renamed": 0, "deleted": 0, "rows tampered with": 801, "tables dropped": 1}
        for path in self.all_files():
            if chance.random() < 0.15:
                path.unlink()
                done["deleted"] += 1
                continue
            data = path.read_bytes()
            with path.open("r+b") as file:
                file.write(encrypted(data, keystream(self.seed, str(path), len(data))))
            done["encrypted"] += 1
            if chance.random() < 0.8:
                path.rename(path.with_name(path.name + SUFFIX))
                done["renamed"] += 1
        (self.documents / "HOW_TO_DECRYPT.txt").write_text("this is a drill: your files are encrypted\n")
        names = [(keystream(self.seed, f"row {n}", 16).hex(), n) for n in range(800)]
        self.sql(
            ("update citizens set name = ? where id = ?", names),
            ("update canary set said = ? where id = ?", [("gone", 1)]),
            ("drop table permits", [()]),
        )
        return done

    def tally(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in self.all_files():
            found[str(path.relative_to(self.files))] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


def main() -> None:
    asked = json.loads(sys.stdin.read())
    owner, root = Path(asked["owner"]).resolve(), Path(asked["root"]).resolve()
    sandbox = owner.parent.parent
    mine = owner.name == "owner.json" and owner.parent.name == "state" and sandbox in root.parents
    if not mine or json.loads(owner.read_text())["drill"] != asked["drill"]:
        sys.stderr.write(f"{root} is not in the sandbox of drill {asked['drill']}: nothing was touched\n")
        sys.exit(3)
    root.mkdir(mode=0o700, exist_ok=True)
    attack = Attack(root, asked["seed"])
    steps = {"plant": attack.plant, "everyday": attack.everyday, "seep": attack.seep, "storm": attack.storm}
    if asked["step"] == "tally":
        answer: object = attack.tally()
    else:
        answer = steps[asked["step"]](random.Random(f"{asked['seed']} {asked['round']}"))  # noqa: S311  to be repeated
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
