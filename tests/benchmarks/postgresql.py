"""A PostgreSQL server backed up, restored and proven equal: by phase, beside pg_dump with pg_restore and beside pgBackRest.

    python -m tests.benchmarks.postgresql [--size quick|full] [--days 7] [--programs pg_dump,pgbackrest,physical,ordered,dump]

All of them work on the same cluster, one after the other: a first backup, a restore into a server that answers, and then one
backup a day for a week of days (0.1 % of the rows updated wherever they are, 2 % appended, a vacuum). Each stores into a
directory of its own on this machine. Servers are private ones and run without privileges.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from backupctl.drills.stopwatch import BOOT, COMPARE, LOAD
from backupctl.hosts.local import LocalHost
from backupctl.sources.postgresql_client import PostgresClient
from backupctl.sources.postgresql_fingerprint import describe_database
from backupctl.sources.postgresql_session import connect
from tests.benchmarks.measure import Measurement, run, stored_bytes
from tests.benchmarks.programs import PASSWORD
from tests.servers.databases import (
    ENVIRONMENT,
    PostgresServer,
    postgres_directory,
    postgres_server,
    postgres_started,
    private_directory,
    unprivileged_prefix,
)

SIZES = {"small": 5_000, "quick": 250_000, "full": 5_700_000}
"""Rows; about 420 bytes each, with their index."""
DATABASE = "site"
SEED = 20261129
MIB = 1 << 20
SHOWN_PHASES = (BOOT, LOAD, COMPARE)
PROCESSES = 2
WORDS = " please leave the parcel with our neighbour on the second floor because nobody is at home before six "

ROWS = f"""
INSERT INTO orders SELECT g, abs(hashint4(g)) % 1048576,
  to_char(timestamp '2026-01-01' + g * interval '13 seconds', 'YYYY-MM-DD HH24:MI:SS'),
  md5(g::text) || '{WORDS}' || md5(g::text || 'a') ||
  substr('{WORDS}', 1 + g % 40, 40) || md5(g::text || 'b') || md5(g::text || 'c')
  FROM generate_series({{first}}, {{last}}) g;
