"""What is done about notices after their first try: tried again, told again until acknowledged, and, when a limit held them
back, told together. Whoever looks (`serve` each minute, `run --due` once) does what is due; the catalog decides who does it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from backupctl.catalog.catalog import Catalog
from backupctl.catalog.models import Notice
from backupctl.clock import Clock
from backupctl.notify.notices import (
    GIVE_UP,
    LEASE,
    NoticeEvent,
    Secrets,
    attempt,
    deliver,
    digest,
    event_of,
    give_up,
    has_room,
    message,
    wait,
)

if TYPE_CHECKING:
    from backupctl.config.channels import NotifyOptions

log = logging.getLogger(__name__)


def work(channels: Mapping[str, NotifyOptions], *, catalog: Catalog, secrets: Secrets, clock: Clock) -> list[Notice]:
    """Do what is due now; what was tried, with `error` when it did not arrive."""
    tried = _again(channels, catalog, secrets, clock)
    tried += _held_back(channels, catalog, secrets, clock)
    return tried + _repeated(channels, catalog, secrets, clock)


def _again(channels: Mapping[str, NotifyOptions], catalog: Catalog, secrets: Secrets, clock: Clock) -> list[Notice]:
    tried = []
    for notice in catalog.waiting_notices(("queued",)):
        if notice.next_try is not None and notice.next_try > clock.now():
            continue
        event = _event(notice)
        options = channels.get(notice.channel)
        if event is None or options is None:
            catalog.settle_notice(
                notice.id, state="dropped", next_try=None, error="its channel is no longer configured"
            )
        elif catalog.claim_notice(notice, clock.now() + LEASE):
            attempt(notice, options, message(event), catalog, secrets, clock)
            tried.append(notice)
    return tried


def _held_back(channels: Mapping[str, NotifyOptions], catalog: Catalog, secrets: Secrets, clock: Clock) -> list[Notice]:
    """One digest for each way of a channel that has room again."""
    tried = []
    waiting: dict[tuple[str, str], list[Notice]] = {}
    for notice in catalog.waiting_notices(("held",)):
        if notice.next_try is None or notice.next_try <= clock.now():
            waiting.setdefault((notice.channel, notice.kind), []).append(notice)
    for (channel, way), rows in waiting.items():
        options = channels.get(channel)
        if options is None:
            for row in rows:
                catalog.settle_notice(row.id, state="dropped", error="its channel is no longer configured")
            continue
        if not has_room(options, channel, way, catalog, clock.now()):
            continue
        ours = []
        for row in rows:
            event = _event(row)
            if event is None:
                catalog.settle_notice(row.id, state="dropped", next_try=None, error="an earlier version wrote it")
            elif catalog.claim_notice(row, clock.now() + LEASE):
                ours.append((row, event))
        if not ours:
            continue
        error = deliver(options, way, digest([event for _, event in ours], clock.now()), secrets)
        now = clock.now()
        for number, (row, _) in enumerate(ours):
            row.error, row.attempts = error, row.attempts + 1
            if not error:
                row.state, row.delivered, row.next_try = "delivered", now, None
                row.last_sent = now if number == 0 else None  # the digest counts once under the limit
            elif _tried_for(row.attempts) >= GIVE_UP[way]:
                give_up(row)
            else:
                row.next_try = now + wait(row.attempts)
            settled = ("state", "delivered", "last_sent", "next_try", "error", "attempts")
            catalog.settle_notice(row.id, **{name: getattr(row, name) for name in settled})
        tried += [row for row, _ in ours]
    return tried


def _tried_for(attempts: int) -> timedelta:
    """From the first try of what was held back to this one: it may have waited for long before, for room."""
    return sum((wait(number) for number in range(1, attempts)), timedelta(0))


def _repeated(channels: Mapping[str, NotifyOptions], catalog: Catalog, secrets: Secrets, clock: Clock) -> list[Notice]:
    repeating = {name: options for name, options in channels.items() if options.repeat is not None}
    tried = []
    for notice in catalog.alarms(channels=list(repeating)) if repeating else ():
        options = repeating[notice.channel]
        last = notice.last_sent or notice.delivered
        now = clock.now()
        assert options.repeat is not None
        if notice.state != "delivered" or last is None or last + options.repeat > now:
            continue
        if notice.next_try is not None and notice.next_try > now:
            continue  # it did not arrive the last time, or somebody tries it
        event = _event(notice)
        if event is None or not has_room(options, notice.channel, notice.kind, catalog, now):
            continue
        if catalog.claim_notice(notice, now + LEASE):
            notice.repeats += 1
            attempt(notice, options, message(event, times=notice.repeats), catalog, secrets, clock)
            tried.append(notice)
    return tried


def _event(notice: Notice) -> NoticeEvent | None:
    try:
        return event_of(notice.event)
    except (KeyError, ValueError, TypeError) as error:  # of a catalog that an earlier version wrote
        log.warning("notice %d cannot be told again: %s", notice.id, error)
        return None
