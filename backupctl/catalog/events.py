"""The audit trail: each event is sealed to the one before by its hash, so a later change shows.

hash = SHA-256 of the canonical JSON (sorted keys, no spaces, ASCII) of
`[number, time, actor, action, subject, detail, previous]`, time as RFC 3339 in UTC, previous = the hash before, and 64
zeros before the first. A chain can be cut at its end without a trace: whoever signs reports signs the newest hash too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select, text

from backupctl.catalog.database import CHAIN_LOCK, Database
from backupctl.catalog.models import Event, clean
from backupctl.clock import iso

GENESIS = "0" * 64


class Events(Database):
    def append_event(self, actor: str, action: str, subject: str, detail: Mapping[str, Any]) -> Event:
        """Add to the end of the chain. Writers queue up: there is one chain."""
        with self.writing() as session:
            if self.engine.dialect.name == "postgresql":  # SQLite: BEGIN IMMEDIATE has the lock already
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CHAIN_LOCK})
            last = next(iter(session.all(Event, select(Event).order_by(Event.number.desc()).limit(1))), None)
            event = Event(
                number=last.number + 1 if last else 1,
                time=self.clock.now(),
                actor=clean(actor),
                action=clean(action),
                subject=clean(subject),
                detail=json.loads(_canonical(dict(detail))),
                previous=last.hash if last else GENESIS,
            )
            event.hash = event_hash(event)
            session.add(event)
        return event

    def events(self, *, after: int = 0, limit: int | None = None) -> list[Event]:
        """In order, those with a number above `after`."""
        with self.reading() as session:
            return session.all(Event, select(Event).where(Event.number > after).order_by(Event.number).limit(limit))

    def events_of(self, actions: Sequence[str], subject: str | None = None) -> list[Event]:
        """In order, those of some actions, about one subject or any."""
        query = select(Event).where(Event.action.in_(actions)).order_by(Event.number)
        if subject is not None:
            query = query.where(Event.subject == subject)
        with self.reading() as session:
            return session.all(Event, query)


def event_hash(event: Event) -> str:
    fields = [event.number, iso(event.time), event.actor, event.action, event.subject, event.detail, event.previous]
    return hashlib.sha256(_canonical(fields).encode("ascii")).hexdigest()


def verify_events(events: Sequence[Event], *, previous: str = GENESIS, number: int = 0) -> list[str]:
    """What is wrong with a stretch of the chain, one line each; empty when it is whole. A stretch that does not begin
    at the start says what came before it with `previous` and `number`."""
    faults = []
    for event in events:
        number += 1
        if event.number != number:
            faults.append(f"event {number} is missing: {event.number} comes next")
            number = event.number
        if event.previous != previous:
            faults.append(f"event {event.number} does not follow the one before it")
        if event.hash != event_hash(event):
            faults.append(f"event {event.number} ({event.action} {event.subject}) was changed after it was written")
        previous = event.hash
    return faults


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