"""


def fill(server: PostgresServer, rows: int) -> int:
    """The size of the database, in bytes."""
    server.sql(f"CREATE DATABASE {DATABASE};")
    server.sql("CREATE TABLE orders (id int PRIMARY KEY, customer int, created text, note text);", DATABASE)
    server.sql(ROWS.format(first=1, last=rows), DATABASE)
    server.sql("CREATE INDEX ON orders (customer); VACUUM ANALYZE orders; CHECKPOINT;", DATABASE)
    return int(server.sql("SELECT pg_database_size(current_database())", DATABASE))


def a_day(server: PostgresServer, rows: int, day: int) -> int:
    """How many rows there are at its end."""
    chosen = random.Random(f"{SEED}/{day}")
    ids = ",".join(str(one) for one in chosen.sample(range(1, rows + 1), rows // 1000))
    last = rows + rows // 50
    server.sql(
        f"UPDATE orders SET customer = (customer + {day}) % 1048576 WHERE id IN ({ids});"
        + ROWS.format(first=rows + 1, last=last),
        DATABASE,
    )
    server.sql("VACUUM orders; CHECKPOINT;", DATABASE)
    return last


@dataclass
class Found:
    """Of one program. `restore`: seconds by phase, in order; so many `tables` were compared with what the source had held.
    `stored`: bytes after each backup, without its own archive of the log, which is `log`."""

    name: str
    backups: list[Measurement] = field(default_factory=list)
    restore: dict[str, float] = field(default_factory=dict)
    stored: list[int] = field(default_factory=list)
    log: int = 0
    tables: int = 0

    @property
    def restored(self) -> float:
        """Seconds until the server answered."""
        return sum(seconds for name, seconds in self.restore.items() if name != COMPARE)


class Program(ABC):
    name: str

    def __init__(self, server: PostgresServer, work: Path) -> None:
        self.server, self.work = server, work / self.name
        self.repository = self.work / "repository"
        self.work.mkdir()

    @abstractmethod
    def prepare(self) -> None: ...

    @abstractmethod
    def backup(self) -> Measurement: ...

    @abstractmethod
    def restore(self) -> tuple[dict[str, float], int]:
        """Into a server that answers: seconds by phase, and how many tables were compared."""

    def log_bytes(self) -> int:
        """What of the repository is archived log, which the others leave to somebody else."""
        return 0


@contextmanager
def timed(phases: dict[str, float], name: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    phases[name] = time.perf_counter() - begun


class PgDump(Program):
    """The custom format as it is by default, compressed by pg_dump itself, neither encrypted nor read back."""

    name = "pg_dump"
    _count = 0

    def prepare(self) -> None:
        self.repository.mkdir()

    def backup(self) -> Measurement:
        self._count += 1
        argv = [str(self.server.programs / "pg_dump"), "-Fc", "-f", str(self.repository / f"{self._count}.dump")]
        return run([*argv, "-d", f"{self.server.conninfo} dbname={DATABASE}"], env=ENVIRONMENT, cwd=Path("/"))

    def restore(self) -> tuple[dict[str, float], int]:
        phases: dict[str, float] = {}
        with ExitStack() as stack:
            with timed(phases, "empty server"):
                server = stack.enter_context(postgres_server(self.server.programs))
                server.sql(f"CREATE DATABASE {DATABASE};")
            argv = [
                str(server.programs / "pg_restore"),
                "--exit-on-error",
                "-d",
                f"{server.conninfo} dbname={DATABASE}",
            ]
            with timed(phases, "load"):
                run([*argv, str(self.repository / f"{self._count}.dump")], env=ENVIRONMENT, cwd=Path("/"))
        return phases, 0


class PgBackRest(Program):
    """A full backup, then one incremental backup a day; encrypted and zstd-compressed as ours, two processes."""

    name = "pgbackrest"
    _stanza = "bench"

    def prepare(self) -> None:
        for name in ("repository", "log", "lock", "spool"):
            (self.work / name).mkdir()
            if os.geteuid() == 0:
                shutil.chown(self.work / name, "nobody", "nogroup")
        self._config = self.work / "pgbackrest.conf"
        settings = {
            "repo1-path": self.repository,
            "repo1-cipher-type": "aes-256-cbc",
            "repo1-cipher-pass": PASSWORD,
            "repo1-retention-full": 9,
            "compress-type": "zst",
            "process-max": PROCESSES,
            "start-fast": "y",
            "log-path": self.work / "log",
            "lock-path": self.work / "lock",
            "spool-path": self.work / "spool",
            "log-level-console": "warn",
        }
        cluster = {
            "pg1-path": self.server.directory / "data",
            "pg1-port": self.server.port,
            "pg1-socket-path": self.server.directory,
            "pg1-user": "postgres",
        }
        lines = ["[global]", *(f"{name}={value}" for name, value in settings.items())]
        lines += [f"[{self._stanza}]", *(f"{name}={value}" for name, value in cluster.items())]
        self._config.write_text("\n".join(lines) + "\n")
        self._run("stanza-create")
        push = f"pgbackrest --config={self._config} --stanza={self._stanza} archive-push %p"
        self.server.sql(f"ALTER SYSTEM SET archive_command = '{push}'")
        self.server.sql("SELECT pg_reload_conf()")

    def _run(self, *arguments: str) -> Measurement:
        argv = [*unprivileged_prefix(), "pgbackrest", f"--config={self._config}", f"--stanza={self._stanza}"]
        return run([*argv, *arguments], env=ENVIRONMENT, cwd=Path("/"))

    def backup(self) -> Measurement:
        return self._run("backup", "--type=incr")  # the first is a full one all the same

    def restore(self) -> tuple[dict[str, float], int]:
        phases: dict[str, float] = {}
        directory = private_directory()
        try:
            with timed(phases, "restore files"):
                target = f"--pg1-path={directory / 'data'}"
                self._run("restore", target, "--type=immediate", "--target-action=promote")
            begun = time.perf_counter()
            with postgres_started(self.server.programs, directory, archive_mode="off") as server:
                while server.sql("SELECT pg_is_in_recovery()") == "t":
                    time.sleep(0.05)
                phases["recover"] = time.perf_counter() - begun
                assert server.sql("SELECT count(*) FROM orders", DATABASE) != "0"
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        return phases, 0

    def log_bytes(self) -> int:
        return stored_bytes(self.repository / "archive")


class Backupctl(Program):
    """The command line, as its user types it. A restore is a drill: a private server, then every table compared."""

    def __init__(self, name: str, server: PostgresServer, work: Path) -> None:
        self.name = name
        super().__init__(server, work)

    def prepare(self) -> None:
        databases = "" if self.name == "physical" else f", databases: [{DATABASE}]"
        source = f"{{postgresql: {{conninfo: '{self.server.conninfo}', method: {self.name}{databases}}}}}"
        (self.work / "key").write_text(PASSWORD)
        (self.work / "key").chmod(0o600)
        (self.work / "backupctl.yaml").write_text(
            "version: 1\n"
            "repositories:\n"
            f"  bench: {{storage: {{local: {{path: {self.repository}}}}}, password: {{file: key}}}}\n"
            "hosts:\n"
            f"  staging: {{local: {{}}, role: staging, scratch: {self.work}/staging}}\n"
            "jobs:\n"
            f"  bench: {{sources: {{db: {source}}}, repository: bench, objectives: {{rpo: 24h, rto: 2h}},"
            " retention: {keep_daily: 14}, drills: {full: {on: staging}}}\n"
        )
        self._run("init")
        self._run("host", "register", "staging")

    @property
    def _command(self) -> list[str]:
        return [str(Path(sys.executable).with_name("backupctl"))]

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "BACKUPCTL_CONFIG": str(self.work / "backupctl.yaml"),
            "XDG_CACHE_HOME": str(self.work / "cache"),
            "PYTHONDONTWRITEBYTECODE": "",  # an installed program has its byte code
        }

    def _run(self, *arguments: str) -> Measurement:
        return run([*self._command, *arguments], env=self._environment, cwd=self.work)

    def backup(self) -> Measurement:
        return self._run("run", "bench", "--quiet")

    def restore(self) -> tuple[dict[str, float], int]:
        self._run("drill", "run", "bench/full", "--quiet")
        shown = subprocess.run(
            [*self._command, "drill", "show", "bench/full", "--json"],
            env=os.environ | self._environment,
            capture_output=True,
            check=True,
        )
        drill = json.loads(shown.stdout.splitlines()[0])
        assert drill["verdict"] == "pass", drill
        tables = sum(one["name"].startswith(f"db: table {DATABASE}.") for one in drill["checks"])
        phases = {one["name"]: one["seconds"] for one in drill["phases"] if one["name"] != "clean up"}
        before = sum(seconds for name, seconds in phases.items() if name not in SHOWN_PHASES)
        return {"begin": before, **{name: phases[name] for name in SHOWN_PHASES}}, tables


def fingerprint_seconds(server: PostgresServer) -> float:
    """Reading every row of every table as a run does for the comparison: a part of our backups."""
    begun = time.perf_counter()
    with ExitStack() as stack:
        client = connect(PostgresClient(LocalHost(), "db", server.conninfo), stack, None, None)
        describe_database(client, DATABASE, None)
    return time.perf_counter() - begun


def measure(rows: int, days: int, names: Sequence[str], directory: Path) -> tuple[int, float, list[Found]]:
    """The database's bytes, `fingerprint_seconds`, and what was found of each program."""
    programs = postgres_directory()
    assert programs is not None, "PostgreSQL is not installed"
    directory.chmod(0o755)  # a server without privileges reaches its archive below
    with postgres_server(programs, initdb=["--data-checksums"], archive_mode="on", max_wal_size="2GB") as server:
        server.sql("ALTER SYSTEM SET archive_command = 'true'")
        server.sql("SELECT pg_reload_conf()")
        size = fill(server, rows)
        chosen = [PROGRAMS[name](server, directory) for name in names]
        found = [Found(one.name) for one in chosen]
        for one in chosen:
            one.prepare()
        for day in range(days + 1):
            rows = a_day(server, rows, day) if day else rows
            for one, facts in zip(chosen, found, strict=True):
                facts.backups.append(one.backup())
                facts.log = one.log_bytes()
                facts.stored.append(stored_bytes(one.repository) - facts.log)
                if day == 0:
                    facts.restore, facts.tables = one.restore()
                said = (
                    f"day {day}: {one.name}: {facts.backups[-1].wall_seconds:.1f} s, {facts.stored[-1] / MIB:.1f} MiB"
                )
                print(said, facts.restore if day == 0 else "", file=sys.stderr, flush=True)
        return size, fingerprint_seconds(server), found


