"""Until when a bucket refuses to delete what a repository needs, asked object by object.

Each object is locked for `lock.days` from its own writing, and content that a new snapshot shares with an old one is not
written again: so the oldest object in use decides. Asked are the few that matter most and the oldest and newest packs; the
rest follow from when they were written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from backupctl.errors import Denied, NotFound
from backupctl.operations.context import Context
from backupctl.storage.protocol import ObjectInfo

ENDS = 4  # packs at each end of their ages
TOLERANCE = timedelta(days=1)  # between our clock, which sets the lock, and the store's, which dates the object


@dataclass(frozen=True, slots=True)
class Horizon:
    """`until`: the first end of a lock among what was asked, past when it is over, None when something was never locked.
    `missing`: names of objects that are young enough to be locked by the configuration, and are not."""

    days: int
    until: datetime | None = None
    asked: int = 0
    packs: int = 0
    ended_packs: int = 0  # older than a lock lasts
    missing: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def horizon(context: Context, name: str, snapshots: Iterable[str]) -> Horizon | None:
    """None where no lock is configured. `snapshots`: the ids of those that matter. Raises UserError when the store cannot be
    asked at all."""
    s3 = context.settings.repositories[name].storage.s3
    if s3 is None or s3.lock is None:
        return None
    store, now, days = context.resources.store(name), context.clock.now(), timedelta(days=s3.lock.days)
    packs = sorted(store.list("data/"), key=lambda info: (info.modified, info.name))
    ended = sum(info.modified + days <= now for info in packs)
    matter = [*store.list("config"), *store.list("keys/"), *_newest(store.list("index/"), 2)]
    matter += _some(store.list("snapshots/"), snapshots)
    wanted = {info.name: info for info in (*matter, *packs[:ENDS], *packs[-ENDS:])}
    ends: dict[str, datetime | None] = {}
    for one in wanted:
        try:
            ends[one] = store.locked_until(one)
        except NotFound:
            continue  # pruned since it was listed
        except Denied as error:
            note = f"how long it is locked is not known: {error.message}"
            return Horizon(s3.lock.days, packs=len(packs), ended_packs=ended, notes=[note])
    missing = tuple(
        one
        for one, until in ends.items()
        if wanted[one].modified + days > now + TOLERANCE
        and (until is None or until < wanted[one].modified + days - TOLERANCE)
    )
    untils = [until for until in ends.values() if until is not None]
    until = min(untils) if untils and None not in ends.values() else None
    return Horizon(
        s3.lock.days, until, len(ends), len(packs), ended, missing, _notes(missing, ends, ended, len(packs), now)
    )


def _notes(
    missing: tuple[str, ...], ends: dict[str, datetime | None], ended: int, packs: int, now: datetime
) -> list[str]:
    notes = []
    if missing:
        more = f" and {len(missing) - 1} more of {len(ends)} that were asked" if missing[1:] else ""
        notes.append(f"not locked, although the configuration says so: {missing[0]}{more}")
    open_now = [one for one, until in ends.items() if one not in missing and (until is None or until <= now)]
    small = [one for one in open_now if not one.startswith("data/")]
    parts = [f"{ended} of {packs} packs"] if ended else []
    parts += [f"{len(small)} of the objects that every restore needs ({small[0]})"] if small else []
    if parts:
        notes.append(f"the lock is over for {' and '.join(parts)}: whoever holds the key can delete them")
    return notes


def _newest(infos: Iterable[ObjectInfo], number: int) -> list[ObjectInfo]:
    return sorted(infos, key=lambda info: info.modified)[-number:]


def _some(infos: Iterable[ObjectInfo], ids: Iterable[str]) -> list[ObjectInfo]:
    names = {f"snapshots/{one}" for one in ids}
    return [info for info in infos if info.name in names]
