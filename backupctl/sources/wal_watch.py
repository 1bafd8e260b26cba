"""What a server says of its own log: is it archived, does a slot hold it back, does it fill the disk? Asked before the night;
how far a recovery really leads is judged from the bucket."""

from __future__ import annotations

from typing import Any

from backupctl.errors import SourceError
from backupctl.sources.postgresql_client import PostgresClient, literal
from backupctl.sources.protocol import PreflightFinding

LARGE_BACKLOG_SEGMENTS = 64  # 1 GiB with segments of 16 MiB: hours on a quiet server, minutes on a busy one

SETTINGS = """
SELECT current_setting('archive_mode') AS archive_mode, current_setting('archive_command') AS archive_command,
  current_setting('archive_library') AS archive_library, current_setting('archive_timeout') AS archive_timeout,
  current_setting('max_slot_wal_keep_size') AS slot_limit, current_setting('max_wal_size') AS wal_size,
  pg_size_bytes(current_setting('max_wal_size')) AS wal_bytes,
  pg_size_bytes(current_setting('wal_segment_size')) AS segment_bytes, s.last_archived_wal, s.last_failed_wal,
  s.last_failed_time AS failed_at, coalesce(s.last_failed_time > s.last_archived_time, s.last_failed_time IS NOT NULL) AS failing
FROM pg_stat_archiver s
"""
SLOT = """
SELECT active, wal_status, safe_wal_size, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint AS behind
FROM pg_replication_slots WHERE slot_name = {slot}
"""
DIRECTORY = "SELECT sum(size)::bigint AS bytes FROM pg_ls_waldir()"
READY = "SELECT count(*) FILTER (WHERE name LIKE '%.ready') AS waiting FROM pg_ls_archive_statusdir()"


def findings(client: PostgresClient, database: str, slot: str) -> list[PreflightFinding]:
    """`slot` "": the log is archived by the server's archive_command."""
    (row,) = client.records(database, SETTINGS)
    found = slot_findings(client, database, slot, row) if slot else archive_findings(client, database, row)
    return [*found, *directory_findings(client, database, row)]


def archive_findings(client: PostgresClient, database: str, row: dict[str, Any]) -> list[PreflightFinding]:
    step = "archive_mode = on, archive_command = 'backupctl --quiet wal-push JOB/SOURCE %p', and restart the server"
    if row["archive_mode"] == "off":
        return [PreflightFinding("error", "archive_mode is off: no log is archived", step)]
    found = []
    if not row["archive_library"] and "wal-push" not in row["archive_command"]:
        what = row["archive_command"] or "empty"
        found.append(PreflightFinding("warning", f"archive_command is {what}: not `backupctl wal-push`", step))
    if row["failing"]:
        what = f"archiving fails since {row['failed_at']}: {row['last_failed_wal']}; the server keeps everything from there on"
        found.append(PreflightFinding("error", what, "see the server's log for what the command said"))
    if row["archive_timeout"] == "0":
        found.append(
            PreflightFinding(
                "warning",
                "archive_timeout is 0: a quiet server archives nothing for hours, and a disaster costs all of it",
                "archive_timeout = 60s",
            )
        )
    waiting = ask(client, database, READY, "waiting")
    if waiting is not None and waiting >= LARGE_BACKLOG_SEGMENTS:
        found.append(
            PreflightFinding(
                "error", f"{waiting} segments wait to be archived", "the archive is slower than the server writes"
            )
        )
    return found


def slot_findings(client: PostgresClient, database: str, slot: str, row: dict[str, Any]) -> list[PreflightFinding]:
    rows = client.records(database, SLOT.format(slot=literal(slot)))
    start = "backupctl wal receive JOB/SOURCE, as a service"
    if not rows:
        return [PreflightFinding("error", f"there is no replication slot {slot}: nothing receives the log", start)]
    state = rows[0]
    found = []
    if state["wal_status"] == "lost":
        found.append(
            PreflightFinding(
                "error",
                f"slot {slot} has lost the log that it held: there is a hole in the archive",
                f"SELECT pg_drop_replication_slot('{slot}'); then receive again, and run the job for a new base backup",
            )
        )
    elif not state["active"]:
        held = state["behind"] or 0
        found.append(
            PreflightFinding("error", f"nobody receives from slot {slot}, which holds {held:,} bytes of log", start)
        )
    elif (state["behind"] or 0) >= LARGE_BACKLOG_SEGMENTS * row["segment_bytes"]:
        found.append(
            PreflightFinding(
                "warning",
                f"slot {slot} is {state['behind']:,} bytes behind",
                "see what holds `backupctl wal receive` up",
            )
        )
    if row["slot_limit"] == "-1":
        found.append(
            PreflightFinding(
                "warning",
                "max_slot_wal_keep_size is -1: when nobody receives, the log fills the disk and the server stops",
                "set it to what the disk can spare; beyond it the archive gets a hole, which is told",
            )
        )
    return found


def directory_findings(client: PostgresClient, database: str, row: dict[str, Any]) -> list[PreflightFinding]:
    size = ask(client, database, DIRECTORY, "bytes")
    if size is None or size <= 2 * row["wal_bytes"]:
        return []
    what = f"pg_wal holds {size:,} bytes, max_wal_size is {row['wal_size']}: something holds the log back"
    step = "SELECT * FROM pg_replication_slots; SELECT * FROM pg_stat_archiver; wal_keep_size may want it so"
    return [PreflightFinding("warning", what, step)]


def ask(client: PostgresClient, database: str, query: str, column: str) -> int | None:
    """None without the right to look (pg_monitor)."""
    try:
        (row,) = client.records(database, query)
    except SourceError:
        return None
    return int(row[column] or 0)
