"""A base backup taken apart while it passes: what is sent, what is wrong with it, and where it is cut off."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Callable

import pytest

from backupctl.errors import SourceError
from backupctl.hosts.protocol import Completed
from backupctl.sources.base_backup import BaseBackup, Frames, parse_manifest
from backupctl.sources.postgresql_physical import checksum_warning, unsuitable
from backupctl.sources.wal_cut import Commit, SnapshotXids, common_cut, cut


class FakeProcess:
    """A program beside the server that has said everything."""

    def __init__(self, data: bytes, returncode: int = 0) -> None:
        self.stdout, self.stdin, self._returncode = io.BytesIO(data), io.BytesIO(), returncode

    def finish(self, timeout: float | None = None) -> Completed:
        return Completed(("replication",), self._returncode, b"", "terminating connection")

    def kill(self) -> None: ...

    def __enter__(self) -> FakeProcess:
        return self

    def __exit__(self, *exc: object) -> None: ...


def frame(kind: bytes, payload: bytes | dict[str, object] = b"") -> bytes:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return struct.pack(">cI", kind, len(data)) + data


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o600
            if name.endswith("/"):
                member.type, member.size, member.mode = tarfile.DIRTYPE, 0, 0o700
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def manifest(files: dict[str, bytes]) -> bytes:
    listed = [
        {"Path": name, "Size": len(data), "Checksum-Algorithm": "SHA256", "Checksum": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    ]
    body = f'{{"PostgreSQL-Backup-Manifest-Version": 1, "Files": {json.dumps(listed)},\n'.encode()
    return body + f'"Manifest-Checksum": "{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


BASE = {
    "backup_label": b"START WAL",
    "base/1/112": b"\1" * 8192,
    "global/pg_control": b"\2" * 8192,
    "PG_VERSION": b"15\n",
}
SPACE = {"PG_15_202209061/5/16390": b"\3" * 16384}
LISTED = {**BASE, "pg_tblspc/16384/PG_15_202209061/5/16390": SPACE["PG_15_202209061/5/16390"]}


def sent(base: dict[str, bytes] = BASE, listed: dict[str, bytes] = LISTED, failed: str = "") -> bytes:
    begun = {
        "lsn": "0/2000028",
        "timeline": 1,
        "tablespaces": [["16384", "/srv/fast", "16"], ["", "", "24"]],
        "system": "42 16MB",
    }
    return b"".join(
        [
            frame(b"B", begun),
            frame(b"A", b"16384.tar"),
            *(frame(b"D", archive(SPACE)[at : at + 700]) for at in range(0, len(archive(SPACE)), 700)),
            frame(b"N", {"severity": "WARNING", "text": "something"}),
            frame(b"A", b"base.tar"),
            frame(b"D", archive({**base, "pg_wal/": b"", "empty": b""})),
            frame(b"M"),
            frame(b"D", manifest({**listed, "empty": b""})),
            frame(b"E", {"lsn": "0/2000100", "timeline": 1, "failed": failed}),
        ]
    )


def read(data: bytes, between: Callable[[], None] = lambda: None) -> tuple[BaseBackup, dict[bytes, bytes]]:
    backup = BaseBackup(Frames(FakeProcess(data), "site-db"), "site-db")
    backup.begin()
    found = {}
    for one in backup.files():
        found[one.path] = content = one.content.read() if one.content else b"(dir)"
        if one.content:
            backup.note(one.path, len(content), hashlib.sha256(content).digest())
    return backup, found


def test_every_tablespace_comes_to_lie_inside_the_data_directory() -> None:
    backup, found = read(sent())
    assert found.pop(b"pg_wal") == b"(dir)" and found.pop(b"empty") == b""
    assert found == {name.encode(): data for name, data in LISTED.items()}
    assert (backup.start_lsn, backup.end_lsn, backup.system, backup.segment_bytes) == (
        "0/2000028",
        "0/2000100",
        "42",
        16 << 20,
    )
    assert backup.tablespaces == {"16384": "/srv/fast"} and backup.expected_bytes == 40 << 10
    assert backup.frames.notices == [("WARNING", "something")]
    assert backup.differences() == []


@pytest.mark.parametrize(
    ("base", "listed", "expected"),
    [
        ({**BASE, "base/1/112": b"\1" * 8191 + b"\0"}, LISTED, (b"base/1/112", "has SHA-256")),
        ({**BASE, "base/1/112": b"\1" * 4096}, LISTED, (b"base/1/112", "has 4096 bytes, the manifest says 8192")),
        ({**BASE, "base/1/113": b"x"}, LISTED, (b"base/1/113", "was sent and is not in the manifest")),
        (BASE, {**LISTED, "base/1/999": b"x"}, (b"base/1/999", "is in the manifest and was not sent")),
    ],
)
def test_what_differs_from_the_manifest_is_named(base, listed, expected) -> None:
    ((path, what),) = read(sent(base, listed))[0].differences()
    assert path == expected[0] and what.startswith(expected[1])


def test_a_manifest_that_is_not_whole_is_none() -> None:
    data = manifest(LISTED)
    assert len(parse_manifest(data)) == len(LISTED)
    for bad in (data.replace(b'"Size": 8192', b'"Size": 8193', 1), data[: len(data) // 2], b"[]"):
        with pytest.raises((ValueError, KeyError, TypeError)):
            parse_manifest(bad)


def test_wherever_the_stream_is_cut_off_it_is_an_error_again_and_again() -> None:
    whole = sent()
    for length in range(0, len(whole) - 1, 997):
        backup = BaseBackup(Frames(FakeProcess(whole[:length], 1), "site-db"), "site-db")
        for _ in range(2):
            with pytest.raises(SourceError, match="ended early: exit status 1: terminating connection"):
                backup.begin()
                for one in backup.files():
                    if one.content:
                        one.content.read()


def test_paths_that_lead_out_are_refused() -> None:
    with pytest.raises(SourceError, match="impossible path"):
        read(sent({**BASE, "../../etc/passwd": b"x"}))


def test_the_file_is_found_in_a_warning_of_any_language() -> None:
    english = 'checksum verification failed in file "./base/5/16384", block 0: calculated 3C01 but expected 2B'
    german = "Prüfsummenprüfung fehlgeschlagen in Datei »pg_tblspc/1/PG_15_1/5/2«, Block 0"
    assert checksum_warning(english) == b"base/5/16384"
    assert checksum_warning(german) == b"pg_tblspc/1/PG_15_1/5/2"
    assert checksum_warning('skipping special file "./.s.PGSQL.5432"') == b""


def test_servers_that_cannot_be_backed_up_like_this() -> None:
    good = {"standby": False, "wal_level": "replica"}
    assert unsuitable("15.2", good) is None
    for server, row in (
        ("14.9", good),
        ("16.1", {**good, "standby": True}),
        ("16.1", {**good, "wal_level": "minimal"}),
    ):
        assert unsuitable(server, row) is not None


def test_where_a_snapshot_stands_in_the_log() -> None:
    seen = SnapshotXids.parse("10:14:11,12")
    assert [xid for xid in range(8, 16) if seen.sees(xid)] == [8, 9, 10, 13]
    commits = [Commit(100, 9), Commit(200, 10), Commit(300, 13), Commit(400, 12), Commit(500, 15)]
    assert cut(seen, commits, 150) == 300
    assert cut(seen, commits[:2], 250) == 0, "all of it is in the base backup already"
    assert cut(seen, commits, 450) is None, "the base backup holds a commit that the snapshot does not see"
    assert cut(seen, [Commit(300, 12), Commit(400, 13)], 150) is None, "visible in another order than logged"
    assert cut(seen, [Commit(300, 0), Commit(400, 12)], 150) is None, "whose commit this is, nobody knows"
    assert cut(SnapshotXids.parse("4294967300:4294967305:"), [Commit(300, 2), Commit(400, 4294967290)], 150) == 400
    assert common_cut({"a": 300, "b": 300, "c": 400}) == (300, ["c"])
    assert common_cut({"a": 0, "b": None}) == (0, ["b"])
    assert common_cut({"a": None}) == (0, ["a"])
