"""A MariaDB server kept warm through the real command line: built from a physical backup, following the stored binary logs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.processes import gone, wait_until, words_of
from tests.end_to_end.site import Site
from tests.end_to_end.test_ssh import far_hosts
from tests.servers.databases import MariadbServer, mariadb_programs, mariadb_server
from tests.servers.plugin_databases import missing
from tests.servers.sshd import Sshd

pytestmark = pytest.mark.servers
STANDBY = "standby:\n  warm: {host: local, jobs: [site, logs], directory: warm, lag: 1h}\n"
SERVER = "warm/servers/site/db"


@pytest.fixture
def server() -> Iterator[MariadbServer]:
    if not mariadb_programs():
        missing("mariadb")
    with mariadb_server("--log-bin=bin", "--server-id=7", "--binlog-format=STATEMENT") as server:
        yield server


@pytest.fixture
def warm_site(open_site: Site, server: MariadbServer) -> Iterator[Site]:
    site = open_site
    site.sources = {"db": f"{{mariadb: {{socket: {server.socket}, user: root, method: physical}}}}"}
    site.configure(main=STANDBY)
    logs_of(site, str(server.socket))
    site.prepare()
    yield site
    for file in site.root.glob("*/servers/site/db/pid"):  # a promoted one is stopped by no command of ours
        pid = int(file.read_text())
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: gone(pid), "the standby's server to end")


def logs_of(site: Site, socket: str, more: str = "") -> None:
    """The job that stores the binary logs."""
    (site.root / "jobs" / "logs.yaml").write_text(
        "job: logs\nclass: high\nowner: web team\nrepository: main\nobjectives: {rpo: 1h, rto: 2h}\n"
        f"sources:\n  binlog: {{mariadb: {{socket: {socket}, user: root, method: binlog}}}}\n{more}"
    )


def known(site: Site, standby: str = "warm") -> dict[str, Any]:
    return dict(json.loads(Path(site.root, f"{SERVER.replace('warm', standby)}.json").read_text()))


def ask(site: Site, sql: str, *, user: str = "reader", standby: str = "warm") -> str:
    """Of the standby's server, by one of the source's own accounts; what it says, be that an error."""
    argv = ["mariadb", "--no-defaults", "-S", known(site, standby)["connection"]["socket"], "-u", user, "-Nse", sql]
    done = subprocess.run(argv, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()


def clients(site: Site) -> list[int]:
    """What replays into the standby's server."""
    option = f"--socket={known(site)['connection']['socket']}"
    running = [int(one.name) for one in Path("/proc").glob("[0-9]*")]
    return [pid for pid in running if {option, "--skip-reconnect"} <= set(words_of(pid))]


def refresh(site: Site, standby: str = "warm") -> dict[str, Any]:
    done = site.run("standby", "refresh", standby, "--json").lines
    (state,) = next(one for one in done if one["type"] == "refreshed" and one["job"] == "site")["servers"]
    return dict(state)


