"""A connection that is cut at any byte of a run: what is stored afterwards is whole, or not there."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.site import Site
from tests.servers.databases import PostgresServer, run
from tests.servers.relay import relay
from tests.servers.sshd import Sshd
from tests.soak import rounds

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
def test_what_a_cut_run_stored_is_whole_or_absent(
    open_site: Site, sshd: Sshd, postgres_server: PostgresServer, transport: str
) -> None:
    site, www, drawn = open_site, open_site.root / "input" / "www", random.Random(transport)
    (www / "big.bin").write_bytes(drawn.randbytes(2_000_000))
    for number in range(300):
        (www / f"small {number}").write_bytes(drawn.randbytes(number))
    content = {one.relative_to(www): one.read_bytes() for one in www.rglob("*") if one.is_file()}
    postgres_server.sql("CREATE DATABASE cut;")
    postgres_server.sql(
        "create table notes as select n as id, md5(n::text) as t from generate_series(1, 40000) n", "cut"
    )
    site.sources = {
        "a": f"{{postgresql: {{host: web1, conninfo: '{postgres_server.conninfo}', databases: [cut]}}}}",
        "b": f"{{files: {{host: web1, paths: [{www}]}}}}",
    }
    shutil.copy(sshd.login_key, site.root / "login_key")
    site.configure()
    plain = (site.root / "backupctl.yaml").read_text()

    def through(port: int) -> None:
        connection = f"address: 127.0.0.1, port: {port}, user: {sshd.user}, key: {{file: login_key}}"
        connection += f", host_key: '{sshd.fingerprint()}', transport: {transport}"
        new = plain.replace("hosts:\n", f"hosts:\n  web1: {{ssh: {{{connection}}}}}\n")
        (site.root / "backupctl.yaml").write_text(new)

    try:
        with relay(sshd.port) as whole:
            through(whole.port)
            site.prepare()
            assert site.run("run", "--json").line("finished")["state"] == "complete"
            total = (1 << 60) - whole.left
        for number in range(rounds(1, 60)):
            for one in content:
                os.utime(www / one)  # or it would not be read again
            with relay(sshd.port, drawn.randrange(5_000, total)) as cutting:
                through(cutting.port)
                finished = site.run("run", "--json", expect=(1, 3, 14)).line("finished")
                assert cutting.left <= 0
            assert finished["state"] in ("incomplete", "failed")
            if finished["state"] == "incomplete":
                whole_or_absent(site, finished["snapshot"], content, postgres_server, site.root / f"back {number}")
    finally:
        postgres_server.sql("DROP DATABASE cut;")


def whole_or_absent(site: Site, snapshot: str, content: dict[Path, bytes], server: PostgresServer, back: Path) -> None:
    site.run("restore", "site", "--at", snapshot, "--into", str(back), expect=(0, 3))
    www = back / "b" / str(site.root / "input" / "www").lstrip("/")
    for one in (path for path in www.rglob("*") if path.is_file()):
        assert one.read_bytes() == content[one.relative_to(www)], one
    for dump in back.rglob("*.dump"):
        text = run([str(server.programs / "pg_restore"), "-f", "-", str(dump)])
        rows = re.search(r"^COPY public.notes .*?\n(.*?)^\\\.$", text, re.MULTILINE | re.DOTALL)
        assert rows is not None
        assert len(rows[1].splitlines()) == 40_000
