"""Who stores which stretch of a source that several workers of a fleet share. What a stretch is stands in the repository."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select, update

from backupctl.catalog.database import Database, FencedError
from backupctl.catalog.models import Run, Stretch
from backupctl.catalog.rows import Session


class Stretches(Database):
    def add_stretches(self, plan: str, count: int, *, run: str, epoch: int) -> None:
        """The stretches 0 … `count` - 1 of a plan, for the run that has that epoch. Those of runs that are over go."""
        with self.writing() as session:
            going = select(Run.id).where(Run.state == "running")
            session.execute(delete(Stretch).where(Stretch.run.not_in(going)))
            for number in range(count):
                session.add(Stretch(plan=plan, number=number, run=run, epoch=epoch))

    def stretches(self, plan: str) -> list[Stretch]:
        """By number; none when its run is done with them."""
        with self.reading() as session:
            return session.all(Stretch, select(Stretch).where(Stretch.plan == plan).order_by(Stretch.number))

    def take_stretch(self, plan: str, hand: str, epoch: int, *, late: datetime | None = None) -> int | None:
        """The first stretch that nobody has, or has any more, is now `hand`'s, a running run that has that epoch; None when there
        is none. One that has not moved since `late` counts as nobody's. Raises FencedError when the plan's run, or
        `hand`, is in other hands or over."""
        with self.writing() as session:
            _require(session, hand, epoch)
            rows = session.all(Stretch, select(Stretch).where(Stretch.plan == plan).order_by(Stretch.number))
            if not rows:
                raise FencedError("the run that divided this source is over", next_step="backupctl runs")
            _require(session, rows[0].run, rows[0].epoch)
            for row in rows:
                mine = row.hand == hand and row.hand_epoch == epoch
                stuck = late is not None and row.taken is not None and row.taken < late
                if row.record or mine or (row.hand and not stuck and _holds(session, row.hand, row.hand_epoch)):
                    continue
                changes = {"hand": hand, "hand_epoch": epoch, "taken": self.clock.now()}
                if self._changed(session, row, row.hand, row.hand_epoch, changes):
                    return row.number
        return None

    def stretch_moves(self, plan: str, number: int, hand: str, epoch: int) -> None:
        """`hand` gets on with it; nothing when it is no longer its."""
        with self.writing() as session:
            row = session.get(Stretch, plan, number)
            if row is not None:
                self._changed(session, row, hand, epoch, {"taken": self.clock.now()})

    def finish_stretch(self, plan: str, number: int, hand: str, epoch: int, record: str) -> bool:
        """It is stored, in that record. False when it is no longer `hand`'s: what was stored then counts for nothing."""
        with self.writing() as session:
            row = session.get(Stretch, plan, number)
            if row is None or not _holds(session, hand, epoch) or not _holds(session, row.run, row.epoch):
                return False
            return self._changed(session, row, hand, epoch, {"record": record})

    def remove_stretches(self, plan: str) -> None:
        with self.writing() as session:
            session.execute(delete(Stretch).where(Stretch.plan == plan))

    @staticmethod
    def _changed(session: Session, row: Stretch, hand: str, epoch: int, changes: dict[str, object]) -> bool:
        """Whether `hand` still had it, and nothing was stored yet."""
        statement = update(Stretch).where(
            Stretch.plan == row.plan,
            Stretch.number == row.number,
            Stretch.hand == hand,
            Stretch.hand_epoch == epoch,
            Stretch.record == "",
        )
        return session.changed(statement.values(changes)) == 1


def _holds(session: Session, run: str, epoch: int) -> bool:
    return session.scalar(select(Run.id).where(Run.id == run, Run.epoch == epoch, Run.state == "running")) is not None


def _require(session: Session, run: str, epoch: int) -> None:
    if not _holds(session, run, epoch):
        raise FencedError(f"run {run} is over, or in other hands", next_step="nothing was committed; backupctl runs")
