"""Snapshots of several databases of one server, opened as nearly at once as can be, and held while they are read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from backupctl.sources.postgresql_client import Conversation, PostgresClient, view_script
from backupctl.sources.wal_cut import SnapshotXids
from backupctl.sources.wal_format import parse_lsn

_LOOK = "SELECT pg_export_snapshot() || ' ' || pg_current_snapshot();"
_FLUSH = """BEGIN READ WRITE; SET LOCAL synchronous_commit = 'local'; SELECT pg_logical_emit_message(true, 'backupctl', ''); COMMIT;
SELECT pg_current_wal_flush_lsn();"""


@dataclass(frozen=True, slots=True)
class HeldView:
    snapshot: str  # the exported snapshot's name
    xids: SnapshotXids


class HeldViews:
    """Use as a context manager. `look` may be called again: it gives up the views it gave before."""

    def __init__(self, client: PostgresClient, databases: Sequence[str]) -> None:
        self._client, self._databases = client, list(databases)
        self._sessions: dict[str, Conversation] = {}
        self._stack = ExitStack()
        self._open = False

    def __enter__(self) -> Self:
        with self._stack as stack:
            for name in self._databases:
                self._sessions[name] = Conversation(self._client, name)
                stack.callback(self._sessions[name].close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def look(self) -> dict[str, HeldView]:
        """A snapshot of each database. Asked of all before any is waited for."""
        begin = ("ROLLBACK;" if self._open else "") + view_script(None)
        self._all(begin)
        self._open = True
        answers = self._all(_LOOK)
        views = {}
        for name, answer in answers.items():
            snapshot, xids = answer.split()
            views[name] = HeldView(snapshot, SnapshotXids.parse(xids))
        return views

    def _all(self, sql: str) -> dict[str, str]:
        for session in self._sessions.values():
            session.tell(sql)
        return {name: session.hear() for name, session in self._sessions.items()}

    def confirm(self, database: str) -> None:
        """Raises SourceError unless the database's view is still open: then it was there all the time."""
        self._sessions[database].ask("SELECT pg_export_snapshot();")

    def release(self, database: str) -> None:
        """Let the server clean up again what only this view still saw."""
        self._sessions.pop(database).close()


def flushed_lsn(client: PostgresClient, database: str | None) -> int:
    """A place in the log behind everything that committed before this was called, and written to disk. One transaction id
    is spent, and an empty message logged: a transaction without a record is committed asynchronously, and an idle server
    writes nothing out by itself."""
    completed = client.run(client.psql(database), _FLUSH)
    if completed.returncode != 0:
        raise client.failure(database, completed)
    return parse_lsn(completed.stdout.decode().split()[-1])
