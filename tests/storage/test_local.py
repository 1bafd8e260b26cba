"""What only a directory can get wrong: half files, full disks, unmounted disks, killed writers."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupctl.errors import Corrupt, Denied, Full, StorageError, Transient, UnreachableError, UserError
from backupctl.storage.local import LocalStore

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store", create=True)


def files(store: LocalStore) -> list[str]:
    """Every file there is, hidden or not."""
    return sorted(str(path.relative_to(store.path)) for path in store.path.rglob("*") if not path.is_dir())


KILLED_PUT = """
import os, signal, sys
from pathlib import Path
from backupctl.storage.local import LocalStore
root, step, if_absent = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "if_absent"
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
when, _, call = step.partition(" ")
real = getattr(os, call)
def faulty(*args, **kwargs):
    if when == "during":
        real(args[0], args[1][:1000])
    elif when == "after":
        real(*args, **kwargs)
    die()
store = LocalStore(root)
setattr(os, call, faulty)
store.put("data/ab/new", b"n" * 100_000, if_absent=if_absent)
"""

STEPS = [
    ("before write", False),
    ("during write", False),
    ("after write", False),
    ("before fsync", False),
    ("after fsync", False),
    ("before mkdir", False),
    ("after mkdir", False),
    ("before rename", False),
    ("after rename", True),
    ("before link", False),
    ("after link", True),
]


@pytest.mark.parametrize(("step", "stored"), STEPS)
def test_a_writer_killed_at_any_step_leaves_all_or_nothing(store: LocalStore, step: str, stored: bool) -> None:
    store.put("data/cd/old", b"old")
    argv = [sys.executable, "-c", KILLED_PUT, str(store.path), step, "if_absent" if "link" in step else "replace"]
    assert subprocess.run(argv, cwd=ROOT, timeout=60).returncode == -signal.SIGKILL
    expected = {"data/ab/new": b"n" * 100_000, "data/cd/old": b"old"} if stored else {"data/cd/old": b"old"}
    assert {info.name: store.get(info.name) for info in store.list()} == expected
    # the next writer succeeds, and what the dead one left goes when it is old
    again = LocalStore(store.path)
    again.put("data/ab/new", b"again")
    for leftover in store.path.glob(".tmp-*"):
        os.utime(leftover, (time.time() - 90_000,) * 2)
    LocalStore(store.path).put("config", b"c")
    assert files(store) == ["config", "data/ab/new", "data/cd/old"]


def test_a_stream_of_replacements_killed_anywhere_shows_one_of_them(store: LocalStore) -> None:
    code = (
        "import sys; from pathlib import Path; from backupctl.storage.local import LocalStore\n"
        "store = LocalStore(Path(sys.argv[1]))\n"
        "while True:\n"
        "    for letter in b'abcdefgh': store.put('config', bytes([letter]) * 300_000); print(flush=True)\n"
    )
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code, str(store.path)], cwd=ROOT, stdout=subprocess.PIPE) as child:
            assert child.stdout
            for _ in range(20):
                child.stdout.readline()
                data = store.get("config")  # while it is being replaced
                assert len(data) == 300_000
                assert len(set(data)) == 1
            child.kill()
        data = store.get("config")
        assert len(data) == 300_000
        assert len(set(data)) == 1
        assert [info.name for info in store.list()] == ["config"]


def test_temporary_files_of_living_writers_stay(store: LocalStore) -> None:
    fresh = store.path / ".tmp-someone"
    fresh.write_bytes(b"half")
    store.put("config", b"c")
    assert fresh.exists()
    assert [info.name for info in store.list()] == ["config"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, Full),
        (errno.EDQUOT, Full),
        (errno.EFBIG, Full),
        (errno.EACCES, Denied),
        (errno.EROFS, Denied),
        (errno.ESTALE, Transient),
        (errno.EIO, StorageError),
    ],
)
def test_a_failed_write_is_classified_and_leaves_nothing(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[Exception]
) -> None:
    store.put("data/ab/old", b"old")
    for call in ("write", "fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, lambda *args, **kwargs: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
            with pytest.raises(expected, match="data/ab/new") as caught:
                store.put("data/ab/new", b"new")
        assert type(caught.value) is expected
        assert isinstance(caught.value, Transient) or caught.value.next_step
        assert files(store) == ["data/ab/old"]
    store.put("data/ab/new", b"new")
    assert store.get("data/ab/new") == b"new"


def test_a_file_system_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs; the same is tested with a failing write(2) above")
    try:
        store = LocalStore(disk)
        store.put("first", b"x" * 600_000)
        with pytest.raises(Full, match="No space left") as caught:
            store.put("second", b"y" * 600_000)
        assert caught.value.name == "second"
        assert caught.value.exit_code == 14
        assert files(store) == ["first"]
        store.put("third", b"z" * 300_000)
        store.delete("first")
        store.put("second", b"y" * 600_000)
        assert store.get("second") == b"y" * 600_000
        store.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_size_limit_is_full(store: LocalStore) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from backupctl.errors import Full\n"
        "from backupctl.storage.local import LocalStore\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: LocalStore(Path(sys.argv[1])).put('big', b'x' * 5000)\n"
        "except Full: sys.exit(42)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.path)], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 42
    assert files(store) == []


def test_an_unreadable_sector_is_corruption_of_that_object(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("data/ab/cd", b"x")
    monkeypatch.setattr(os, "pread", lambda *args: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(Corrupt, match="data/ab/cd"):
        store.get("data/ab/cd")


def test_a_missing_root_is_unreachable_and_stays_missing(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="no such directory") as caught:
        LocalStore(tmp_path / "mnt" / "store")
    assert "mount" in caught.value.next_step
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    for create in (True, False):
        with pytest.raises(UserError):
            LocalStore(tmp_path / "file", create=create)


def test_a_root_that_vanishes_says_nothing_about_objects(store: LocalStore) -> None:
    store.put("config", b"c")
    (store.path / "config").unlink()
    store.path.rmdir()
    for call in (
        lambda: store.get("config"),
        lambda: store.stat("config"),
        lambda: store.put("config", b"c"),
        lambda: store.put("data/ab/cd", b"c", if_absent=True),
        lambda: store.delete("config"),
        lambda: list(store.list("data/")),
    ):
        with pytest.raises(UnreachableError, match="is gone"):
            call()
    assert not store.path.exists()


def test_a_root_that_is_replaced_is_not_written_to(store: LocalStore, tmp_path: Path) -> None:
    store.put("config", b"c")
    store.path.rename(tmp_path / "moved")
    store.path.mkdir()  # what an unmounted disk looks like
    store.put("data/ab/cd", b"d")
    assert list(store.path.iterdir()) == []
    assert store.get("config") == b"c"
    assert (tmp_path / "moved/data/ab/cd").read_bytes() == b"d"


@contextlib.contextmanager
def without_rights(directory: Path) -> Iterator[None]:
    directory.chmod(0)
    if os.geteuid() != 0:
        yield
    else:
        os.seteuid(65534)  # modes mean nothing to root
        try:
            yield
        finally:
            os.seteuid(0)
    directory.chmod(0o700)


def test_a_directory_we_may_not_use_is_denied(store: LocalStore) -> None:
    store.put("data/ab/cd", b"x")
    with without_rights(store.path):
        for call in (
            lambda: store.get("data/ab/cd"),
            lambda: store.stat("data/ab/cd"),
            lambda: store.put("data/ab/ef", b"x"),
            lambda: store.delete("data/ab/cd"),
            lambda: list(store.list("data/")),
        ):
            with pytest.raises(Denied, match="Permission denied") as caught:
                call()
            assert caught.value.exit_code == 14
            assert str(store.path) in caught.value.next_step
    assert store.get("data/ab/cd") == b"x"


def test_nobody_else_can_read(store: LocalStore) -> None:
    before = os.umask(0)
    try:
        store.put("data/ab/cd", b"x")
        fresh = LocalStore(store.path / "below", create=True)
    finally:
        os.umask(before)
    assert (store.path / "data/ab/cd").stat().st_mode & 0o777 == 0o600
    for directory in (store.path / "data", store.path / "data/ab", fresh.path):
        assert directory.stat().st_mode & 0o777 == 0o700


def test_what_is_no_object_is_not_listed_or_read(store: LocalStore) -> None:
    store.put("data/ab/cd", b"x")
    os.mkfifo(store.path / "data/fifo")
    (store.path / "lost+found").mkdir(mode=0)
    (store.path / "dangling").symlink_to("nowhere")
    (store.path / "data/empty").mkdir()
    assert [info.name for info in store.list()] == ["data/ab/cd"]
    with pytest.raises(UserError, match="does not exist"):
        store.get("data/fifo")


def test_retention_is_refused_honestly(store: LocalStore) -> None:
    store.put("config", b"c")
    with pytest.raises(UserError, match="cannot refuse deletion"):
        store.retain("config", store.stat("config").modified)