def test_a_server_follows_the_binary_logs_and_is_promoted(warm_site: Site, server: MariadbServer) -> None:
    site = warm_site
    server.sql(
        "CREATE DATABASE shop; CREATE TABLE shop.orders (n INT) ENGINE=InnoDB; INSERT INTO shop.orders VALUES (1);"
        "CREATE USER reader@localhost; GRANT ALL ON shop.* TO reader@localhost;"
    )
    site.run("run", "site")
    server.sql("INSERT INTO shop.orders VALUES (2);")
    site.run("run", "logs")
    state = refresh(site)
    assert (state["built"], state["recovering"], state["lag_seconds"]) == (True, True, 0.0), state
    assert ask(site, "SELECT SUM(n) FROM shop.orders") == "3"
    assert "read-only" in ask(site, "INSERT INTO shop.orders VALUES (9)")
    assert not (site.root / "warm" / "files" / "site" / "db").exists(), "what a server holds is not kept twice"
    site.run("standby", "stop", "warm")

    # killed in the middle of a replay, with the client that replays: one transaction of three is in
    server.sql(
        "INSERT INTO shop.orders VALUES (4); INSERT INTO shop.orders SELECT 8 + SLEEP(2); CREATE TABLE shop.late (n INT);"
    )
    site.run("run", "logs")
    behind = [one for one in site.run("standby", "status", "--json").lines if one.get("job") == "site/db"]
    assert behind[0]["lag_seconds"] > 0, "what was stored since the last refresh"
    refreshing = site.start("standby", "refresh", "warm")
    wait_until(lambda: ask(site, "SELECT SUM(n) FROM shop.orders") == "7", "the first transaction to be replayed")
    assert known(site)["replaying"]
    refreshing.send_signal(signal.SIGKILL)
    refreshing.wait()
    for client in clients(site):
        with contextlib.suppress(ProcessLookupError):  # on this machine it ends with us
            os.kill(client, signal.SIGKILL)
    state = refresh(site)
    assert (state["built"], state["lag_seconds"]) == (False, 0.0), state
    assert ask(site, "SELECT GROUP_CONCAT(n ORDER BY n) FROM shop.orders") == "1,2,4,8"
    assert ask(site, "SELECT COUNT(*) FROM shop.late") == "0"
    assert not Path(site.root, SERVER, "replay").exists()

    # what nobody's log has brought, and a server that ended in a replay: it is built anew
    pid = int(Path(site.root, SERVER, "pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gone(pid), "the standby's server to end")
    file = Path(site.root, f"{SERVER}.json")
    file.write_text(json.dumps(known(site) | {"replaying": f"{pid} 1"}))
    Path(site.root, SERVER, "local.cnf").write_text("[mysqld]\nsort_buffer_size = 3M\n")
    state = refresh(site)
    assert (state["built"], state["lag_seconds"]) == (True, 0.0), state
    assert ask(site, "SELECT GROUP_CONCAT(n ORDER BY n) FROM shop.orders") == "1,2,4,8"
    assert ask(site, "SELECT @@GLOBAL.sort_buffer_size, @@GLOBAL.sync_binlog") == f"{3 << 20}\t1"

    server.sql("INSERT INTO shop.orders VALUES (16);")
    site.run("run", "logs")  # after the last refresh: what is stored is not lost
    plan = [one for one in site.run("standby", "promote", "warm", "--json").lines if one["type"] == "promotion"]
    assert [one["problems"] for one in plan] == [[], []]
    assert "read-only" in ask(site, "INSERT INTO shop.orders VALUES (9)"), "a plan changes nothing"
    done = [
        one for one in site.run("standby", "promote", "warm", "--apply", "--json").lines if one["type"] == "promoted"
    ]
    words = done[0]["configuration"]
    assert ask(site, "INSERT INTO shop.orders VALUES (32); SELECT SUM(n) FROM shop.orders") == "63"
    assert ask(site, "SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'backupctl%'", user="root") == "0"
    assert not Path(site.root, SERVER, "password").exists()
    site.run("standby", "promote", "warm", "--apply")  # again: nothing more happens
    assert "what is there is live" in site.run("standby", "refresh", "warm", expect=5).text
    for job in ("site", "logs"):
        assert "another primary" in site.run("run", job, expect=1).text

    # the configuration that was said
    site.sources = {
        "db": f"{{mariadb: {{socket: {words['sources.db.mariadb.socket']}, user: root, method: physical}}}}"
    }
    site.configure(main=STANDBY, job="epoch: 2\n")
    site.run("run", "site")

    # and back: the old machine is built anew from the new primary's backups
    site.configure(main=STANDBY.replace("warm", "back"), job="epoch: 2\n")
    logs_of(site, words["sources.db.mariadb.socket"], "epoch: 2\n")
    state = refresh(site, "back")
    assert (state["built"], state["lag_seconds"]) == (True, 0.0), state
    ask(site, "INSERT INTO shop.orders VALUES (64)")
    site.run("run", "logs")
    lines = site.run("standby", "promote", "back", "--apply", "--json").lines
    assert [one["epoch"] for one in lines if one["type"] == "promoted"] == [3, 3]
    assert ask(site, "INSERT INTO shop.orders VALUES (128); SELECT SUM(n) FROM shop.orders", standby="back") == "255"
    assert "epoch 3" in site.run("run", "logs", expect=1).text


def test_a_server_on_a_far_host_follows_and_is_promoted_though_the_connection_is_cut(
    warm_site: Site, server: MariadbServer, sshd: Sshd
) -> None:
    site = warm_site
    far_hosts(site, sshd)
    main = site.root / "backupctl.yaml"
    main.write_text(
        main.read_text()
        + STANDBY.replace("host: local", "host: web1").replace("directory: warm", f"directory: {site.root}/warm")
    )
    server.sql(
        "CREATE DATABASE shop; CREATE TABLE shop.orders (n INT) ENGINE=InnoDB; INSERT INTO shop.orders VALUES (1);"
        "CREATE USER reader@localhost; GRANT ALL ON shop.* TO reader@localhost;"
    )
    site.run("run", "site")
    server.sql("INSERT INTO shop.orders VALUES (2);")
    site.run("run", "logs")
    state = refresh(site)
    assert (state["built"], state["recovering"], state["lag_seconds"]) == (True, True, 0.0), state
    sshd.cut_connections()  # the server outlives whoever started it
    assert ask(site, "SELECT SUM(n) FROM shop.orders") == "3"

    server.sql("INSERT INTO shop.orders VALUES (4); INSERT INTO shop.orders SELECT 8 + SLEEP(2);")
    site.run("run", "logs")
    refreshing = site.start("standby", "refresh", "warm")
    wait_until(lambda: ask(site, "SELECT SUM(n) FROM shop.orders") == "7", "the first transaction to be replayed")
    sshd.cut_connections()
    site.ended(refreshing, expect=14)
    state = refresh(site)
    assert (state["built"], state["lag_seconds"]) == (False, 0.0), state
    assert ask(site, "SELECT GROUP_CONCAT(n ORDER BY n) FROM shop.orders") == "1,2,4,8"
    assert site.run("standby", "status", "--live", "--json").lines

    server.sql("INSERT INTO shop.orders VALUES (16);")
    site.run("run", "logs")
    done = [
        one for one in site.run("standby", "promote", "warm", "--apply", "--json").lines if one["type"] == "promoted"
    ]
    words = done[0]["configuration"]
    assert words["sources.db.mariadb.host"] == "web1"
    assert ask(site, "INSERT INTO shop.orders VALUES (32); SELECT SUM(n) FROM shop.orders") == "63"
    assert "another primary" in site.run("run", "site", expect=1).text

    socket = words["sources.db.mariadb.socket"]
    job = site.root / "jobs" / "site.yaml"
    text = job.read_text().replace(str(server.socket), socket).replace("mariadb: {", "mariadb: {host: web1, ")
    job.write_text(text + "epoch: 2\n")
    site.run("run", "site")


def test_a_promotion_is_rehearsed(warm_site: Site, server: MariadbServer) -> None:
    site = warm_site
    site.configure(drill=", scenario: standby-promotion")
    server.sql("CREATE DATABASE parts; CREATE TABLE parts.one (n INT) ENGINE=InnoDB; INSERT INTO parts.one VALUES (1);")
    site.run("run", "site")
    server.sql("INSERT INTO parts.one VALUES (2);")
    site.run("run", "logs")
    server.sql("INSERT INTO parts.one VALUES (3); CREATE TABLE parts.two AS SELECT * FROM parts.one;")
    site.run("run", "site")
    server.sql("INSERT INTO parts.one VALUES (4);")
    site.run("drill", "run", expect=4)  # the log between the last two backups is not stored
    checks = {one["name"]: one for one in site.run("drill", "show", "site/full", "--json").line("drill")["checks"]}
    assert not checks["db: replay up to the tested snapshot"]["ok"]

    site.run("run", "logs")  # which reaches further than the tested snapshot
    objects = set(site.objects("backupctl"))
    done = site.run("drill", "run", "--json", expect=None).line("finished")
    shown = site.run("drill", "show", "site/full", "--json").line("drill")
    assert (done["verdict"], done["failed_checks"], done["cleaned_up"]) == ("pass", 0, True), shown
    checks = {one["name"]: one for one in shown["checks"]}
    assert checks["db: table parts.one"]["actual"].startswith("3 rows"), "the tested snapshot's, not the log's end"
    assert checks["db: it takes transactions"]["actual"] == "1"
    assert "account 'root'@'localhost'" in " ".join(checks)
    assert checks["backups of the new primary"]["ok"]
    assert {"fence and promote", "back up the new primary"} <= {one["name"] for one in shown["phases"]}
    left = set(site.objects("backupctl")) - objects
    assert {one.parent.name for one in left} == {"drill"}, (
        "nothing but the drill's own record was stored: no fence stands"
    )
