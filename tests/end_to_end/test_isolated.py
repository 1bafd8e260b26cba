"""A staging host that must not reach production, and machines in namespaces that it reaches all the same."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.site import Site
from tests.servers.machines import Machine, Machines, machines_or_skip

LISTEN = """
import socket, sys
with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as listening:
    print("listens", flush=True)
    sys.stdin.read()
"""
DATABASE, STORE = 5433, 8443


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    machines_or_skip()
    with Machines(tmp_path_factory.mktemp("network") / "machines") as machines:
        machines.start("staging1")
        machines.start("db1")
        yield machines


@pytest.fixture
def site(tmp_path: Path, machines: Machines) -> Site:
    staging, db1 = machines.all["staging1"], machines.all["db1"]
    site = Site.create(tmp_path)
    site.before = tuple(machines.before())
    staging.run("mkdir", "-p", "/srv/staging")
    site.configure()
    main, job = site.root / "backupctl.yaml", site.root / "jobs" / "site.yaml"
    (site.root / "login_key").write_bytes(machines.key.read_bytes())
    (site.root / "login_key").chmod(0o600)
    (site.root / "vault.key").write_text("of another repository\n")
    argv = ["ssh-keygen", "-lf", "-"]
    public = staging.read("/etc/ssh/ssh_host_ed25519_key.pub")
    pinned = subprocess.run(argv, input=public, check=True, capture_output=True, text=True).stdout.split()[1]
    login = f"address: {staging.address}, user: root, host_key: '{pinned}', key: {{file: login_key}}"
    vault = f"{{s3: {{bucket: vault, endpoint: 'https://{db1.address}:{STORE}', credentials: {{file: vault.key}}}}}}"
    text = main.read_text().replace(
        "hosts:\n", f"hosts:\n  rehearsal: {{ssh: {{{login}}}, role: staging, isolated: true, scratch: /srv/staging}}\n"
    )
    main.write_text(
        text.replace(
            "repositories:\n", f"repositories:\n  vault: {{storage: {vault}, password: {{file: vault.key}}}}\n"
        )
    )
    job.write_text(job.read_text().replace("on: staging", "on: rehearsal"))
    (site.root / "jobs" / "other.yaml").write_text(
        "job: other\nrepository: main\nobjectives: {rpo: 24h, rto: 2h}\n"
        f"sources:\n  far: {{postgresql: {{conninfo: 'host={db1.address} port={DATABASE}'}}}}\n"
    )
    site.run("init", "main")
    site.run("host", "register", "rehearsal")
    site.run("run", "site")
    return site


@contextmanager
def listening(machine: Machine, port: int) -> Iterator[None]:
    enter = ["nsenter", "-t", str(machine.pid), "-n", "--", "python3", "-c", LISTEN, str(port)]
    with subprocess.Popen(enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as listener:
        assert listener.stdout is not None and listener.stdin is not None
        assert listener.stdout.readline() == b"listens\n"
        yield
        listener.stdin.close()


def test_a_database_and_a_store_that_it_reaches_are_refused(site: Site, machines: Machines) -> None:
    db1 = machines.all["db1"]
    for port, what in ((DATABASE, "source other/far"), (STORE, "repository vault")):
        with listening(db1, port):
            said = site.run("drill", "run", expect=5).text
        assert f"staging host rehearsal reaches production: {what} ({db1.address}:{port})" in said
    site.run("drill", "run")
    shown = site.run("drill", "show", "site/full").out
    assert "network of rehearsal: no connection came through to any of 2 addresses of production" in shown
