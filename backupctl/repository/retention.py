"""Which snapshots to keep: pure, so that it can be shown and tested before anything is deleted.

The rules are restic's `forget`: per rule, the newest snapshot of each of the last N buckets is kept, and while a rule
has not found N yet, the oldest snapshot too. Buckets are of the local calendar. Give one job's snapshots at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from backupctl.errors import ConfigError

INCOMPLETE_FOR = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """None: the rule is not used. `keep_within` counts back from the newest complete snapshot, not from now, so that
    nothing expires while backups have stopped."""

    keep_last: int | None = None
    keep_hourly: int | None = None
    keep_daily: int | None = None
    keep_weekly: int | None = None
    keep_monthly: int | None = None
    keep_yearly: int | None = None
    keep_within: timedelta | None = None

    def __post_init__(self) -> None:
        values = [getattr(self, field.name) for field in fields(self)]
        numbers = [value for value in values if isinstance(value, int)]
        if any(number < 0 for number in numbers) or (self.keep_within or timedelta(1)) <= timedelta(0):
            raise ConfigError("a retention rule is negative", next_step="use positive numbers and durations")
        if not any(values):
            raise ConfigError(
                "the retention policy keeps nothing", next_step="give at least one keep_* rule, such as keep_daily: 14"
            )


@dataclass(frozen=True, slots=True)
class RetentionItem:
    """One snapshot, as far as retention cares."""

    id: str
    time: datetime
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    """`reasons`: every rule that keeps the snapshot; empty when nothing does."""

    item: RetentionItem
    keep: bool
    reasons: tuple[str, ...]


_BUCKETS: tuple[tuple[str, Callable[[datetime], tuple[int, ...]]], ...] = (
    ("hourly", lambda local: (local.year, local.month, local.day, local.hour, local.fold)),
    ("daily", lambda local: (local.year, local.month, local.day)),
    ("weekly", lambda local: tuple(local.isocalendar()[:2])),
    ("monthly", lambda local: (local.year, local.month)),
    ("yearly", lambda local: (local.year,)),
)


def plan_retention(
    items: Sequence[RetentionItem],
    policy: RetentionPolicy,
    *,
    now: datetime,
    zone: str,
    held: Mapping[str, str],
    suspicion: Mapping[str, str] | None = None,
) -> list[Decision]:
    """One decision per item, oldest first. `zone` is an IANA name; `held` maps ids of held snapshots to why, `suspicion`
    those that stay because one looks attacked.

    An incomplete snapshot fills no bucket: it stays until a newer complete one exists and it is 7 days old."""
    newest_first = sorted(items, key=lambda item: (item.time, item.id), reverse=True)
    complete = [item for item in newest_first if item.complete]
    reasons: dict[str, list[str]] = {item.id: [] for item in items}
    for item in newest_first:
        if item.id in held:
            reasons[item.id].append(f"held: {held[item.id]}")
        if suspicion and item.id in suspicion:
            reasons[item.id].append(f"anomaly: {suspicion[item.id]}")
    _keep_by_number(complete, policy, ZoneInfo(zone), reasons)
    if policy.keep_within and complete:
        start = min(complete[0].time, now) - policy.keep_within
        for item in complete:
            if item.time >= start:
                reasons[item.id].append(f"within {_duration(policy.keep_within)}")
    for item in newest_first:
        if item.complete:
            continue
        if not complete or complete[0].time <= item.time:
            reasons[item.id].append("incomplete, no newer complete snapshot")
        elif now - item.time < INCOMPLETE_FOR:
            reasons[item.id].append("incomplete, younger than 7 days")
    return [Decision(item, bool(reasons[item.id]), tuple(reasons[item.id])) for item in reversed(newest_first)]


def _keep_by_number(
    complete: Sequence[RetentionItem], policy: RetentionPolicy, zone: ZoneInfo, reasons: dict[str, list[str]]
) -> None:
    for number, item in enumerate(complete[: policy.keep_last or 0], start=1):
        reasons[item.id].append(f"last {number} of {policy.keep_last}")
    for rule, bucket_of in _BUCKETS:
        wanted = getattr(policy, f"keep_{rule}") or 0
        found = 0
        previous: tuple[int, ...] | None = None
        for item in complete:
            if found == wanted:
                break
            bucket = bucket_of(item.time.astimezone(zone))
            if bucket != previous:
                found += 1
                reasons[item.id].append(f"{rule} {found} of {wanted}")
            elif item is complete[-1]:
                reasons[item.id].append(f"oldest, while {rule} has {found} of {wanted}")
            previous = bucket


def _duration(duration: timedelta) -> str:
    hours, rest = divmod(int(duration.total_seconds()), 3600)
    if rest:
        return f"{int(duration.total_seconds())}s"
    return f"{hours}h" if hours % 24 else f"{hours // 24}d"
