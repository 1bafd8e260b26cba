"""Looking before a drill, stopping one, tidying after a killed one."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import datetime
from statistics import median
from typing import Any

from backupctl.catalog.models import Run
from backupctl.config.models import Job, PriceSettings
from backupctl.drills.model import DrillRequest
from backupctl.drills.sandbox import remove_leftovers
from backupctl.drills.scenario import planned_sources
from backupctl.drills.scenarios.registry import scenario_of
from backupctl.errors import CouldNotRunError, NoSuchError, UsageError, UserError
from backupctl.operations.context import Context, actor
from backupctl.operations.drawing import look
from backupctl.operations.drill import drill_of
from backupctl.operations.records import fingerprint_of, of_job
from backupctl.operations.stopping import stop
from backupctl.repository.format.snapshot import Snapshot
from backupctl.repository.manifest import read_manifest
from backupctl.repository.marking import mark_used
from backupctl.repository.repository import Repository

MEASURED = 5  # drills before, from which the time of the next is reckoned
RUNS_SERVER = {"postgresql", "mariadb", "mysql", "redis"}
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Reading:
    """What one snapshot in one place holds, and what reading it back takes. `cost` is None where the configuration has no
    price."""

    age: str
    place: str
    snapshot: str
    time: datetime
    sources: list[str]
    servers: list[str]
    files: int
    bytes: int
    room: int  # bytes on the staging host
    stored_bytes: int
    packs: int
    cost: float | None
    currency: str


@dataclass(frozen=True, slots=True)
class DrillPlan:
    """`readings`: those that may come, one of which is drawn when the drill runs. `seconds` and what it is from: an estimate,
    None when no drill of that name was measured. `free`: bytes on the staging host, None when it does not answer, see `trouble`."""

    drill: str
    scenario: str
    control: bool
    host: str
    scratch: str
    drawn: bool
    readings: list[Reading]
    missing: dict[str, str]
    one_source: bool
    probes: int
    max_disk: int | None
    free: int | None
    trouble: str
    seconds: float | None
    seconds_from: int
    timeout_seconds: float | None

    def fields(self) -> dict[str, Any]:
        """The first reading's facts stand at the top too: without a draw it is the only one."""
        first = self.readings[0]
        top = {name: getattr(first, name) for name in ("snapshot", "sources", "files", "bytes")}
        return {**asdict(self), **top}


def plan_drill(context: Context, name: str) -> DrillPlan:
    """Reads the repositories' trees and asks the staging host for its room; changes nothing, and draws nothing. Raises
    NoSuchError when there is nothing to rehearse."""
    job, drill_name = drill_of(context, name)
    settings = job.drills[drill_name]
    full, staging = f"{job.job}/{drill_name}", context.settings.hosts[settings.on]
    missing: dict[str, str] = {}
    if settings.select is not None:
        there = look(context, job, drill_name)
        missing = dict(there.missing)
        chosen = [(age, place, one) for age, places in there.ages.items() for place, one in places.items()]
    else:
        complete = of_job(context.resources.repository(job.repository).snapshots(), job.job, complete_only=True)
        chosen = [("latest", job.repository, complete[-1].id)] if complete else []
    if not chosen:
        raise NoSuchError(f"job {job.job} has no complete snapshot to rehearse", next_step=f"backupctl run {job.job}")
    free, trouble = _free(context, settings.on)
    seconds, number = _seconds(context, full)
    return DrillPlan(
        drill=full,
        scenario=settings.scenario,
        control=settings.control,
        host=settings.on,
        scratch=str(staging.scratch),
        drawn=settings.select is not None,
        readings=[_reading(context, job, drill_name, *one) for one in chosen],
        missing=missing,
        one_source=settings.select is not None and settings.select.sources == "one",
        probes=len(settings.probes),
        max_disk=staging.max_disk,
        free=free,
        trouble=trouble,
        seconds=seconds,
        seconds_from=number,
        timeout_seconds=settings.timeout.total_seconds() if settings.timeout else None,
    )


def _reading(context: Context, job: Job, drill_name: str, age: str, place: str, snapshot_id: str) -> Reading:
    repository = context.resources.repository(place)
    snapshot = repository.load_snapshot(snapshot_id)
    facts = fingerprint_of(repository, snapshot)
    request = _request(context, job, drill_name, repository, snapshot, facts)
    stored, packs = what_is_read(repository, snapshot)
    kinds = {name: one["kind"] for name, one in facts["sources"].items()}
    price = context.settings.repositories[place].price
    return Reading(
        age=age,
        place=place,
        snapshot=snapshot.id,
        time=snapshot.time,
        sources=planned_sources(request, facts),
        servers=sorted(name for name, kind in kinds.items() if kind in RUNS_SERVER),
        files=int(facts["summary"].get("total_files_processed", 0)),
        bytes=int(facts["summary"].get("total_bytes_processed", 0)),
        room=scenario_of(request.settings.scenario).room(request, facts),
        stored_bytes=stored,
        packs=packs,
        cost=cost_of(price, stored, packs) if price is not None else None,
        currency=price.currency if price is not None else "",
    )


