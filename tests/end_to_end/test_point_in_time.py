"""The way of an archived log through the real command line: pushed, shown, followed in a drill, and a hole that is told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from backupctl.sources.wal_format import is_segment_name
from tests.end_to_end.processes import gone, wait_until
from tests.end_to_end.site import Site
from tests.servers.databases import PostgresServer, postgres_directory, postgres_server
from tests.servers.plugin_databases import missing

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    programs = postgres_directory()
    if programs is None:
        missing("postgresql")
    with postgres_server(programs, initdb=["--data-checksums"], wal_keep_size="1GB") as server:
        yield server


def push(site: Site, server: PostgresServer) -> str:
    """What the server's archiver would do by now; the newest segment."""
    newest = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
    log = server.directory / "data" / "pg_wal"
    for name in sorted(one.name for one in log.iterdir() if is_segment_name(one.name) and one.name <= newest):
        site.run("wal-push", "site/db", str(log / name))
    return newest


def test_an_older_base_backup_and_the_log_behind_it(open_site: Site, server: PostgresServer) -> None:
    site = open_site
    site.sources = {
        "db": f"{{postgresql: {{conninfo: '{server.conninfo}', method: physical, wal: archive, heartbeat: postgres}}}}"
    }
    site.configure(drill=", scenario: point-in-time")
    site.prepare()
    server.sql("CREATE TABLE notes (n int); INSERT INTO notes VALUES (1);")
    server.sql("CREATE TABLE backupctl_heartbeat (id int PRIMARY KEY, at timestamptz NOT NULL)")
    site.run("heartbeat", "site/db")
    server.sql("CREATE TABLE goods AS SELECT n FROM generate_series(1, 1500) n;")
    site.run("run")
    site.configure(drill=", scenario: destructive-statement")
    site.run("drill", "run")
    shown = site.run("drill", "show", "site/full").out
    assert "the statement is found in the log: in transaction" in shown and "find the statement" in shown, shown
    probe = "{sql: {query: 'select max(n) from notes', equals: 4}}"
    site.configure(drill=f", scenario: point-in-time, probes: [{probe}]")
    site.run("drill", "run", expect=5)
    assert "no older base backup" in site.run("drill", "show", "site/full").out
    between = push(site, server)
    server.sql("INSERT INTO notes VALUES (2);")
    site.run("run")
    server.sql("INSERT INTO notes VALUES (3); DELETE FROM goods; INSERT INTO notes VALUES (4);")
    beat = site.run("heartbeat", "site", "--json").line("heartbeat")["at"]
    push(site, server)

    shown = site.run("wal", "show", "site", "--json").line("log")
    assert shown["segments"] >= 1 and shown["holes"] == [] and shown["until"] > shown["since"]
    status = site.run("status", "--json", expect=None).line("status")
    assert status["state"] == "ok" and any("recoverable up to" in fact for fact in status["facts"]), status
    assert not any("recoverable" in note for note in status["notes"]), (
        "nothing to look at: monitoring would stay yellow"
    )

    said = site.run("drill", "run", "--json")
    done = said.line("finished")
    assert (done["verdict"], done["failed_checks"], done["cleaned_up"]) == ("pass", 0, True), said.out
    drill = site.run("drill", "show", "site/full", "--json").line("drill")
    checks = {one["name"]: one for one in drill["checks"]}
    proven = checks["db: recovery to the end of the log"]["detail"].rpartition("proven present up to ")[2]
    assert proven == shown["until"], "the last commit in the archive, replayed"
    assert drill["facts"]["measures"]["heartbeat"] == beat, "the row that was written last has come back"
    lost = datetime.fromisoformat(drill["declared"]) - datetime.fromisoformat(beat)
    assert drill["rpo_seconds"] == pytest.approx(lost.total_seconds(), abs=1), "counted from there"
    assert [one["actual"] for name, one in checks.items() if name.startswith("sql: ")] == ["4"], (
        "probes are asked at the end"
    )
    assert checks["db: table postgres.public.notes"]["level"] == 4
    assert checks["db: table postgres.public.notes"]["actual"].startswith("2 rows")
    planned = site.run(
        "restore", "site", "--only", "db:postgres", "--start-database", "--at", "latest", "--into", "pg", "--plan"
    )
    assert "rolled forward to latest" in planned.text

    searched = site.run("wal", "find", "site", "--json")
    loss = searched.line("loss")
    assert loss["what"].startswith("deleted 1,500 rows of file "), searched.out
    assert searched.line("searched")["losses"] == 1
    point = ("--only", "db:postgres", "--start-database", "--at", loss["at"], "--into", "before", "--json")
    back = site.run("restore", "site", *point).line("restored")
    try:
        asked = [*back["connect"], "-XqAtc", "SELECT (SELECT count(*) FROM goods), (SELECT max(n) FROM notes)"]
        assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split() == ["1500|3"]
        name = [
            *back["connect"],
            "-XqAtc",
            f"SELECT pg_filenode_relation({loss['files'][0][0]}, {loss['files'][0][2]})",
        ]
        assert subprocess.run(name, capture_output=True, text=True, check=True).stdout.split() == ["goods"]
    finally:
        os.kill(back["pid"], signal.SIGTERM)
    wait_until(lambda: gone(back["pid"]), "the server to end")
    for directory in back["remove"]:
        shutil.rmtree(directory)
    assert "nothing was dropped" in site.run("wal", "find", "site", "--rows", "1501").text

    (segment,) = Path(site.root, "repository", "backupctl", "log").rglob(between)
    segment.unlink()
    assert "HOLE" in site.run("wal", "show", "site", expect=3).out
    site.run("drill", "run", expect=4)
    assert "does not reach" in site.run("drill", "show", "site/full").out
