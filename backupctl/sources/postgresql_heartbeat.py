"""One row with the time, written every minute or so: proof that changes get from the server into the backup, and how new the newest
one is. Read back from the restored database by each drill; nothing that production counts or says is believed.

The table is made by whoever owns the database, so that the backup's account needs no right but to write this one row.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from backupctl.clock import parse_iso
from backupctl.errors import SourceError
from backupctl.sources.postgresql_client import PostgresClient
from backupctl.sources.protocol import PreflightFinding

TABLE = "public.backupctl_heartbeat"
MAKE = (
    f"CREATE TABLE {TABLE} (id int PRIMARY KEY, at timestamptz NOT NULL); "
    f"GRANT SELECT, INSERT, UPDATE ON {TABLE} TO the backup role"
)
READ = f"SELECT max(at) FROM {TABLE}"  # noqa: S608 - no parameter
BEAT = f"""
SET default_transaction_read_only = off;
SET synchronous_commit = on;
INSERT INTO {TABLE} AS old (id, at) VALUES (1, clock_timestamp())
ON CONFLICT (id) DO UPDATE SET at = greatest(old.at, excluded.at)
RETURNING json_build_object('at', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'));
"""  # noqa: S608 - no parameter
STATE = f"""
SELECT to_regclass('{TABLE}') IS NOT NULL AS there,
  coalesce(has_table_privilege(to_regclass('{TABLE}'), 'insert') AND has_table_privilege(to_regclass('{TABLE}'), 'update'), false)
  AS writable
"""
AGE = f"SELECT extract(epoch FROM clock_timestamp() - max(at)) AS seconds FROM {TABLE}"  # noqa: S608 - no parameter
SILENT = timedelta(minutes=10)


def beat(client: PostgresClient, database: str) -> datetime:
    """Write the row; the server's own time. Raises SourceError."""
    try:
        (row,) = client.documents(database, BEAT)
    except SourceError as error:
        if "does not exist" in error.message or "permission denied" in error.message:
            error.next_step = f"in database {database}: {MAKE}"
        raise
    return parse_iso(row["at"])


def findings(client: PostgresClient, database: str, command: str) -> list[PreflightFinding]:
    """What keeps the heartbeat of `database` from being one; `command` writes it."""
    (state,) = client.records(database, STATE)
    if not state["there"] or not state["writable"]:
        what = "there is no table" if not state["there"] else "the backup role may not write to"
        return [PreflightFinding("error", f"heartbeat: {what} {TABLE} in database {database}", MAKE)]
    (age,) = client.records(database, AGE)
    if age["seconds"] is None or age["seconds"] > SILENT.total_seconds():
        since = (
            "nobody has written it yet"
            if age["seconds"] is None
            else f"it is {timedelta(seconds=int(age['seconds']))} old"
        )
        return [
            PreflightFinding(
                "warning", f"heartbeat of database {database}: {since}", f"every minute, by cron: {command}"
            )
        ]
    return []