def tables(found: Sequence[Found]) -> str:
    """By phase with ratios to the other two; and the week."""
    others = [next((one for one in found if one.name == name), None) for name in (PgDump.name, PgBackRest.name)]

    def against(one: Found, value: Callable[[Found], float]) -> str:
        return " | ".join(f"{value(one) / value(other):.2f}" if other else "" for other in others)

    head = "| | s | CPU s | / pg_dump | / pgBackRest |\n|---|--:|--:|--:|--:|"
    lines = ["First backup:", "", head]
    for one in found:
        first = one.backups[0]
        seconds = f"{first.wall_seconds:.1f} | {first.cpu_seconds:.1f}"
        lines.append(f"| {one.name} | {seconds} | {against(one, lambda each: each.backups[0].wall_seconds)} |")
    lines += ["", "Restore until a server answers, then the comparison:", ""]
    lines += ["| | by phase | restored s | / pg_restore | / pgBackRest | compared s | tables proven equal |"]
    lines += ["|---|---|--:|--:|--:|--:|--:|"]
    for one in found:
        phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in one.restore.items() if name != COMPARE)
        compared = f"{one.restore[COMPARE]:.1f}" if COMPARE in one.restore else "not done"
        ratios = against(one, lambda each: each.restored)
        lines.append(f"| {one.name} | {phases} | {one.restored:.1f} | {ratios} | {compared} | {one.tables} |")
    days = len(found[0].backups) - 1
    if not days:
        return "\n".join(lines)
    lines += ["", f"Space, MiB, after {days} more days with a backup each:", ""]
    lines += ["| | first | after | / pg_dump | / pgBackRest | a day's backup s | its own log archive |"]
    lines += ["|---|--:|--:|--:|--:|--:|--:|"]
    for one in found:
        sizes = f"{one.stored[0] / MIB:.1f} | {one.stored[-1] / MIB:.1f}"
        daily = statistics.median(each.wall_seconds for each in one.backups[1:])
        log = f"{one.log / MIB:.1f}" if one.log else ""
        lines.append(f"| {one.name} | {sizes} | {against(one, lambda each: each.stored[-1])} | {daily:.1f} | {log} |")
    return "\n".join(lines)


PROGRAMS: dict[str, Callable[[PostgresServer, Path], Program]] = {
    PgDump.name: PgDump,
    PgBackRest.name: PgBackRest,
    **{name: partial(Backupctl, name) for name in ("physical", "ordered", "dump")},
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.postgresql", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="quick")
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--directory", type=Path, help="where the backups are made; TMPDIR by default")
    options = parser.parse_args(arguments)
    names = options.programs.split(",")
    if PgBackRest.name in names and shutil.which(PgBackRest.name) is None:
        print("pgbackrest is not on this machine, left out", file=sys.stderr)
        names.remove(PgBackRest.name)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="backupctl-bench-", dir=options.directory) as work:
        size, seconds, found = measure(SIZES[options.size], options.days, names, Path(work))
    print(
        f"{size / MIB:.0f} MiB, size `{options.size}`; {os.cpu_count()} processors, load before {load:.1f}, after ",
        end="",
    )
    print(f"{os.getloadavg()[0]:.1f}; reading all rows for the fingerprint: {seconds:.1f} s\n")
    print(tables(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
