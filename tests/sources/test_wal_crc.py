"""Every record of a server's own log is verified, whatever it holds and wherever it runs on; no flipped bit is passed over."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backupctl.sources.wal_check import LogWalk
from backupctl.sources.wal_format import PAGE_BYTES, WalReader, describe_segment, format_lsn, parse_lsn, read_header
from tests.servers.databases import PostgresServer, postgres_directory, postgres_server
from tests.servers.plugin_databases import missing

pytestmark = pytest.mark.servers
FLIPS = 200
WRITTEN = """
CREATE TABLE t (n int PRIMARY KEY, x text); CREATE INDEX ON t (x);
INSERT INTO t SELECT g, repeat(md5(g::text), 9) FROM generate_series(1, 4000) g; CHECKPOINT; UPDATE t SET n = -n;
SET wal_compression = on; CHECKPOINT; UPDATE t SET n = n - 10000 WHERE n % 3 = 0; VACUUM FULL t;
BEGIN; SAVEPOINT a; DELETE FROM t WHERE n % 2 = 0; ROLLBACK TO a; COMMIT; SELECT pg_create_restore_point('here');
SELECT pg_logical_emit_message(true, 'long', repeat('y', 700000)) FROM generate_series(1, 5);
"""


@dataclass(frozen=True)
class Log:
    """Whole segments, in order, and the records of the second: place and length."""

    server: str
    segments: dict[str, bytes]
    records: list[tuple[int, int]]
    printed: int  # records in it, by pg_waldump

    @property
    def second(self) -> str:
        return list(self.segments)[1]


@pytest.fixture(scope="module", params=["15", "17"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    programs = postgres_directory()
    if request.param == "17":
        programs = request.getfixturevalue("newer_servers") / "lib/postgresql/17/bin"
    if programs is None:
        missing("postgresql")
    with postgres_server(programs, initdb=["--wal-segsize=1"], wal_keep_size="500MB") as server:
        first = server.sql("SELECT pg_walfile_name(pg_switch_wal() + 1)")
        server.sql(WRITTEN)
        last = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
        directory = server.directory / "data" / "pg_wal"
        names = sorted(one.name for one in directory.iterdir() if first < one.name <= last)
        segments = {name: (directory / name).read_bytes() for name in names}
        yield _read(server, directory, segments)


def _read(server: PostgresServer, directory: Path, segments: dict[str, bytes]) -> Log:
    second = list(segments)[1]
    header = read_header(segments[second])
    records: list[tuple[int, int]] = []
    reader = WalReader(header.lsn, header.size, lambda manager, info, xid, lsn, data: records.append((lsn, len(data))))
    reader.feed(segments[second])
    assert not reader.ended
    dumped = subprocess.run([server.programs / "pg_waldump", directory / second], capture_output=True, text=True).stdout
    return Log(header.system, segments, records, len(dumped.splitlines()))


def walked(log: Log, changed: dict[str, bytes]) -> dict[str, str]:
    """What is wrong, by segment."""
    walk = LogWalk(log.server, log.segments, {})
    found = {name: walk.see(name, content) for name, content in (log.segments | changed).items()}
    return {name: what for name, what in found.items() if what}


def flip(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def continued(content: bytes) -> int:
    """How many bytes of a record that began before it a segment holds."""
    return int.from_bytes(content[16:20], "little")


def test_every_record_of_a_real_log_is_good(log: Log) -> None:
    assert len(log.segments) > 4 and walked(log, {}) == {}
    assert (
        len(log.records) in (log.printed, log.printed - 1) and len(log.records) > 500
    )  # one runs on into the next segment
    assert all("broken" not in describe_segment(content) for content in log.segments.values())


def test_no_flipped_bit_in_a_record_is_passed_over(log: Log) -> None:
    """In its header, length and CRC too."""
    content, chance = log.segments[log.second], random.Random(4)
    start = read_header(content).lsn
    for _ in range(FLIPS):
        lsn, length = chance.choice(log.records)
        inside = min(length, PAGE_BYTES - lsn % PAGE_BYTES)  # behind that there may be a page's header
        changed = flip(content, lsn - start + chance.randrange(inside), chance.randrange(8))
        told = LogWalk(log.server, log.segments, {}).see(log.second, changed)
        assert format_lsn(lsn) in told or "cannot be read on from" in told
        facts = describe_segment(changed)
        assert parse_lsn(facts.get("broken", facts["end"])) <= lsn


def test_a_record_that_runs_over_the_end_of_a_segment(log: Log) -> None:
    """Neither segment alone holds it; together they tell, and what comes behind it is read again."""
    flipped_at = 20000
    after = next(name for name, content in log.segments.items() if continued(content) > flipped_at)
    changed = flip(log.segments[after], flipped_at, 3)
    ((name, told),) = walked(log, {after: changed}).items()
    assert name == after and ", which begins before this segment, is not what its length and CRC say" in told
    assert "broken" not in describe_segment(changed)
