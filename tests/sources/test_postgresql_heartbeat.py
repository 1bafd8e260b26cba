"""The row with the time: what keeps it from being written is told, and it never goes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupctl.clock import SystemClock
from backupctl.config.load import load
from backupctl.config.resources import Resources
from backupctl.errors import NoSuchError, SourceError, UsageError
from backupctl.hosts.local import LocalHost
from backupctl.operations.heartbeat import beat
from backupctl.sources.postgresql import PostgresqlOptions, PostgresqlSource
from tests.end_to_end.site import Site
from tests.servers.databases import PostgresServer

HOST = LocalHost()


@pytest.mark.servers
def test_what_is_missing_is_told_and_then_it_beats(postgres_server: PostgresServer) -> None:
    server = postgres_server
    server.sql("CREATE DATABASE beating; CREATE ROLE pulse LOGIN IN ROLE pg_read_all_data;")
    conninfo = server.conninfo.replace("user=postgres", "user=pulse")
    source = PostgresqlSource(
        "db", PostgresqlOptions(conninfo=conninfo, databases=["beating"], heartbeat="beating"), lambda ref: b""
    )

    def told() -> list[tuple[str, str]]:
        found = [one for one in source.preflight(HOST) if "heartbeat" in one.message]
        return [(one.severity, one.message) for one in found]

    assert told() == [("error", "heartbeat: there is no table public.backupctl_heartbeat in database beating")]
    server.sql("CREATE TABLE backupctl_heartbeat (id int PRIMARY KEY, at timestamptz NOT NULL)", "beating")
    ((severity, message),) = told()
    assert (severity, "may not write" in message) == ("error", True)
    with pytest.raises(SourceError, match="permission denied") as denied:
        source.beat(HOST)
    assert "GRANT SELECT, INSERT, UPDATE" in denied.value.next_step
    server.sql("GRANT SELECT, INSERT, UPDATE ON backupctl_heartbeat TO pulse", "beating")
    assert told() == [("warning", "heartbeat of database beating: nobody has written it yet")]
    before = datetime.now(UTC) - timedelta(seconds=1)
    first = source.beat(HOST)
    assert before < first and told() == []
    assert source.beat(HOST) > first
    server.sql("UPDATE backupctl_heartbeat SET at = now() - interval '2 hours'", "beating")
    ((severity, message),) = told()
    assert severity == "warning" and "is 2:00:0" in message
    server.sql("UPDATE backupctl_heartbeat SET at = now() + interval '1 day'", "beating")
    assert source.beat(HOST) > first + timedelta(hours=23), "a clock that was set back takes nothing away"
    assert server.sql("SELECT count(*) FROM backupctl_heartbeat", "beating") == "1"


def test_the_database_of_the_heartbeat_must_be_backed_up() -> None:
    with pytest.raises(ValueError, match="would not be in the backup"):
        PostgresqlOptions(databases=["site"], heartbeat="other")


def test_which_source_is_meant(tmp_path: Path) -> None:
    site = Site.create(tmp_path)
    with Resources(load(site.root / "backupctl.yaml"), SystemClock()) as resources:
        with pytest.raises(NoSuchError, match="no job named 'nothing'"):
            beat(resources, "nothing")
        with pytest.raises(UsageError, match="0 sources with a heartbeat"):
            beat(resources, "site")
