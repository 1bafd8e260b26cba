"""MariaDB over TLS: the server's certificate is verified, by programs of either series; a socket needs none of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import ValidationError

from backupctl.errors import SourceError
from backupctl.sources.mariadb import MariadbOptions, MariadbSource
from tests.servers import databases
from tests.servers.databases import MariadbServer
from tests.servers.plugin_databases import missing
from tests.servers.tls import certificates
from tests.sources.helpers import take

pytestmark = pytest.mark.servers


@dataclass
class Secured:
    server: MariadbServer
    directory: Path  # ca.pem, own.pem, own.key, other.pem

    def source(self, *, address: str = "localhost", bin_dir: str | None = None, **tls: str) -> MariadbSource:
        paths = {word: str(self.directory / name) for word, name in {"ca": "ca.pem", **tls}.items()}
        options = {
            "address": address,
            "port": self.server.port,
            "user": "backup",
            "databases": ["site"],
            "bin_dir": bin_dir,
        }
        return MariadbSource("db", MariadbOptions.model_validate({**options, "tls": paths}), lambda ref: b"")


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    """A server whose account `backup` may come with a certificate only."""
    if not databases.mariadb_programs():
        missing("mariadb-server")
    with certificates("localhost") as directory:
        files = {"ca": "ca.pem", "cert": "server.pem", "key": "server.key"}
        with databases.mariadb_server(*(f"--ssl-{word}={directory / name}" for word, name in files.items())) as server:
            server.sql(
                "CREATE DATABASE site; CREATE TABLE site.t (id INT PRIMARY KEY); INSERT INTO site.t VALUES (1), (2);"
            )
            server.sql("CREATE USER backup@'%' REQUIRE X509; GRANT ALL ON *.* TO backup@'%';")
            yield Secured(server, directory)


OWN = {"certificate": "own.pem", "key": "own.key"}


def test_the_same_backup_as_over_the_socket(secured: Secured) -> None:
    plain = MariadbSource(
        "db", MariadbOptions(socket=secured.server.socket, user="root", databases=["site"]), lambda ref: b""
    )
    _, expected = take(plain)
    _, encrypted = take(secured.source(**OWN))
    assert encrypted["databases"] == expected["databases"]


def test_a_client_that_asks_for_more(secured: Secured, newer_servers: Path) -> None:
    """From 11.4 on clients want TLS unless told otherwise: over the socket of a server without, too."""
    take(secured.source(bin_dir=str(newer_servers / "bin"), **OWN))
    with databases.mariadb_server() as server:
        server.sql("CREATE DATABASE site; CREATE USER far@'%' IDENTIFIED BY 'x'; GRANT ALL ON *.* TO far@'%';")
        here = {"user": "root", "databases": ["site"], "bin_dir": str(newer_servers / "bin")}
        take(MariadbSource("db", MariadbOptions.model_validate({**here, "socket": server.socket}), lambda ref: b""))
        far = {**here, "user": "far", "address": "127.0.0.1", "port": server.port, "password": {"file": "/x"}}
        with pytest.raises(SourceError, match="TLS") as caught:
            take(MariadbSource("db", MariadbOptions.model_validate(far), lambda ref: b"x"))
        assert "`tls: false`" in caught.value.next_step
        take(MariadbSource("db", MariadbOptions.model_validate({**far, "tls": False}), lambda ref: b"x"))


@pytest.mark.parametrize(
    "wrong",
    [{"ca": "other.pem", **OWN}, {"address": "127.0.0.1", **OWN}, {}],
    ids=["another authority", "another name", "no certificate of our own"],
)
def test_nobody_else_is_believed(secured: Secured, wrong: dict[str, str]) -> None:
    with pytest.raises(SourceError):
        take(secured.source(**wrong))


def test_contradictions_are_refused() -> None:
    for options in (
        {"socket": "/s", "tls": {"ca": "/ca.pem"}},
        {"socket": "/s", "tls": False},
        {"address": "db", "tls": {}},
        {"address": "db", "tls": {"ca": "/ca.pem", "key": "/k"}},
    ):
        with pytest.raises(ValidationError):
            MariadbOptions.model_validate(options)
