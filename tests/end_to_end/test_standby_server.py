"""A PostgreSQL server kept warm through the real command line: built from a base backup, following the archived log."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backupctl.sources.wal_format import is_segment_name
from tests.end_to_end.site import PROGRAM, Site
from tests.servers.databases import (
    ENVIRONMENT,
    PostgresServer,
    postgres_directory,
    postgres_server,
)
from tests.servers.plugin_databases import missing
from tests.soak import rounds

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
    for file in site.root.glob(
        "*/servers/site/db/data/postmaster.pid"
    ):  # a promoted one is stopped by no command of ours
        pid = int(file.read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)  # at once: it would wait for its archiver
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.05)


def push(site: Site, server: PostgresServer) -> str:
    """What the server's archiver would do by now; the newest segment."""
    newest = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
    log = server.directory / "data" / "pg_wal"
    for name in sorted(one.name for one in log.iterdir() if is_segment_name(one.name) and one.name <= newest):
        site.run("wal-push", "site/db", str(log / name))
    return newest


def ask(site: Site, server: PostgresServer, sql: str, *, standby: str = "warm") -> str:
    """Of the standby's server, over its own socket; what it says, be that an error."""
    lines = Path(site.root, standby, "servers/site/db/data/postmaster.pid").read_text().splitlines()
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
    live = [one for one in site.run("standby", "status", "--live", "--json").lines if one["type"] == "standby"]
    assert live[1]["lag_seconds"] == pytest.approx(behind[1]["lag_seconds"]), "brought by nobody since"
    site.run("standby", "stop", "warm")
    assert "does not run" in site.run("standby", "status", "--live").text
    Path(site.root, "warm/servers/site/db/local.conf").write_text("work_mem = '7MB'\n")
    again = site.run("standby", "refresh", "warm", "--json").line("refreshed")["servers"][0]
    assert (again["built"], again["lag_seconds"]) == (False, 0.0), again
    assert ask(site, server, "SELECT sum(n) FROM notes") == "7"
    assert ask(site, server, "SHOW work_mem") == "7MB"
    assert ask(site, server, "SHOW fsync") == "on"
    shown = [one for one in site.run("status", "--json", expect=None).lines if one["type"] == "standby"]
    assert [(one["state"], one["lag_seconds"]) for one in shown] == [("ok", 0.0), ("ok", 0.0)]


def test_it_is_promoted_and_the_old_primary_is_fenced_off(warm_site: Site, server: PostgresServer) -> None:
    site = warm_site
    server.sql("CREATE TABLE orders (n int); INSERT INTO orders VALUES (1);")
    site.run("run")
    push(site, server)
    site.run("standby", "refresh", "warm")
    server.sql("INSERT INTO orders VALUES (2);")
    (site.root / "input" / "www" / "late").write_text("late\n")
    site.run("run", "-q")
    last = push(site, server)  # after the last refresh: what is stored is not lost

    plan = site.run("standby", "promote", "warm", "--json").line("promotion")
    assert (plan["epoch"], plan["problems"], plan["fenced"]) == (2, [], False)
    assert ask(site, server, "SELECT pg_is_in_recovery()") == "t", "a plan changes nothing"
    done = site.run("standby", "promote", "warm", "--apply", "--json").line("promoted")
    assert (done["epoch"], done["timelines"]) == (2, {"db": 2})
    assert ask(site, server, "INSERT INTO orders VALUES (3); SELECT sum(n) FROM orders") == "6"
    live = site.root / "warm" / "files" / "site" / "www" / str(site.root / "input" / "www").lstrip("/")
    assert (live / "late").read_text() == "late\n"

    # the old primary goes on as if nothing had happened
    server.sql("INSERT INTO orders VALUES (100);")
    diverged = server.directory / "data" / "pg_wal" / server.sql("SELECT pg_walfile_name(pg_switch_wal())")
    assert "epoch 2" in site.run("wal-push", "site/db", str(diverged), expect=1).text
    before = site.run("snapshots", "site", "--json").lines
    assert "another primary" in site.run("run", expect=1).text
    assert len(site.run("snapshots", "site", "--json").lines) == len(before)
    assert "another primary" in site.run("job", "check", "site", expect=None).text
    (live / "late").write_text("changed by users\n")
    assert "what is there is live" in site.run("standby", "refresh", "warm", expect=5).text
    assert "what is there is live" in site.run("standby", "stop", "warm", expect=5).text
    assert (live / "late").read_text() == "changed by users\n"
    assert site.run("standby", "status", "--json").line("standby")["state"] == "promoted"

    # the configuration that was said
    words = done["configuration"]
    site.sources = {
        "db": f"{{postgresql: {{conninfo: '{words['sources.db.postgresql.conninfo']}', method: physical, wal: archive}}}}",
        "www": f"{{files: {{paths: ['{words['sources.www.files.paths']}']}}}}",
    }
    site.configure(main=STANDBY, job="epoch: 2\n")
    site.run("run", "--quiet")
    said = site.run("wal-push", "site/db", str(diverged), expect=1).text
    assert "timeline 1 ended at" in said, "an epoch that was only edited does not let the old log in"
    site.run(
        "wal-push", "site/db", str(server.directory / "data" / "pg_wal" / last)
    )  # what both have in common is fine
    log = site.root / "warm" / "servers" / "site" / "db" / "data" / "pg_wal"
    site.run("wal-push", "site/db", str(log / "00000002.history"))
    site.run("standby", "promote", "warm", "--apply")  # again: nothing more happens, no epoch begins
    site.run("run", "--quiet")
    site.run("check", "--read-data")
    site.configure(main=STANDBY, job="epoch: 7\n")
    assert "never began" in site.run("run", expect=1).text

    # and back: the old machine is built anew from the new primary's backups
    site.configure(main=STANDBY.replace("warm", "back"), job="epoch: 2\n")
    site.run("standby", "refresh", "back")
    ask(site, server, "INSERT INTO orders VALUES (4)")
    newest = ask(site, server, "SELECT pg_walfile_name(pg_switch_wal())")
    for name in sorted(
        one.name for one in log.iterdir() if is_segment_name(one.name) and "00000002" <= one.name <= newest
    ):
        site.run("wal-push", "site/db", str(log / name))
    back = site.run("standby", "promote", "back", "--apply", "--json").line("promoted")
    assert (back["epoch"], back["timelines"]) == (3, {"db": 3})
    assert ask(site, server, "SELECT sum(n) FROM orders", standby="back") == "10"
    assert "epoch 3" in site.run("run", expect=1).text