def _request(
    context: Context, job: Job, drill_name: str, repository: Repository, snapshot: Snapshot, facts: dict[str, Any]
) -> DrillRequest:
    """As far as a scenario needs one to say how much room it takes."""
    settings = job.drills[drill_name]
    return DrillRequest(
        id="",
        name=f"{job.job}/{drill_name}",
        job=job,
        settings=settings,
        snapshot=snapshot,
        reader=None,
        fingerprint=facts,
        manifest=read_manifest(repository, facts["manifest"]),
        sources={},
        host=context.resources.host(settings.on),
        scratch=b"",
        declared=context.clock.now(),
    )


def what_is_read(repository: Repository, snapshot: Snapshot) -> tuple[int, int]:
    """(stored bytes, packs) that a restore of all of the snapshot reads. Raises DamageError for what cannot be found."""
    index = repository.index
    used, _ = mark_used(repository, index, [snapshot.tree], {})
    size, packs = 0, set[bytes]()
    number = used.find(1)
    while number >= 0:
        place = index.at(number)
        size += place.blob.length
        packs.add(place.pack)
        number = used.find(1, number + 1)
    return size, len(packs)


def cost_of(price: PriceSettings, stored_bytes: int, requests: int) -> float:
    """In the price's currency, rounded up to its hundredth."""
    cost = price.read_per_gib * stored_bytes / GIB + price.per_1000_requests * requests / 1000
    return math.ceil(cost * 100 - 1e-9) / 100


def _free(context: Context, name: str) -> tuple[int | None, str]:
    try:
        scratch = str(context.settings.hosts[name].scratch).encode()
        return context.resources.host(name).free_bytes(scratch), ""
    except (UserError, OSError) as error:
        return None, error.message if isinstance(error, UserError) else str(error)


def _seconds(context: Context, drill: str) -> tuple[float | None, int]:
    """The median of how long the last drills of that name took that came to an end, and how many those are."""
    taken = [
        (one.finished - one.declared).total_seconds()
        for one in context.catalog.drills(drill=drill, limit=MEASURED)
        if one.verdict in ("pass", "stale", "fail")
    ]
    return (median(taken) if taken else None), len(taken)


def abort_drills(context: Context, name: str | None) -> list[Run]:
    """Ask the running drills of that name (or with that id; without one, the only one that runs) to stop, and take those that
    wait out of the queue. Raises NoSuchError when there is none, UsageError when several could be meant."""
    live = context.catalog.runs(kind="drill", states=("queued", "running"))
    chosen = [run for run in live if name is None or run.name == name or run.id.startswith(name)]
    if not chosen:
        which = f"no drill {name!r} runs or waits" if name else "no drill runs or waits"
        raise NoSuchError(which, next_step="backupctl drill list")
    if name is None and len(chosen) > 1:
        known = ", ".join(sorted({run.name for run in chosen}))
        raise UsageError(
            f"{len(chosen)} drills run or wait: {known}", next_step="name one: backupctl drill abort DRILL"
        )
    message = f"aborted by {actor()}"
    for run in chosen:
        stop(context, run, "drill.abort", message=message)
    return chosen


def staging_hosts(context: Context, name: str | None) -> list[str]:
    """The staging host of a drill, or the one called so, or all. Raises NoSuchError."""
    staging = [one for one, options in context.settings.hosts.items() if options.role == "staging"]
    if name is None:
        return staging
    if "/" in name:
        job, drill_name = drill_of(context, name)
        return [job.drills[drill_name].on]
    return [name]


def clean_staging(context: Context, host_name: str) -> list[str]:
    """Remove what killed drills left on a staging host; one line for each thing removed."""
    options = context.settings.hosts.get(host_name)
    if options is None or options.role != "staging":
        known = ", ".join(name for name, one in context.settings.hosts.items() if one.role == "staging") or "none"
        raise NoSuchError(f"no staging host named {host_name!r}; known: {known}", next_step="backupctl config show")
    done = remove_leftovers(context.resources.host(host_name), str(options.scratch).encode(), context.clock)
    if done:
        context.audit("drill.cleanup", host_name, removed=len(done))
    unproven = [fact for one in done if not one.proved for fact in one.facts]
    if unproven:
        raise CouldNotRunError(
            f"clean-up on {host_name} is not proven: {'; '.join(unproven)}", next_step="look there by hand"
        )
    return [fact for one in done for fact in one.facts]
