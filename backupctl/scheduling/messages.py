"""Messages that say "execute this run", by Procrastinate, in the PostgreSQL that holds the catalog.

A message is a hint and nothing more: the run's row in the catalog decides who has it, by its epoch. So a message may come
twice, come late or be lost: the scheduler looks each time which queued runs have none. The tables stand in a schema named
after Procrastinate's version; another version begins with empty ones, which loses nothing. A message that was done with is
deleted, so they hold what waits and what runs.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import procrastinate
import psycopg
import psycopg_pool
from procrastinate.exceptions import ConnectorException
from psycopg import sql
from psycopg.rows import scalar_row
from sqlalchemy import make_url

from backupctl.catalog.database import MIGRATION_LOCK, SERVER_IS_GONE, describe
from backupctl.config.fleet import FleetSettings
from backupctl.errors import UnreachableError
from backupctl.scheduling.release import dispatcher

log = logging.getLogger(__name__)

TASK = "backupctl.run"
AGAIN_SECONDS = 5.0
_STOP_SECONDS = 0.5  # how soon a receiver sees that it shall stop


@dataclass(frozen=True, slots=True)
class Message:
    run: str
    release: str
    configuration: str
    queue: str
    priority: int = 0


class Messages:
    """The scheduler's side."""

    def __init__(self, url: str, fleet: FleetSettings) -> None:
        self._location = describe(make_url(url))
        self._conninfo = _conninfo(url)
        self._stalled_seconds = fleet.stalled_after.total_seconds()
        self._app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(**_pool(url, 1, 2)))

    def prepare(self) -> None:
        """Make the tables where there are none. Raises UnreachableError."""
        schema = _schema()
        with self._connect() as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [MIGRATION_LOCK])
            if connection.execute("SELECT to_regclass(%s)", [f"{schema}.procrastinate_jobs"]).fetchone() == (None,):
                connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
                connection.execute(self._app.schema_manager.get_schema())
        self._app.open()

    def pending(self) -> set[str]:
        """The runs that somebody has been told of and has not answered. Messages that a silent worker holds are dropped."""
        gone = """DELETE FROM procrastinate_jobs AS job WHERE status = 'doing' AND NOT EXISTS (
            SELECT FROM procrastinate_workers AS worker WHERE worker.id = job.worker_id
            AND worker.last_heartbeat > now() - make_interval(secs => %s))"""
        with self._connect() as connection:
            connection.execute(gone, [self._stalled_seconds])
            with connection.cursor(row_factory=scalar_row) as cursor:
                cursor.execute("SELECT args->>'run' FROM procrastinate_jobs WHERE status IN ('todo', 'doing')")
                return set(cursor)

    def offer(self, messages: Iterable[Message]) -> None:
        """Raises UnreachableError."""
        groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for one in messages:
            arguments = {"run": one.run, "release": one.release, "configuration": one.configuration}
            groups.setdefault((one.queue, one.priority), []).append(arguments)
        try:
            for (queue, priority), arguments_of_all in groups.items():
                self._app.configure_task(TASK, queue=queue, priority=priority).batch_defer(*arguments_of_all)
        except ConnectorException as error:
            raise self._unreachable(error) from error

    def close(self) -> None:
        self._app.close()

    def _connect(self) -> psycopg.Connection:
        try:
            return psycopg.connect(self._conninfo, autocommit=True, **_arguments())
        except psycopg.OperationalError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> UnreachableError:
        said = str(error.__cause__ or error).strip().splitlines()
        return UnreachableError(
            f"no message can be left in {self._location}: {said[0] if said else type(error).__name__}",
            next_step="check that the database runs and that its user may log in",
        )


Take = Callable[[str, str, str], Awaitable[None]]
"""What is done with a message: (run, release, configuration). It returns when the run has ended."""


def receive(
    url: str, fleet: FleetSettings, *, queues: list[str], parallel: int, take: Take, stop: threading.Event
) -> None:
    """The worker's side: take messages from `queues`, `parallel` at a time, until `stop` is set; return when what was taken
    is done. A database that goes away is asked again every few seconds."""
    while not stop.is_set():
        why: object = "it stopped"  # Procrastinate has logged what for
        try:
            asyncio.run(_receive(url, fleet, queues, parallel, take, stop))
        except (ConnectorException, psycopg.Error, psycopg_pool.PoolTimeout, OSError) as error:
            why = error.__cause__ or error
        if not stop.is_set():
            log.warning("no messages can be taken, trying again in %.0f s: %s", AGAIN_SECONDS, why)
            stop.wait(AGAIN_SECONDS)


async def _receive(
    url: str, fleet: FleetSettings, queues: list[str], parallel: int, take: Take, stop: threading.Event
) -> None:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(**_pool(url, 1, 4)))

    @app.task(name=TASK)
    async def run(run: str, release: str, configuration: str) -> None:
        await take(run, release, configuration)

    async with app.open_async():
        worker = asyncio.create_task(
            app.run_worker_async(
                queues=queues,
                concurrency=parallel,
                delete_jobs="always",
                install_signal_handlers=False,
                update_heartbeat_interval=fleet.heartbeat.total_seconds(),
                stalled_worker_timeout=fleet.stalled_after.total_seconds(),
            )
        )
        while not stop.is_set() and not worker.done():
            await asyncio.wait([worker], timeout=_STOP_SECONDS)
        if not worker.done():
            worker.cancel()  # it takes no more, and waits for what it has taken
        try:
            await worker
        except asyncio.CancelledError:
            log.info("no more messages are taken")


def _schema() -> str:
    return "procrastinate_" + dispatcher().replace(".", "_")


def _conninfo(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _arguments() -> dict[str, Any]:
    return {
        **SERVER_IS_GONE,
        "application_name": "backupctl dispatch",
        "options": f"-c search_path={_schema()}",
    }


def _pool(url: str, smallest: int, largest: int) -> dict[str, Any]:
    return {"conninfo": _conninfo(url), "kwargs": _arguments(), "min_size": smallest, "max_size": largest}
