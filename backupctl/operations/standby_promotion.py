"""`standby promote`: a standby becomes the primary of its jobs, and the old one is fenced off.

Order: *fence in the store* (nobody pushes or commits for the old primary from here on) → what was stored until then is brought
and replayed → *promoted.json on the host* (no refresh from here on) → servers promoted → where they turned, in the store → audit
trail. Killed anywhere, the same command goes on: each step is found done or not done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from backupctl.clock import iso
from backupctl.config.models import Job
from backupctl.config.standby import StandbySettings
from backupctl.errors import CouldNotRunError
from backupctl.operations.context import Context, actor
from backupctl.operations.standby import PROMOTED as PROMOTED_EVENT
from backupctl.operations.standby import newest_unsuspicious, open_place, refresh_job, standby_of
from backupctl.operations.standby_kept import Handed, ServerState
from backupctl.operations.standby_place import PROMOTED, Place
from backupctl.operations.standby_servers import Servers, warm_sources
from backupctl.repository.fence import Began, Fence, FencedOffError, find_fence, raise_fence, save_began
from backupctl.repository.repository import Repository


@dataclass(slots=True)
class JobPromotion:
    """`epoch`: the one that begins. `data`: of what the files are. `problems`: why it cannot be promoted as it is."""

    job: str
    repository: str
    epoch: int
    fenced: bool  # by an earlier call that did not end
    snapshot: str
    data: datetime
    servers: list[ServerState] = field(default_factory=list)
    old_hosts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return found | {"servers": [one.fields() for one in self.servers]}


@dataclass(slots=True)
class Handover:
    """What the job's configuration has to say from now on: `lines` as (key, value)."""

    job: str
    epoch: int
    lines: list[tuple[str, str]]
    timelines: dict[str, int]


def plan(context: Context, name: str) -> list[JobPromotion]:
    """What would be promoted, and what stands against it; nothing is changed. Raises what `refresh` does."""
    settings = standby_of(context, name)
    place = open_place(context, name)
    place.require()
    return [_plan_job(context, place, settings, context.job(one)) for one in settings.jobs]


def _plan_job(context: Context, place: Place, settings: StandbySettings, job: Job) -> JobPromotion:
    repository = context.resources.repository(job.repository)
    snapshot = newest_unsuspicious(context, repository, job)
    state = place.state(job.job).mirror
    hosts = sorted({one.host for one in job.sources.values()})
    before = place.promoted()  # an earlier call got so far: its epoch, whatever the configuration says by now
    epoch = int(before["epochs"][job.job]) if before is not None else job.epoch + 1
    fence = find_fence(repository, job.job, epoch)
    ours = fence is not None and (fence.standby, fence.host) == (place.name, settings.host)
    found = JobPromotion(job.job, job.repository, epoch, ours, snapshot.id, snapshot.time, old_hosts=hosts)
    if fence is not None and not ours:
        found.problems.append(
            f"standby {fence.standby} on host {fence.host} was promoted at {fence.created}, by {fence.by}"
        )
    if not state.snapshots:
        found.problems.append(f"nothing lies there yet: backupctl standby refresh {place.name}")
    found.servers = list(Servers(context, place, settings, job).look(repository, snapshot))
    running = {one.source for one in found.servers}
    found.problems += [
        f"the server of {source} does not run there: backupctl standby refresh {place.name}"
        for source in warm_sources(context, settings, job)
        if source not in running
    ]
    return found


def apply(context: Context, name: str, plans: list[JobPromotion], *, accept_loss: bool = False) -> list[Handover]:
    """`accept_loss`: also when a server cannot be brought to the end of what is stored. Raises CouldNotRunError when something
    stands against it, FencedOffError when another was promoted meanwhile."""
    problems = [f"{one.job}: {problem}" for one in plans for problem in one.problems]
    if problems:
        raise CouldNotRunError(f"standby {name} cannot be promoted: {'; '.join(problems)}", next_step="see above")
    settings = standby_of(context, name)
    place = open_place(context, name)
    with place.exclusive():
        place.require()
        context.audit("standby.promoting", name, jobs=[one.job for one in plans], host=settings.host)
        for one in plans:
            _fence(context, place, context.resources.repository(one.repository), one)
        if place.promoted() is None:
            for one in plans:
                _bring_the_rest(context, place, settings, context.job(one.job), accept_loss=accept_loss)
            epochs = {one.job: one.epoch for one in plans}
            place.write(PROMOTED, {"at": iso(context.clock.now()), "by": actor(), "epochs": epochs})
        handovers = [_promote(context, place, settings, one) for one in plans]
        context.audit(PROMOTED_EVENT, name, epochs={one.job: one.epoch for one in plans}, host=settings.host)
    return handovers


def _fence(context: Context, place: Place, repository: Repository, one: JobPromotion) -> None:
    fence = Fence(one.job, one.epoch, place.name, place.host.name, actor(), iso(context.clock.now()))
    stands = raise_fence(repository, fence)
    if (stands.standby, stands.host) != (fence.standby, fence.host):
        raise FencedOffError(
            f"job {one.job}: standby {stands.standby} on host {stands.host} was promoted first, at {stands.created}",
            next_step="there is one primary: use that one",
        )
    context.reporter.event(
        "note", f"{one.job}: fenced: backups and log of epoch {one.epoch - 1} are refused from now on"
    )


def _bring_the_rest(context: Context, place: Place, settings: StandbySettings, job: Job, *, accept_loss: bool) -> None:
    done = refresh_job(context, place, settings, job, anew=False)
    if done.problems:
        raise CouldNotRunError(
            f"{job.job}: {len(done.problems)} file(s) could not be restored, the first: {done.problems[0].path}: "
            f"{done.problems[0].message}",
            next_step="the old primary is fenced off already; repair the repository, then promote again",
        )
    for server in done.servers:
        if not server.recovering or not server.lag_seconds:
            continue
        what = f"{job.job}/{server.source} ends {server.lag_seconds:.0f} s before the newest commit that is stored"
        if not accept_loss:
            raise CouldNotRunError(
                f"{what}: {'; '.join(server.notes)}",
                next_step=f"`standby refresh {place.name} --rebuild {job.job}/{server.source}` begins at the newest base backup; "
                "or promote with --accept-loss. The old primary is fenced off already",
            )
        context.reporter.event("warning", f"{what}: accepted", job=job.job)


def _promote(context: Context, place: Place, settings: StandbySettings, one: JobPromotion) -> Handover:
    job = context.job(one.job)
    servers = Servers(context, place, settings, job)
    handed: dict[str, Handed] = {}
    for source in warm_sources(context, settings, job):
        context.reporter.event("note", f"{job.job}/{source}: ending its recovery")
        handed[source] = servers.server(source).promote()
    turned = {source: found.turning for source, found in handed.items() if found.turning is not None}
    save_began(context.resources.repository(one.repository), Began(one.job, one.epoch, turned))
    lines = [("epoch", str(one.epoch))]
    for source, options in job.sources.items():
        where = f"sources.{source}.{options.kind}"
        lines.append((f"{where}.host", settings.host))
        if source in handed:
            lines += [(f"{where}.{key}", value) for key, value in handed[source].lines]
        elif paths := getattr(options.options, "paths", None):
            root = (place.files(job.job) + b"/" + source.encode()).decode("utf-8", "backslashreplace")
            lines += [(f"{where}.paths", f"{root}/{str(path).lstrip('/')}") for path in paths]
    return Handover(job.job, one.epoch, lines, {source: one.new_timeline for source, one in turned.items()})
