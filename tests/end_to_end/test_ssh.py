"""Sources, staging and targets of restores on a machine behind SSH, and what happens when it is not who or where it was."""

from __future__ import annotations

import os
import shutil
import sqlite3

import pytest

from tests.end_to_end.processes import opened, wait_until
from tests.end_to_end.site import Said, Site
from tests.end_to_end.trees import tree
from tests.nasty_tree import build_nasty_tree
from tests.servers.databases import MariadbServer, PostgresServer, free_port
from tests.servers.sshd import Sshd, descendants

pytestmark = pytest.mark.servers


def far_hosts(site: Site, sshd: Sshd, *, host_key: str | None = None, port: int | None = None) -> None:
    """Sources and staging are on `web1` and `rehearsal`, both of them the private sshd."""
    shutil.copy(sshd.login_key, site.root / "login_key")
    pinned = sshd.fingerprint() if host_key is None else host_key
    connection = f"address: 127.0.0.1, port: {port or sshd.port}, user: {sshd.user}, key: {{file: login_key}}"
    connection += f", host_key: '{pinned}'" if pinned else ""
    site.configure()
    main = site.root / "backupctl.yaml"
    hosts = f"hosts:\n  web1: {{ssh: {{{connection}}}}}\n"
    hosts += (
        f"  rehearsal: {{ssh: {{{connection}}}, role: staging, same_machine: true, scratch: {site.root}/rehearsal}}\n"
    )
    main.write_text(main.read_text().replace("hosts:\n", hosts))
    job = site.root / "jobs" / "site.yaml"
    job.write_text(job.read_text().replace("on: staging", "on: rehearsal"))


def far_sources(site: Site) -> dict[str, str]:
    return {
        "db": f"{{sqlite: {{host: web1, path: {site.root}/input/shop.db}}}}",
        "www": f"{{files: {{host: web1, paths: [{site.root}/input/www]}}}}",
    }


def prepared(site: Site, sshd: Sshd) -> Site:
    far_hosts(site, sshd)
    site.run("init")
    site.run("host", "register", "rehearsal")
    return site


def test_a_standby_on_a_far_host(open_site: Site, sshd: Sshd) -> None:
    site = open_site
    prepared(site, sshd)
    main = site.root / "backupctl.yaml"
    main.write_text(
        main.read_text() + f"standby: {{spare: {{host: web1, jobs: [site], directory: {site.root}/spare}}}}\n"
    )
    site.run("run")
    assert site.run("standby", "refresh", "spare", "--json").line("refreshed")["files"] > 3
    www, there = site.root / "input" / "www", site.root / "spare" / "files" / "site" / "www"
    (www / "new").write_text("new\n")
    (www / "index.html").unlink()
    (there / "stranger").mkdir()
    site.run("run")
    again = site.run("standby", "refresh", "spare", "--json").line("refreshed")
    assert again["bytes"] < 100_000 and again["removed"] == 2
    assert tree(there / str(www).lstrip("/")) == tree(www)
    done = site.run("standby", "promote", "spare", "--apply", "--json").line("promoted")
    assert done["configuration"]["sources.www.files.host"] == "web1"


def test_files_and_databases_of_a_far_host_are_backed_up_and_drilled_there(
    open_site: Site, sshd: Sshd, postgres_server: PostgresServer, mariadb_server: MariadbServer
) -> None:
    site = open_site
    postgres_server.sql("CREATE DATABASE far;")
    postgres_server.sql(
        "create table notes as select n as id, 'note ' || n as text from generate_series(1, 500) n", "far"
    )
    mariadb_server.sql("CREATE DATABASE distant; CREATE TABLE distant.notes (id INT PRIMARY KEY);")
    mariadb_server.sql("INSERT INTO notes SELECT seq FROM seq_1_to_500;", "distant")
    try:
        site.sources = far_sources(site) | {
            "far": f"{{postgresql: {{host: web1, conninfo: '{postgres_server.conninfo}', databases: [far]}}}}",
            "distant": f"{{mariadb: {{host: web1, socket: {mariadb_server.socket}, user: root, databases: [distant]}}}}",
        }
        prepared(site, sshd)
        assert site.run("run", "--json").line("finished")["state"] == "complete"
        drill = site.run("drill", "run", "--json").line("finished")
        assert (drill["verdict"], drill["failed_checks"], drill["cleaned_up"]) == ("pass", 0, True)
        assert drill["level"] >= 4
        assert [one.name for one in (site.root / "rehearsal").iterdir()] == ["backupctl-staging.json"]
        names = [one["name"] for one in site.run("drill", "show", "site/full", "--json").line("drill")["checks"]]
        for table in ("public.notes", "distant.notes", "shop.db.orders"):
            assert any(name.endswith(table) for name in names), names
    finally:
        postgres_server.sql("DROP DATABASE far;")
        mariadb_server.sql("DROP DATABASE distant;")


