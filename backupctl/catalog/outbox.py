"""Notices that are not done with: they wait to be tried again, for room under a limit, or to be acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update

from backupctl.catalog.database import Database
from backupctl.catalog.models import Notice


class Outbox(Database):
    def add_notice(self, row: Notice) -> None:
        """Note a new one; `row.id` is its number afterwards."""
        with self.writing() as session:
            session.add(row)

    def claim_notice(self, row: Notice, until: datetime) -> bool:
        """Whether we are the one who tries it now; nobody else does before `until`."""
        unchanged = (
            Notice.id == row.id,
            Notice.state == row.state,
            Notice.attempts == row.attempts,
            Notice.repeats == row.repeats,
            Notice.next_try.is_(None) if row.next_try is None else Notice.next_try == row.next_try,
            Notice.acknowledged.is_(None),
        )
        with self.writing() as session:
            return session.changed(update(Notice).where(*unchanged).values(next_try=until)) > 0

    def settle_notice(self, notice_id: int, **fields: Any) -> None:
        with self.writing() as session:
            session.execute(update(Notice).where(Notice.id == notice_id).values(**fields))

    def waiting_notices(self, states: Sequence[str]) -> list[Notice]:
        """Oldest first."""
        with self.reading() as session:
            return session.all(Notice, select(Notice).where(Notice.state.in_(states)).order_by(Notice.id))

    def alarms(self, *, channels: Sequence[str] | None = None) -> list[Notice]:
        """What was told of something that went wrong, and nobody acknowledged; oldest first."""
        query = select(Notice).where(Notice.alarm, Notice.acknowledged.is_(None)).order_by(Notice.id)
        if channels is not None:
            query = query.where(Notice.channel.in_(channels))
        with self.reading() as session:
            return session.all(Notice, query)

    def sent_since(self, channel: str, kind: str, since: datetime) -> int:
        query = select(func.count()).where(
            Notice.channel == channel, Notice.kind == kind, Notice.last_sent.is_not(None), Notice.last_sent > since
        )
        with self.reading() as session:
            return int(session.scalar(query) or 0)

    def acknowledge_notices(self, notice_ids: Sequence[int], by: str) -> int:
        """How many alarms end by it. One that was never delivered is not tried any more."""
        chosen = (Notice.id.in_(notice_ids), Notice.acknowledged.is_(None))
        with self.writing() as session:
            session.execute(
                update(Notice)
                .where(*chosen, Notice.state.in_(("queued", "held")))
                .values(state="dropped", next_try=None)
            )
            return session.changed(
                update(Notice).where(*chosen).values(acknowledged=self.clock.now(), acknowledged_by=by)
            )
