"""MariaDB on a host behind SSH: its files and its binary logs come through the connection, and nothing stays behind there."""

from __future__ import annotations

import pytest

from backupctl.sources.mariadb import MariadbOptions, MariadbSource
from tests.end_to_end.processes import wait_until
from tests.sources.helpers import CLOCK, drain, processes_with

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("method", ["physical", "binlog"])
def test_every_entry_comes_whole(mariadb_server, ssh_host, method):
    now = mariadb_server.sql("FLUSH BINARY LOGS; SHOW MASTER STATUS").split()[0]
    wait_until(  # what other tests have written is not what is tested here
        lambda: mariadb_server.sql(f"PURGE BINARY LOGS TO '{now}'; SHOW BINARY LOGS").split()[0] == now, "purged logs"
    )
    mariadb_server.sql("CREATE DATABASE far; CREATE TABLE far.t (id INT PRIMARY KEY); INSERT INTO far.t VALUES (1);")
    source = MariadbSource(
        "db", MariadbOptions(socket=mariadb_server.socket, user="root", method=method), lambda ref: b""
    )
    if method == "physical":  # which looks at what reading logs needs, too
        assert not [one for one in source.preflight(ssh_host) if one.severity == "error"]
    try:
        with source.open(ssh_host, CLOCK) as session:
            entries = session.stream() if method == "physical" else session.entries()
            read = {entry.path: len(drain(entry.open())) for entry in entries if entry.open is not None}
            fingerprint = session.fingerprint()
    finally:
        mariadb_server.sql("DROP DATABASE far")
    name, offset = fingerprint["binary_log" if method == "physical" else "end"]
    assert read[f"binlog/{name}".encode()] == offset
    if method == "physical":
        assert fingerprint["databases"]["far"]["tables"]["t"]["rows"] == 1
        assert read[b"data/ibdata1"] % 16384 == 0
        assert {b"data/far/t.ibd", b"data/far/t.new"} & set(read)
    assert not processes_with("mariadb-backup") + processes_with("--read-from-remote-server")