def test_a_restore_onto_a_far_host_is_byte_for_byte(open_site: Site, sshd: Sshd) -> None:
    site = open_site
    shutil.rmtree(site.root / "input" / "www")
    (site.root / "input" / "www").mkdir()
    build_nasty_tree(site.root / "input" / "www")
    site.sources = far_sources(site)
    prepared(site, sshd).run("run")
    said = site.run("restore", "--into", f"web1:{site.root}/back")
    assert f"into web1:{site.root}/back" in said.out
    assert tree(site.root / "back" / "www" / str((site.root / "input" / "www").relative_to("/"))) == tree(
        site.root / "input" / "www"
    )
    restored = sqlite3.connect(site.root / "back" / "db" / "shop.db")
    assert restored.execute("select count(*) from orders").fetchone() == (2000,)
    restored.close()
    assert "is not empty" in site.run("restore", "--into", f"web1:{site.root}/back", expect=2).err
    assert "must be absolute" in site.run("restore", "--into", "web1:back", expect=2).err
    assert "known hosts" in site.run("restore", "--into", "web9:/srv/back", expect=10).err


def problem_of(said: Said, source: str) -> str:
    """The first thing that went wrong with the source."""
    return next(str(line["message"]) for line in said.lines if line["type"] == "problem" and line["source"] == source)


def test_a_host_key_that_is_unknown_or_has_changed_is_refused(open_site: Site, sshd: Sshd) -> None:
    site = open_site
    site.sources = far_sources(site)
    prepared(site, sshd).run("run")
    far_hosts(site, sshd, host_key="")
    said = site.run("run", "--json", expect=1)
    assert sshd.fingerprint() in problem_of(said, "www") or sshd.fingerprint("rsa") in problem_of(said, "www")
    unknown = site.run("host", "check", "web1", expect=14)
    assert "SHA256:" in unknown.err
    far_hosts(site, sshd, host_key="SHA256:" + "A" * 43)
    said = site.run("run", "--json", expect=1)
    assert "SHA256:" + "A" * 43 in said.out
    assert site.run("drill", "run", expect=5).code == 5
    assert "SHA256:" in site.run("restore", "--into", f"web1:{site.root}/back", expect=14).err
    assert not (site.root / "back").exists()
    statuses = [line["status"] for line in site.run("snapshots", "--json").lines if line["type"] == "snapshot"]
    assert statuses == ["complete"]
    far_hosts(site, sshd)
    site.run("run")
    site.run("drill", "run")


def test_a_connection_that_is_cut_while_a_file_is_read_never_makes_a_complete_run(open_site: Site, sshd: Sshd) -> None:
    site = open_site
    big = site.root / "input" / "www" / "big.bin"
    big.write_bytes(os.urandom(1 << 20) * 256)
    site.sources = far_sources(site) | {"near": "{sqlite: {path: ../input/shop.db}}"}
    prepared(site, sshd)
    running = site.start("run", "--json")
    assert sshd._server is not None
    server = sshd._server.pid
    wait_until(lambda: any(opened(pid, big) for pid in descendants(server)), "the far host to read the file")
    sshd.cut_connections()
    said = site.ended(running, expect=3)
    assert said.line("finished")["state"] == "incomplete"
    assert "web1" in problem_of(said, "www")
    statuses = [line["status"] for line in site.run("snapshots", "--json").lines if line["type"] == "snapshot"]
    assert statuses == ["incomplete"]
    assert site.objects("locks") == []
    big.unlink()
    assert site.run("run", "--json").line("finished")["state"] == "complete"
    site.run("check", "--read-data")


def test_a_host_that_is_down_or_refuses_the_login(open_site: Site, sshd: Sshd) -> None:
    site = open_site
    site.sources = far_sources(site) | {"near": "{files: {paths: [../input/www]}}"}
    prepared(site, sshd).run("run")
    far_hosts(site, sshd, port=free_port())
    said = site.run("run", "--json", expect=3)
    for source in ("db", "www"):
        assert "web1" in problem_of(said, source), said.out
    assert site.run("host", "check", "web1", expect=14).err
    assert site.run("drill", "run", expect=5).err
    far_hosts(site, sshd)
    shutil.copy(sshd.other_key, site.root / "login_key")
    said = site.run("run", "--json", expect=3)
    assert "refuse" in problem_of(said, "www")
    assert site.run("host", "check", "web1", expect=12).err
    assert (site.root / "login_key").read_text() not in said.text
