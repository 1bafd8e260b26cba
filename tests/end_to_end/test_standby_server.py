"""A PostgreSQL server kept warm through the real command line: built from a base backup, following the archived log."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupctl.sources.wal_format import is_segment_name
from tests.end_to_end.site import Site
from tests.servers.databases import (
    ENVIRONMENT,
    PostgresServer,
    postgres_directory,
    postgres_server,
)
from tests.servers.plugin_databases import missing

pytestmark = pytest.mark.servers
STANDBY = "standby:\n  warm: {host: local, jobs: [site], directory: warm, lag: 1h}\n"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    programs = postgres_directory()
    if programs is None:
        missing("postgresql")
    with postgres_server(programs, initdb=["--data-checksums"], wal_keep_size="1GB") as server:
        yield server


@pytest.fixture
def warm_site(open_site: Site, server: PostgresServer) -> Iterator[Site]:
    site = open_site
    site.sources["db"] = f"{{postgresql: {{conninfo: '{server.conninfo}', method: physical, wal: archive}}}}"
    site.configure(main=STANDBY)
    site.prepare()
    yield site
    site.run("standby", "stop", "warm", expect=None)


def push(site: Site, server: PostgresServer) -> str:
    """What the server's archiver would do by now; the newest segment."""
    newest = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
    log = server.directory / "data" / "pg_wal"
    for name in sorted(one.name for one in log.iterdir() if is_segment_name(one.name) and one.name <= newest):
        site.run("wal-push", "site/db", str(log / name))
    return newest


def ask(site: Site, server: PostgresServer, sql: str) -> str:
    """Of the standby's server, over its own socket; what it says, be that an error."""
    lines = Path(site.root, "warm/servers/site/db/data/postmaster.pid").read_text().splitlines()
    argv = [str(server.programs / "psql"), "-XqAt", "-h", lines[4], "-p", lines[3], "-U", "postgres", "-c", sql]
    done = subprocess.run(argv, capture_output=True, text=True, env=ENVIRONMENT, cwd="/")
    return (done.stdout + done.stderr).strip()


def test_a_server_follows_the_archived_log(warm_site: Site, server: PostgresServer) -> None:
    site = warm_site
    server.sql("CREATE TABLE notes (n int); INSERT INTO notes VALUES (1);")
    site.run("run")
    server.sql("INSERT INTO notes VALUES (2);")
    push(site, server)
    first = site.run("standby", "refresh", "warm", "--json").line("refreshed")
    (built,) = first["servers"]
    assert (built["built"], built["recovering"], built["lag_seconds"]) == (True, True, 0.0), built
    assert ask(site, server, "SELECT sum(n) FROM notes") == "3"
    assert "read-only" in ask(site, server, "INSERT INTO notes VALUES (9)")
    assert not Path(site.root, "warm/files/site/db").exists(), "what a server holds is not kept twice"

    server.sql("INSERT INTO notes VALUES (4);")
    push(site, server)
    behind = [one for one in site.run("standby", "status", "--json").lines if one["type"] == "standby"]
    assert [one["job"] for one in behind] == ["site", "site/db"]
    assert behind[1]["lag_seconds"] > 0, "what was archived since the last refresh"
    site.run("standby", "stop", "warm")
    Path(site.root, "warm/servers/site/db/local.conf").write_text("work_mem = '7MB'\n")
    again = site.run("standby", "refresh", "warm", "--json").line("refreshed")["servers"][0]
    assert (again["built"], again["lag_seconds"]) == (False, 0.0), again
    assert ask(site, server, "SELECT sum(n) FROM notes") == "7"
    assert ask(site, server, "SHOW work_mem") == "7MB"
    assert ask(site, server, "SHOW fsync") == "on"
    shown = [one for one in site.run("status", "--json", expect=None).lines if one["type"] == "standby"]
    assert [(one["state"], one["lag_seconds"]) for one in shown] == [("ok", 0.0), ("ok", 0.0)]