def test_a_promotion_is_rehearsed(open_site: Site, server: PostgresServer) -> None:
    site = open_site
    site.sources["db"] = f"{{postgresql: {{conninfo: '{server.conninfo}', method: physical, wal: archive}}}}"
    site.configure(drill=", scenario: standby-promotion")
    site.prepare()
    server.sql("CREATE TABLE parts (n int); INSERT INTO parts VALUES (1);")
    site.run("run")
    server.sql("INSERT INTO parts VALUES (2);")
    (site.root / "input" / "www" / "later").write_text("later\n")
    push(site, server)
    site.run("run")
    server.sql("INSERT INTO parts VALUES (3);")
    push(site, server)
    objects = sorted(site.objects("backupctl"))

    done = site.run("drill", "run", "--json", expect=None).line("finished")
    shown = site.run("drill", "show", "site/full", "--json").line("drill")
    assert (done["verdict"], done["failed_checks"], done["cleaned_up"]) == ("pass", 0, True), shown
    checks = {one["name"]: one for one in shown["checks"]}
    assert checks["db: table postgres.public.parts"]["actual"].startswith("2 rows"), (
        "the tested snapshot's, not the log's end"
    )
    assert checks["log of the old primary of db"]["actual"].startswith("job site has had another primary")
    assert checks["backups of the new primary"]["ok"]
    assert {"fence and promote", "back up the new primary"} <= {one["name"] for one in shown["phases"]}
    left = sorted(site.objects("backupctl"))
    assert {one.parent.name for one in set(left) - set(objects)} == {"drill"}, (
        "nothing but the drill's own record was stored"
    )
    site.run("run", "--quiet")  # no fence stands

    site.run("drill", "run", expect=4)  # the log between the last two backups is not archived
    assert "the log ends at" in site.run("drill", "show", "site/full").out


@contextmanager
def relay(site: Site) -> Iterator[Path]:
    """A program that the server's own user may run wherever our Python lies: what it is asked is done by the user of the test."""
    directory = site.root / "relay"
    directory.mkdir()
    directory.chmod(0o777)
    script = directory / "program"
    script.write_text(
        f'#!/bin/sh\nat={directory}/$$\nprintf "%s\\n" "$PWD" "$@" > $at.new\nmv $at.new $at.ask\n'
        f"while [ ! -f $at.done ]; do [ -f {directory}/open ] || exit 1; sleep 0.05; done\n"
        "code=$(cat $at.done); rm $at.ask $at.done; exit $code\n"
    )
    script.chmod(0o755)
    (directory / "open").touch()
    ended = threading.Event()

    def serve() -> None:
        answered: set[str] = set()
        while not ended.wait(0.05):
            for asked in directory.glob("*.ask"):
                if asked.name not in answered:
                    answered.add(asked.name)
                    where, *words = asked.read_text().splitlines()
                    argv = [*PROGRAM, "--config", str(site.root / "backupctl.yaml"), *words]
                    code = subprocess.run(argv, cwd=where, capture_output=True).returncode
                    fetched = Path(where, words[-1])
                    if "wal-fetch" in words and fetched.is_file():
                        fetched.chmod(0o666)  # it would be the server's own
                    done = asked.with_suffix(".code")
                    done.write_text(str(code))
                    done.rename(asked.with_suffix(".done"))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield script
    finally:
        (directory / "open").unlink()
        ended.set()
        thread.join()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.skipif(not rounds(0, 1), reason="starts our program for each segment: with BACKUPCTL_SOAK=1")
def test_a_server_that_fetches_and_archives_by_itself(warm_site: Site, server: PostgresServer) -> None:
    site = warm_site
    server.sql("CREATE TABLE own (n int); INSERT INTO own VALUES (1);")
    site.run("run")
    push(site, server)
    site.configure(main=STANDBY.replace("lag: 1h", "lag: 1h, program: ['false']"))
    assert "cannot fetch the archived log" in site.run("standby", "refresh", "warm", expect=5).text
    with relay(site) as program:
        main = STANDBY.replace("lag: 1h", f"lag: 1h, program: ['{program}']")
        site.configure(main=main)
        site.run("standby", "refresh", "warm")
        server.sql("INSERT INTO own VALUES (2);")
        push(site, server)
        wait_until(lambda: ask(site, server, "SELECT sum(n) FROM own") == "3")  # nobody refreshed
        site.run("standby", "promote", "warm", "--apply")
        site.configure(main=main, job="epoch: 2\n")
        ask(site, server, "INSERT INTO own VALUES (3); SELECT pg_switch_wal()")
        archived = "SELECT last_archived_wal LIKE '00000002%' FROM pg_stat_archiver"
        wait_until(lambda: ask(site, server, archived) == "t")
