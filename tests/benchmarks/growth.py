"""What the day after costs: new stored bytes of each kind of database, as a share of the first backup.

    python -m tests.benchmarks.growth [--rows 300000] [--methods sqlite,dump,ordered,physical,mariadb,mariadb-physical]

The rows are those of the benchmark's database: 0.1 % of them updated wherever they are, 2 % appended, then a vacuum, as a
night brings it (MariaDB writes its changed pages to disk instead). Needs PostgreSQL and MariaDB; the servers are private ones
that end with the program.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backupctl.clock import SystemClock
from backupctl.hosts.local import LocalHost
from backupctl.repository.repository import Repository
from backupctl.repository.writer import SnapshotWriter
from backupctl.sources.mariadb import MariadbOptions, MariadbSource
from backupctl.sources.postgresql import PostgresqlOptions, PostgresqlSource
from backupctl.sources.protocol import StreamSession
from backupctl.sources.sqlite import SqliteOptions, SqliteSource
from backupctl.storage.memory import MemoryStore
from tests.benchmarks import inputs
from tests.end_to_end.processes import wait_until
from tests.servers.databases import (
    MariadbServer,
    PostgresServer,
    mariadb_server,
    postgres_directory,
    postgres_server,
)

METHODS = ("sqlite", "dump", "ordered", "physical", "mariadb", "mariadb-physical")
SEED = 20261128


@dataclass(frozen=True)
class Growth:
    method: str
    first: int  # stored bytes of the first backup
    second: int  # and of the day after
    seconds: float  # that the second one took
    first_blobs: int

    @property
    def share(self) -> float:
        return self.second / self.first


def measure(method: str, source: Any, change: Any) -> Growth:
    repository = Repository.create(MemoryStore(), "secret", clock=SystemClock(), scrypt_n=2)
    first, _, blobs = _backup(repository, source)
    change()
    second, seconds, _ = _backup(repository, source)
    return Growth(method, first, second, seconds, blobs)


def _backup(repository: Repository, source: Any) -> tuple[int, float, int]:
    clock = SystemClock()
    begun = clock.monotonic()
    with SnapshotWriter(repository) as writer, source.open(LocalHost(), clock) as session:
        if isinstance(session, StreamSession):
            problems = writer.add_stream("db", session.stream())
        else:
            problems = writer.add_source("db", session.entries())
        assert not problems, problems
        session.fingerprint()
        stats = writer.finish().stats
    return stats.data_added_packed, clock.monotonic() - begun, stats.data_blobs


@contextmanager
def sqlite_source(rows: int) -> Iterator[tuple[Any, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        where = inputs.built(Path(directory) / "database", inputs.database(rows))
        path = Path(directory) / "site.db"
        shutil.copyfile(where / "today.db", path)
        source = SqliteSource("db", SqliteOptions(path=str(path)))
        yield source, lambda: shutil.copyfile(where / "tomorrow.db", path)


def fill(server: PostgresServer, rows: int) -> None:
    server.sql("CREATE DATABASE growth;")
    with sqlite_source(rows) as (source, _):
        database = sqlite3.connect(source.options.path)
        lines = [
            "CREATE TABLE orders (id int PRIMARY KEY, customer int, created text, note text);",
            "COPY orders FROM stdin;",
        ]
        lines += ["\t".join(map(str, row)) for row in database.execute("SELECT * FROM orders")]
        database.close()
    server.sql("\n".join([*lines, "\\.", "VACUUM ANALYZE orders;", "CHECKPOINT;"]), "growth")


def a_day(server: PostgresServer, rows: int) -> None:
    chosen = random.Random(SEED)
    ids = chosen.sample(range(1, rows + 1), rows // 1000)
    updates = "".join(f"UPDATE orders SET customer = {chosen.getrandbits(20)} WHERE id = {one};" for one in ids)
    appended = f"""INSERT INTO orders SELECT {rows} + row_number() OVER (ORDER BY id), customer + 1, created, note || md5(id::text)
        FROM orders WHERE id <= {rows // 50};"""
    server.sql(updates + appended + "VACUUM orders; CHECKPOINT;", "growth")


def fill_mariadb(server: MariadbServer, rows: int) -> None:
    server.sql("CREATE DATABASE growth CHARACTER SET utf8mb4;")
    with sqlite_source(rows) as (source, _):
        database = sqlite3.connect(source.options.path)
        lines = ["CREATE TABLE orders (id int PRIMARY KEY, customer int, created text, note text);"]
        cursor = database.execute("SELECT * FROM orders")
        while some := cursor.fetchmany(1000):
            values = (", ".join(f"'{str(one).replace(chr(39), chr(39) * 2)}'" for one in row) for row in some)
            lines.append(f"INSERT INTO orders VALUES {', '.join(f'({one})' for one in values)};")
        database.close()
    server.sql("\n".join(lines), "growth")
    write_pages(server)


def a_day_of_mariadb(server: MariadbServer, rows: int) -> None:
    chosen = random.Random(SEED)
    ids = chosen.sample(range(1, rows + 1), rows // 1000)
    updates = "".join(f"UPDATE orders SET customer = {chosen.getrandbits(20)} WHERE id = {one};" for one in ids)
    appended = f"""INSERT INTO orders SELECT {rows} + row_number() OVER (ORDER BY id), customer + 1, created, concat(note, md5(id))
        FROM orders WHERE id <= {rows // 50};"""
    server.sql(updates + appended, "growth")
    write_pages(server)


def write_pages(server: MariadbServer) -> None:
    """What was changed in memory lies in the files, as after a night."""
    server.sql("SET GLOBAL innodb_max_dirty_pages_pct = 0, innodb_max_dirty_pages_pct_lwm = 0;")
    ask = "SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'"
    wait_until(lambda: server.sql(ask).split()[1] == "0", "all pages to be written")


def grow_mariadb(method: str, rows: int, server: MariadbServer) -> Growth:
    fill_mariadb(server, rows)
    try:
        physical: Any = {"method": "physical"} if method == "mariadb-physical" else {"databases": ["growth"]}
        options = MariadbOptions(socket=server.socket, user="root", **physical)
        source = MariadbSource("db", options, lambda ref: b"")
        return measure(method, source, lambda: a_day_of_mariadb(server, rows))
    finally:
        server.sql("DROP DATABASE growth;")


def grow(method: str, rows: int, server: PostgresServer | None) -> Growth:
    if method == "sqlite":
        with sqlite_source(rows) as (source, change):
            return measure(method, source, change)
    assert server is not None
    fill(server, rows)
    try:
        names: Any = {"databases": ["growth"]} if method != "physical" else {}
        options = PostgresqlOptions(conninfo=server.conninfo, method=method, **names)
        return measure(method, PostgresqlSource("db", options, lambda ref: b""), lambda: a_day(server, rows))
    finally:
        server.sql("DROP DATABASE growth;")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.growth", description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--methods", default=",".join(METHODS))
    options = parser.parse_args()
    programs = postgres_directory()
    assert programs is not None, "PostgreSQL is not installed"
    print("| method | first MiB stored | day after MiB | share | s | blobs |\n|---|---|---|---|---|---|")
    with postgres_server(programs, initdb=["--data-checksums"]) as server:
        for method in options.methods.split(","):
            if method.startswith("mariadb"):
                with mariadb_server("--log-bin=bin", "--server-id=1", "--binlog-format=ROW") as other:
                    one = grow_mariadb(method, options.rows, other)
            else:
                one = grow(method, options.rows, server)
            sizes = f"{one.first / 2**20:.1f} | {one.second / 2**20:.1f}"
            print(f"| {method} | {sizes} | {one.share:.1%} | {one.seconds:.1f} | {one.first_blobs} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
