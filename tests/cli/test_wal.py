"""The exit codes that PostgreSQL acts on: absent is 10, and nothing else is."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from pathlib import Path

import pytest

from backupctl.cli.main import FETCH_FAILED, main
from backupctl.cli.wal import ABSENT
from backupctl.clock import SystemClock
from backupctl.repository.log_archive import LogArchive
from backupctl.repository.repository import Repository
from backupctl.storage.local import LocalStore

SYSTEM = 7713358278868360706
SEGMENT = "000000010000000000000003"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "point-in-time.md"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LogArchive:
    """A repository with one segment, and a server's data directory as the working directory."""
    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "backupctl.yaml").write_text(
        "repositories: {offsite: {storage: {local: {path: repo}}, password: {file: key}}}\n"
        "jobs: {site: {owner: web, class: low, repository: offsite, objectives: {rpo: 1h, rto: 1h},\n"
        "  sources: {db: {postgresql: {method: physical, wal: archive}}}}}\n"
    )
    store = LocalStore(tmp_path / "repo", create=True)
    repository = Repository.create(store, "secret", clock=SystemClock(), scrypt_n=2)
    (tmp_path / "data" / "global").mkdir(parents=True)
    (tmp_path / "data" / "pg_wal").mkdir()
    (tmp_path / "data" / "global" / "pg_control").write_bytes(struct.pack("<Q", SYSTEM))
    monkeypatch.chdir(tmp_path / "data")
    monkeypatch.setenv("BACKUPCTL_CONFIG", str(tmp_path / "backupctl.yaml"))
    found = LogArchive(repository, str(SYSTEM))
    found.put(SEGMENT, b"a segment", {})
    return found


def code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_fetch_says_absent_only_for_what_is_absent(archive: LogArchive, tmp_path: Path) -> None:
    target = Path("pg_wal/RECOVERYXLOG")
    assert code("wal-fetch", "site/db", SEGMENT, str(target)) == 0
    assert target.read_bytes() == b"a segment" and [one.name for one in Path("pg_wal").iterdir()] == [target.name]
    target.unlink()
    assert code("wal-fetch", "site/db", "0000000100000000000000FF", str(target)) == ABSENT
    assert code("wal-fetch", "site", "00000002.history", str(target)) == ABSENT

    for failing in (
        ("wal-fetch", "site/db", SEGMENT),  # the command line
        ("wal-fetch", "nowhere/db", SEGMENT, str(target)),
        ("wal-fetch", "-c", "/does/not/exist", "site/db", SEGMENT, str(target)),
        ("wal-fetch", "site/db", SEGMENT, "no/such/directory/x"),
    ):
        assert code(*failing) == FETCH_FAILED, failing
    (object_file,) = (tmp_path / "repo" / "backupctl" / "log").rglob(SEGMENT)
    object_file.write_bytes(b"damaged")
    assert code("wal-fetch", "site/db", SEGMENT, str(target)) == FETCH_FAILED
    (tmp_path / "repo" / "config").rename(tmp_path / "repo" / "gone")
    assert code("wal-fetch", "site/db", SEGMENT, str(target)) == FETCH_FAILED, "no repository is no end of the log"
    assert not target.exists()


def test_push_takes_the_same_twice_and_refuses_everything_doubtful(archive: LogArchive) -> None:
    history = Path("pg_wal/00000002.history")
    history.write_text("1\t0/3000060\tno recovery target specified\n")
    assert code("wal-push", "site/db", str(history)) == 0
    assert code("wal-push", "site/db", str(history)) == 0
    history.write_text("1\t0/4000060\tno recovery target specified\n")
    assert code("wal-push", "site/db", str(history)) == 1
    assert archive.get(history.name).startswith(b"1\t0/3000060")
    other = Path("pg_wal/000000010000000000000004")
    other.write_bytes(bytes(1 << 20))
    assert code("wal-push", "site/db", str(other)) == 1, "zeros are no segment"
    assert code("wal-push", "site/db", "pg_wal/notes.txt") == 2
    assert code("wal-push", "site/db", "pg_wal/000000010000000000000009") == 1, "no such file"
    assert archive.names() == [SEGMENT, "00000002.history"]


@pytest.mark.parametrize(
    ("ends_in", "told"),
    [("exit 0", 0), (f"exit {ABSENT}", ABSENT), ("exit 1", 200), ("exit 2", 200), ("kill -9 $$", 200), ("", 200)],
)
def test_an_installation_that_cannot_start_is_no_end_of_the_log(tmp_path: Path, ends_in: str, told: int) -> None:
    """The line of the documentation: a Python that cannot import backupctl ends in 1, which PostgreSQL takes for an absent
    segment."""
    found = re.search(r"^restore_command = '(.*)'$", PAGE.read_text(), re.MULTILINE)
    assert found
    if ends_in:
        program = tmp_path / "backupctl"
        program.write_text(f"#!/bin/sh\n{ends_in}\n")
        program.chmod(0o755)
    line = found[1].replace("%f", SEGMENT).replace("%p", "pg_wal/RECOVERYXLOG")
    env = {**os.environ, "PATH": str(tmp_path)}
    assert subprocess.run(["/bin/sh", "-c", line], env=env, capture_output=True, check=False).returncode == told
