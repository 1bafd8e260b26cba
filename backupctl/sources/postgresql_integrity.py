"""pg_amcheck over restored databases: heap pages and B-tree indexes, in the server's own words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from backupctl.errors import CouldNotRunError
from backupctl.sources.postgresql_client import PostgresClient
from backupctl.sources.postgresql_instance import PORT, client_of
from backupctl.sources.protocol import CheckResult, Instance

SHOWN_CHARS = 500


def examine(name: str, instance: Instance, databases: Sequence[str]) -> list[CheckResult]:
    """One result for each database. Raises CouldNotRunError when the host lacks pg_amcheck or the extension amcheck."""
    client = client_of(instance, name)
    return [_examine(client, instance, database) for database in databases]


def _examine(client: PostgresClient, instance: Instance, database: str) -> CheckResult:
    connection = instance.connection
    done = client.run(
        [client.program("pg_amcheck"), "--no-password", "--install-missing", database],
        PGHOST=connection["sockets"],
        PGPORT=PORT,
        PGUSER=connection["user"],
    )
    output = done.stdout + done.stderr.encode()
    # 2: corruption was found; 1: it could not look (pg_amcheck(1) says "exit status is 0 if no corruption")
    lacking = "could not open extension control file" in done.stderr or "is not available" in done.stderr
    if done.returncode == 127 or lacking:
        raise CouldNotRunError(
            f"pg_amcheck cannot look at {database} on host {instance.host.name}: {done.stderr.strip()[-200:] or 'not there'}",
            next_step="install the contrib programs of PostgreSQL there (Debian: in the package postgresql-MAJOR)",
        )
    said = " ".join((done.stdout.decode("utf-8", "replace") + done.stderr).split())
    return CheckResult(
        f"pg_amcheck of {database}",
        "no corruption",
        "no corruption" if done.returncode == 0 else f"exit {done.returncode}",
        done.returncode == 0,
        4,
        0.0,
        said[:SHOWN_CHARS] if done.returncode else "heap pages and B-tree indexes",
        hashlib.sha256(output).hexdigest(),
    )
