"""What came into a live server and differs is told, and nothing of it stays."""

from __future__ import annotations

import pytest

from backupctl.errors import DamageError
from backupctl.hosts.local import LocalHost
from backupctl.sources import postgresql_send
from backupctl.sources.postgresql_client import PostgresClient
from backupctl.sources.postgresql_send import create_statement, send_database
from tests.servers.databases import PostgresServer


@pytest.mark.servers
def test_a_row_that_differs_there_is_named_and_the_database_dropped(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = postgres_server
    server.sql("CREATE DATABASE sent;")
    server.sql("CREATE TABLE notes (n int PRIMARY KEY); INSERT INTO notes VALUES (1), (2);", "sent")
    client = PostgresClient(LocalHost(), "db", server.conninfo, str(server.programs))
    whole = postgresql_send.compare

    def meddled(private: PostgresClient, database: str, live: PostgresClient, name: str) -> None:
        server.sql("UPDATE notes SET n = 3 WHERE n = 2", name)
        whole(private, database, live, name)

    monkeypatch.setattr(postgresql_send, "compare", meddled)
    with pytest.raises(DamageError, match=r"table arrived.public.notes on that server: 2 rows"):
        send_database(client, "sent", client, "arrived")
    assert server.sql("SELECT count(*) FROM pg_database WHERE datname = 'arrived'") == "0"
    monkeypatch.undo()
    assert send_database(client, "sent", client, "arrived")[0].startswith("database sent is on that server as arrived")
    server.sql("DROP DATABASE arrived; DROP DATABASE sent;".replace("; ", ";\n"))


@pytest.mark.parametrize(
    ("own", "ending"),
    [
        ({}, "LC_COLLATE 'C' LC_CTYPE 'C.UTF-8';"),
        ({"datlocprovider": "c", "daticulocale": None}, "LC_COLLATE 'C' LC_CTYPE 'C.UTF-8';"),
        ({"datlocprovider": "i", "daticulocale": "de-AT"}, "LOCALE_PROVIDER icu ICU_LOCALE 'de-AT';"),
        ({"datlocprovider": "i", "datlocale": "de-AT"}, "LOCALE_PROVIDER icu ICU_LOCALE 'de-AT';"),
        ({"datlocprovider": "b", "datlocale": "C.UTF-8"}, "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8';"),
    ],
)
def test_the_new_database_sorts_as_the_old_one_did(own: dict[str, str | None], ending: str) -> None:
    properties = {"own": {"datcollate": "C", "datctype": "C.UTF-8", **own}, "encoding": "UTF8", "owner": 'the "owner"'}
    statement = create_statement("it's", properties)
    assert statement.startswith('CREATE DATABASE "it\'s" OWNER "the ""owner""" TEMPLATE template0 ENCODING \'UTF8\' ')
    assert statement.endswith(ending)
