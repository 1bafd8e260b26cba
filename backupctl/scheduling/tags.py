"""Which worker of a fleet may execute a run: one that has every tag that its hosts and repositories need.

A queue stands for one set of needed tags, so that a worker listens to the queues that it can serve and to no other. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime

from backupctl.catalog.models import Run, Worker
from backupctl.config.models import Settings
from backupctl.scheduling.admission import uses
from backupctl.scheduling.following import steps

_LONGEST = 40  # PostgreSQL cuts the name of a channel at 63 bytes, and Procrastinate puts 23 before ours


def needs(settings: Settings, kind: str, name: str) -> frozenset[str]:
    """The tags that a worker must have for this run."""
    hosts, repositories = uses(settings, kind, name)
    of_hosts = (tag for one in hosts if one in settings.hosts for tag in settings.hosts[one].needs)
    of_repositories = (tag for one in repositories for tag in settings.repositories[one].needs)
    return frozenset((*of_hosts, *of_repositories))


def queue_of(tags: Collection[str]) -> str:
    """The name of the queue of runs that need exactly these."""
    text = ",".join(sorted(tags)) or "any"
    return text if len(text) <= _LONGEST else hashlib.sha256(text.encode()).hexdigest()[:_LONGEST]


def queues_for(settings: Settings, tags: Collection[str]) -> list[str]:
    """Every queue that a worker with these tags can serve, of those that this configuration can fill."""
    have = frozenset(tags)
    found = {needs(settings, kind, name) for kind, name in _everything(settings)}
    return sorted(queue_of(one) for one in found if one <= have)


def unserved(settings: Settings, fleet: Collection[Collection[str]]) -> list[str]:
    """The sets of tags, in words, that some run needs and no worker of the fleet has."""
    found = {needs(settings, kind, name) for kind, name in _everything(settings)}
    return sorted(", ".join(sorted(one)) or "none" for one in found if not any(one <= set(tags) for tags in fleet))


def taking(settings: Settings, workers: Iterable[Worker], now: datetime) -> list[Worker]:
    """Those that take new runs: not silent, not draining. None without a fleet."""
    fleet = settings.fleet
    return [one for one in workers if fleet and now - one.seen <= fleet.stalled_after and one.draining is None]


def nobody_takes(settings: Settings, workers: Iterable[Worker], run: Run, now: datetime) -> str:
    """Why no worker of the fleet can take this run, in words; "" when one can, or there is no fleet."""
    if settings.fleet is None:
        return ""
    alive, needed = taking(settings, workers, now), needs(settings, run.kind, run.name)
    if not alive:
        return "no worker takes anything: see backupctl worker list"
    if any(needed <= set(one.tags) for one in alive):
        return ""
    return f"no worker has what it needs: {', '.join(sorted(needed))}; see backupctl worker list"


def _everything(settings: Settings) -> Iterator[tuple[str, str]]:
    for job in settings.jobs.values():
        yield "backup", job.job
        divided = (name for name, source in job.sources.items() if getattr(source.options, "split", None) is not None)
        yield from (("stretch", f"{job.job}/{name}/1") for name in divided)
        yield from ((kind, name) for kind, name in steps(job) if kind in ("prune", "copy", "refresh"))
        yield from (("drill", f"{job.job}/{drill}") for drill in job.drills)
    yield from (("check", name) for name in settings.repositories)
