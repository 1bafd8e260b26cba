"""Every shipped example job, loaded with the shipped main file and really run: preflight, backup, drill.

Only places are changed: /srv becomes a temporary directory; addresses, ports and sockets become those of test servers.
The database accounts are made with the statements that docs/how-to/databases.md tells people to type.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.site import Site
from tests.servers import databases
from tests.servers import redis as redis_servers
from tests.servers.plugin_databases import missing
from tests.servers.sshd import Sshd

PROJECT = Path(__file__).parents[2]
JOBS = PROJECT / "jobs"
GUIDE = PROJECT / "docs" / "how-to" / "databases.md"
PASSWORD = "a long passphrase"


def statements(heading: str) -> str:
    """The SQL block below a heading of the guide."""
    found = re.search(rf"^#+ {re.escape(heading)}$.*?^```sql\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)
    assert found is not None, f"{GUIDE.name} has no SQL below {heading!r}"
    return found[1].replace("a long passphrase of your own", PASSWORD)


@pytest.fixture
def root() -> Iterator[Path]:
    """A place that a server with another user may pass through, unlike pytest's own."""
    root = Path(tempfile.mkdtemp(prefix="bctl-jobs-", dir="/tmp"))
    root.chmod(0o711)
    yield root
    shutil.rmtree(root)


def example(root: Path, name: str, *changes: tuple[str, str]) -> Site:
    """The shipped main file and one job below `root`, with /srv there; each of `changes` must apply."""
    (root / "jobs").mkdir()
    moved = [("/srv/", f"{root}/srv/")]
    for source, target in ((JOBS / "backupctl.yaml", root / "backupctl.yaml"), (JOBS / name, root / "jobs" / name)):
        text = source.read_text()
        for old, new in [*changes, *moved]:
            text = text.replace(old, new)
        target.write_text(text)
    together = "".join(path.read_text() for path in (root / "backupctl.yaml", root / "jobs" / name))
    assert all(new in together for _, new in changes)
    return Site(root)


def written(root: Path, *names: str) -> None:
    for name in names:
        path = root / "srv" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}\n")


def sqlite_table(path: Path, table: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path)
    with database:
        database.execute(f"create table {table}(id integer primary key, name text)")
        database.executemany(f"insert into {table}(name) values (?)", [(f"name {number}",) for number in range(500)])
    database.close()


def proven(site: Site, drill: str, level: int) -> None:
    """The job's whole way: nothing to complain about beforehand, a complete run, a drill that passes."""
    site.run("config", "validate")
    site.run("init")
    site.run("host", "register", "staging")
    job = drill.partition("/")[0]
    said = site.run("job", "check", job)
    assert "warning" not in said.text and "error" not in said.text, said.text
    assert site.run("run", job, "--json").line("finished")["state"] == "complete"
    done = site.run("drill", "run", drill, "--json", timeout=300).line("finished")
    assert (done["verdict"], done["level"], done["failed_checks"], done["cleaned_up"]) == ("pass", level, 0, True)
    assert done["checks"] >= 2
    assert [path.name for path in (site.root / "srv" / "staging").iterdir()] == ["backupctl-staging.json"]


def test_files_only(root: Path) -> None:
    site = example(root, "files-only.yaml")
    written(root, "documents/index.txt", "documents/deep/letter.txt", "documents/draft.tmp", "documents/~$letter.txt")
    proven(site, "documents/monthly", 5)
    listed = site.run("ls", "documents", "-r").out
    assert "letter.txt" in listed and "draft.tmp" not in listed and "~$" not in listed


def test_sqlite_app(root: Path) -> None:
    site = example(root, "sqlite-app.yaml")
    sqlite_table(root / "srv/inventory/inventory.db", "items")
    written(root, "inventory/uploads/photo.jpg")
    proven(site, "inventory/weekly", 5)


@pytest.mark.servers
def test_website_postgresql(root: Path) -> None:
    programs = databases.postgres_directory()
    if programs is None:
        missing("postgresql")
    with databases.postgres_server(programs, initdb=["--data-checksums"], fsync="on") as server:
        server.sql("create database site")
        server.sql(
            "create table articles(id int primary key, title text not null);"
            "insert into articles select n, 'title ' || n from generate_series(1, 1000) n;",
            "site",
        )
        server.sql(statements("PostgreSQL: once"))
        connection = ("host=/run/postgresql user=backup", f"host={server.directory} port={server.port} user=backup")
        site = example(root, "website-postgresql.yaml", connection)
        written(root, "www/index.html", "www/deep/page.html", "www/cache/page")
        proven(site, "website/monthly", 5)
        assert "cache/page" not in site.run("ls", "website", "-r").out


@pytest.mark.servers
def test_shop_mariadb(root: Path) -> None:
    if not databases.mariadb_programs():
        missing("mariadb-server")
    with databases.mariadb_server("--log-bin=bin", "--server-id=1") as server:
        server.sql("create database shop; create table shop.orders(id bigint primary key, total decimal(10,2))")
        server.sql("insert into orders select seq, seq * 1.25 from seq_1_to_1000", "shop")
        server.sql(statements("MariaDB"))
        site = example(root, "shop-mariadb.yaml", ("/run/mysqld/mysqld.sock", server.socket))
        secret = root / "shop-db.password"
        secret.touch(0o600)
        secret.write_text(PASSWORD + "\n")
        proven(site, "shop/monthly", 5)


@pytest.mark.servers
def test_cache_redis(root: Path) -> None:
    if not redis_servers.redis_programs():
        missing("redis-server")
    with redis_servers.redis_server("--save", "3600 1") as server:
        guide = re.search(r"^## Redis.*?^```text\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)
        assert guide is not None
        server.commands(guide[1].replace(">PASSPHRASE", f'">{PASSWORD}"'), *(f"SET key{n} {n}" for n in range(100)))
        site = example(root, "cache-redis.yaml", ("port: 6379", f"port: {server.port}"))
        secret = root / "sessions.password"
        secret.touch(0o600)
        secret.write_text(PASSWORD + "\n")
        proven(site, "sessions/weekly", 5)


@pytest.mark.servers
def test_remote_over_ssh(root: Path, sshd: Sshd) -> None:
    key = root / "web1.ssh-key"
    shutil.copy(sshd.login_key, key)
    site = example(
        root,
        "remote-over-ssh.yaml",
        ("address: web1.example.gov", f"address: {sshd.address}\n      port: {sshd.port}"),
        ("user: backup", f"user: {sshd.user}"),
        ("SHA256:" + "A" * 43, sshd.fingerprint()),
    )
    sqlite_table(root / "srv/wiki/wiki.db", "pages")
    written(root, "wiki/pages/front.md", "wiki/pages/deep/help.md")
    proven(site, "wiki/monthly", 4)


def test_every_shipped_job_is_run_here() -> None:
    shipped = {path.stem.replace("-", "_") for path in JOBS.glob("*.yaml")} - {"backupctl"}
    assert shipped
    assert all(callable(globals().get(f"test_{name}")) for name in shipped), shipped


def test_the_jobs_load_together(root: Path) -> None:
    """All of them beside each other, as they are shipped."""
    (root / "jobs").mkdir()
    for path in JOBS.glob("*.yaml"):
        shutil.copy(path, root / "backupctl.yaml" if path.name == "backupctl.yaml" else root / "jobs")
    shown = Site(root).run("config", "show", "--json").line("config")["config"]
    assert sorted(shown["jobs"]) == ["documents", "inventory", "sessions", "shop", "website", "wiki"]
