"""A server that archives its log by itself, into S3: what it cannot send it keeps, and a copy leads as far as the primary."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.processes import wait_until
from tests.end_to_end.site import Site
from tests.servers.databases import (
    PostgresServer,
    postgres_directory,
    postgres_server,
    private_directory,
    unprivileged_prefix,
)
from tests.servers.plugin_databases import missing
from tests.servers.rgw import Rgw

pytestmark = pytest.mark.servers


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the server's own user may read the configuration, the password and the credentials."""
    directory = private_directory()
    directory.chmod(0o711)  # a restored server runs as another user
    yield directory
    shutil.rmtree(directory)


def program() -> str:
    """Ours, for a shell of the server's user, who may not reach the interpreter that runs the tests."""
    module = "-P -m backupctl"
    plain = f"PYTHONPATH={Path(__file__).parents[2]}:{sysconfig.get_path('purelib')} /usr/bin/python3 {module}"
    for command in (f"{sys.executable} {module}", plain):
        shell = [*unprivileged_prefix(), "sh", "-c", f"{command} --version"]
        if subprocess.run(shell, capture_output=True).returncode == 0:
            return command
    pytest.skip(
        f"NOT TESTED: the server's user, who is not root, may not enter {Path(__file__).parents[2]} or runs no Python there"
    )


def owned_as(directory: Path) -> None:
    """Everything in it belongs to whom the directory belongs to: the server's user."""
    owner = directory.stat()
    for path in directory.rglob("*"):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def archiver(server: PostgresServer) -> dict[str, object]:
    found: dict[str, object] = json.loads(server.sql("SELECT row_to_json(s) FROM pg_stat_archiver s"))
    return found


def archived(server: PostgresServer, look: Callable[[dict[str, object]], bool], what: str) -> None:
    """Waits for what the archiver says; the server's log has why it does not."""
    try:
        wait_until(lambda: look(archiver(server)), what)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{(server.directory / 'log').read_text()[-4000:]}") from None


def switched(server: PostgresServer) -> str:
    return server.sql("SELECT pg_walfile_name(pg_switch_wal())")


def test_archived_into_s3_by_the_server_and_recovered_from_a_copy(
    place: Path, rgw: Rgw, new_bucket: Callable[..., str]
) -> None:
    programs = postgres_directory()
    if programs is None:
        missing("postgresql")
    site = Site.create(place / "site")
    key, secret = rgw.admin
    credentials = site.root / "s3.json"
    right = json.dumps({"access_key_id": key, "secret_access_key": secret})
    credentials.write_text(right)
    credentials.chmod(0o600)
    authority = shutil.copy(rgw.ca, site.root / "ca.pem")
    push = f"{program()} --config {site.root}/backupctl.yaml --quiet wal-push site/db %p"
    settings = {"archive_mode": "on", "archive_command": f"XDG_CACHE_HOME={place} {push}"}
    with postgres_server(programs, initdb=["--data-checksums"], **settings) as server:
        site.sources = {"db": f"{{postgresql: {{conninfo: '{server.conninfo}', method: physical, wal: archive}}}}"}
        bucket = new_bucket()
        storage = f"{{s3: {{bucket: {bucket}, endpoint: '{rgw.https}', ca_bundle: {authority}, credentials: {{file: s3.json}}}}}}"
        site.configure(storage=storage, job="copies: [vault]\n")
        main = site.root / "backupctl.yaml"
        vault = "  vault: {storage: {local: {path: vault}}, password: {file: vault.key}}\n"
        main.write_text(main.read_text().replace("hosts:\n", vault + "hosts:\n", 1))
        site.prepare()
        owned_as(place)
        server.sql("CREATE TABLE notes (n int); INSERT INTO notes VALUES (1);")
        site.run("run")
        owned_as(place)

        archived(server, lambda said: said["archived_count"] != 0, "the log up to the base backup to be archived")
        credentials.write_text(json.dumps({"access_key_id": key, "secret_access_key": "wrong"}))
        server.sql("INSERT INTO notes VALUES (2);")
        kept = switched(server)
        archived(server, lambda said: said["failed_count"] != 0, "the archiver to fail")
        assert (server.directory / "data" / "pg_wal" / kept).exists(), "a segment that was not sent must stay"
        credentials.write_text(right)
        server.sql("INSERT INTO notes VALUES (3);")
        newest = switched(server)
        archived(
            server, lambda said: str(said["last_archived_wal"] or "") >= newest, "the newest segment to be archived"
        )
        owned_as(place)
        shown = site.run("wal", "show", "site", "--json").line("log")
        assert shown["holes"] == [] and shown["segments"] >= 2
        copied = site.run("copy", "site", "--json").line("copied")
        assert (copied["copied"], copied["error"]) == ([], "") and copied["log_segments"] >= 2
        assert site.run("copy", "site", "--json").line("copied")["log_segments"] == 0

        said = site.run("check", "--read-data", "--json")
        read = [one for one in said.lines if one["type"] == "finished"]
        assert [one["verdict"] for one in read] == ["pass", "pass"] and all(
            one["log_segments_read"] >= 2 for one in read
        )
        (flipped,) = (site.root / "vault" / "backupctl" / "log").rglob(newest)
        sound = flipped.read_bytes()
        flipped.write_bytes(sound[:-50] + bytes([sound[-50] ^ 1]) + sound[-49:])
        bad = site.run("check", "vault", "--read-data", expect=4)
        assert newest in bad.text and "back up again" in bad.text and "begins a new chain" in bad.text
        flipped.write_bytes(sound)

        credentials.write_text("{}")  # the primary is out of reach
        server.sql("DELETE FROM notes;")
        back = [
            "--only",
            "db:postgres",
            "--at",
            "latest",
            "--into",
            "way",
            "--into-server",
            server.conninfo,
            "--as",
            "before",
        ]
        said = site.run("restore", "site", "--from", "vault", *back)
        assert "database postgres is on that server as before, and equal to what was restored" in said.out
        assert server.sql("SELECT array_agg(n ORDER BY n) FROM notes", "before") == "{1,2,3}"
        assert server.sql("SELECT count(*) FROM notes") == "0", "what others use was not touched"
        assert not (site.root / "way").exists()
