"""`restore --into-server`: a restored database into a server that others use, under a name that is free there."""

from __future__ import annotations

from dataclasses import dataclass, replace

from backupctl.errors import UsageError
from backupctl.hosts.protocol import Host
from backupctl.sources import mariadb_instance, mariadb_send, postgresql_send
from backupctl.sources.mariadb import MariadbSource
from backupctl.sources.postgresql import PostgresqlSource, conninfo_problem
from backupctl.sources.postgresql_client import PostgresClient, find_psql
from backupctl.sources.postgresql_instance import client_of
from backupctl.sources.protocol import Instance, Source

ENVIRONMENT = {"PGAPPNAME": "backupctl", "PGCONNECT_TIMEOUT": "15"}


@dataclass(frozen=True, slots=True)
class SendOrder:
    """`conninfo` as seen from the host on which the private server is, in the words of the kind's clients. A password comes from
    that user's ~/.pgpass or the file that `passfile=` names; for MariaDB and MySQL from ~/.my.cnf or what `defaults=` names."""

    conninfo: str
    name: str

    def look(self, host: Host, source: Source) -> None:
        """Before anything is restored: is the server there, and the name free? Raises UsageError, SourceError."""
        if isinstance(source, MariadbSource):
            with mariadb_send.live_client(host, self._called(source), self.conninfo, source.options) as live:
                mariadb_send.refuse_taken(live, self.name)
            return
        if not isinstance(source, PostgresqlSource):
            raise UsageError(
                f"--into-server is for PostgreSQL, MariaDB and MySQL; {source.name} is {source.kind}",
                next_step="leave it out",
            )
        postgresql_send.refuse_taken(self._client(host, source), self.name)

    def apply(self, source: object, instance: Instance, database: str) -> list[str]:
        if isinstance(source, MariadbSource):
            with (
                mariadb_instance.client_of(instance, source.name) as restored,
                mariadb_send.live_client(instance.host, self._called(source), self.conninfo, source.options) as server,
            ):
                return mariadb_send.send_database(restored, database, server, self.name)
        assert isinstance(source, PostgresqlSource)
        private = client_of(instance, source.name)
        live = replace(self._client(instance.host, source), directory=private.directory)
        return postgresql_send.send_database(private, database, live, self.name)

    def _called(self, source: Source) -> str:
        return f"{source.name} into {self.conninfo}"

    def _client(self, host: Host, source: PostgresqlSource) -> PostgresClient:
        client = PostgresClient(host, self._called(source), self.conninfo, env=ENVIRONMENT)
        return find_psql(client, source.options.bin_dir)


def send_order(conninfo: str, name: str, only: str | None) -> SendOrder:
    """Raises UsageError for what cannot be meant."""
    if only is None or not only.startswith("db:"):
        raise UsageError("--into-server takes one whole database", next_step="--only db:NAME")
    if not name:
        raise UsageError("--into-server needs a new name: nothing that is there is replaced", next_step="--as NAME")
    if (problem := conninfo_problem(conninfo)) is not None:
        advice = "a password belongs into ~/.pgpass, or a file named by passfile="
        raise UsageError(problem.replace("`conninfo`", "--into-server").partition(": use")[0], next_step=advice)
    return SendOrder(conninfo, name)
