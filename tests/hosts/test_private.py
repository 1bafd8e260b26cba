"""Secrets in files: whose they are, and what becomes of them when the process that made them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backupctl.hosts import private
from backupctl.hosts.local import LocalHost

MAKE = "import sys; from backupctl.hosts import private; print(private.put(b'secret').decode(), flush=True); sys.stdin.read()"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(private, "MEMORY", str(tmp_path))
    return tmp_path


def maker(place: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """Another process that holds one."""
    program = MAKE.replace("print(", f"private.MEMORY = {str(place)!r}; print(")
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().decode().strip())


def test_it_is_nobody_elses_and_goes_away(place: Path) -> None:
    with LocalHost().private_file(b"secret") as name:
        path = Path(name)
        assert path.read_bytes() == b"secret" and path.parent.parent == place
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_secret(place: Path) -> None:
    process, left = maker(place)
    try:
        with LocalHost().private_file(b"other"):
            assert left.read_bytes() == b"secret", "its process lives"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert left.exists()
        with LocalHost().private_file(b"other") as name:
            assert not left.parent.exists()
            assert Path(name).exists()
    finally:
        process.kill()
        process.communicate()


def test_only_what_is_a_secrets_own_directory_is_swept(place: Path) -> None:
    for name, inside in (("backupctl-ssh-x", "known_hosts"), ("backupctl-empty", ""), ("other-x", "private")):
        (place / name).mkdir()
        if inside:
            (place / name / inside).touch()
    os.symlink(place / "other-x", place / "backupctl-link")
    private.sweep(place)
    assert sorted(one.name for one in place.iterdir()) == [
        "backupctl-empty",
        "backupctl-link",
        "backupctl-ssh-x",
        "other-x",
    ]


def test_nothing_stays_behind_when_it_cannot_be_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("backupctl.hosts.posix.write_all", full)
    with pytest.raises(OSError, match="No space"):
        private.put(b"secret")
    assert list(place.iterdir()) == []
