"""What the golden repositories hold: two states of a small site, the same on every machine and in every year.

The second state is the first with one file changed, one added and one removed.
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
from pathlib import Path
from typing import Any

from backupctl.errors import DamageError
from backupctl.hosts.local import LocalHost
from backupctl.repository.format.names import display_name
from backupctl.repository.reader import SnapshotReader
from backupctl.repository.repository import Repository
from backupctl.repository.restore import restore

SECOND = 1_000_000_000
TIME_NS = 1_700_000_000 * SECOND
FIRST_FILES: dict[bytes, bytes] = {
    b"empty": b"",
    b"index.html": b"<h1>hello</h1>\n" * 40,
    b"photo.jpg": random.Random("photo").randbytes(3000),
    b"deep/er/notes.txt": b"a note\n",
    b"deep/old.txt": b"this file is gone in the second snapshot\n",
    "deep/資料 <&> \u200b.txt".encode(): b"names of every kind\n",
    b'names/q"uote\\back\nline': b"1",
    b"names/not-utf8-\xff\xc3": b"2",
    b"one-byte": b"\0",
}
LARGE = (b"large.txt", random.Random("large").randbytes(500).hex().encode() + b"\n", 9 << 20)
"""Path, pattern, size: more than one blob for every writer, and next to nothing when compressed."""
MODES = {b"photo.jpg": 0o600, b"deep/er/notes.txt": 0o444, b"deep": 0o750, b"one-byte": 0o755}


def first_state(root: Path, *, large: bool) -> None:
    """`large`: with the file that is worth its size only where it is compressed."""
    top = os.fsencode(root)
    for path, content in FIRST_FILES.items():
        os.makedirs(os.path.join(top, os.path.dirname(path)), exist_ok=True)
        Path(os.fsdecode(os.path.join(top, path))).write_bytes(content)
    if large:
        path, pattern, size = LARGE
        Path(os.fsdecode(os.path.join(top, path))).write_bytes((pattern * (size // len(pattern) + 1))[:size])
    os.mkdir(os.path.join(top, b"empty-directory"))
    os.link(os.path.join(top, b"index.html"), os.path.join(top, b"hard link"))
    os.symlink(b"index.html", os.path.join(top, b"link"))
    os.symlink("../elsewhere/資料".encode(), os.path.join(top, b"dangling"))
    os.mkfifo(os.path.join(top, b"pipe"), 0o644)
    for path, mode in MODES.items():
        os.chmod(os.path.join(top, path), mode)
    set_times(root)


def second_state(root: Path) -> None:
    (root / "deep" / "old.txt").unlink()
    (root / "deep" / "er" / "notes.txt").chmod(0o644)
    (root / "deep" / "er" / "notes.txt").write_bytes(b"another note\n")
    (root / "deep" / "er" / "new.bin").write_bytes(random.Random("new").randbytes(2000))
    set_times(root, later=3600)


def set_times(root: Path, *, later: int = 0) -> None:
    """Fixed times with nanoseconds, from the bottom up; `later` seconds for what has another size or place now."""
    moved = {b"notes.txt", b"new.bin", b"er", b"deep"} if later else set()
    for directory, _, files in os.walk(os.fsencode(root), topdown=False):
        for path in [*(os.path.join(directory, name) for name in files), directory]:
            number = int.from_bytes(hashlib.sha256(os.path.relpath(path, os.fsencode(root))).digest()[:4]) % SECOND
            at = TIME_NS + number + (later * SECOND if os.path.basename(path) in moved else 0)
            os.utime(path, ns=(at, at), follow_symlinks=False)


def facts(root: Path) -> dict[str, dict[str, Any]]:
    """What stands below `root`, by path as people see it; read without any of our own readers."""
    found: dict[str, dict[str, Any]] = {}
    top = os.fsencode(root)
    for directory, names, files in os.walk(top):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            entry: dict[str, Any] = {"mode": f"{stat.S_IMODE(status.st_mode):04o}", "mtime_ns": status.st_mtime_ns}
            if stat.S_ISREG(status.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
                entry |= {"type": "file", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                entry |= {"links": status.st_nlink} if status.st_nlink > 1 else {}
            elif stat.S_ISLNK(status.st_mode):
                entry = {"type": "symlink", "mtime_ns": status.st_mtime_ns, "target": os.fsdecode(os.readlink(path))}
            else:
                entry |= {"type": "dir" if stat.S_ISDIR(status.st_mode) else "fifo"}
            found[display_name(os.path.relpath(path, top))] = entry
    return dict(sorted(found.items()))


def restored(repository: Repository, snapshot: dict[str, Any], into: Path) -> tuple[dict[str, Any], list[str]]:
    """What a restore makes, as plain system calls see it, and its problems."""
    into.mkdir()
    with (
        SnapshotReader(repository, repository.load_snapshot(snapshot["id"])) as reader,
        LocalHost("local").placer(os.fsencode(into)) as placer,
    ):
        try:
            stats = restore(reader, placer, path=snapshot["root"].encode())
        except DamageError as error:  # of the topmost directory
            return facts(into), [error.message]
    assert stats.warnings == []
    return facts(into), [problem.message for problem in stats.problems]


def only_known(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Of each entry the facts that are expected: the small repositories say less."""
    return {path: {key: entry[key] for key in wanted[path]} for path, entry in found.items()}
