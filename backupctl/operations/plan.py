"""Looking before a drill, tidying after a killed one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backupctl.drills.sandbox import remove_leftovers
from backupctl.errors import CouldNotRunError, NoSuchError
from backupctl.operations.context import Context
from backupctl.operations.drill import drill_of
from backupctl.operations.records import fingerprint_of, of_job


@dataclass(frozen=True, slots=True)
class DrillPlan:
    drill: str
    host: str
    scratch: str
    snapshot: str
    sources: list[str]
    files: int
    bytes: int
    probes: int

    def fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def plan_drill(context: Context, name: str) -> DrillPlan:
    job, drill_name = drill_of(context, name)
    settings = job.drills[drill_name]
    repository = context.resources.repository(job.repository)
    complete = of_job(repository.snapshots(), job.job, complete_only=True)
    if not complete:
        raise NoSuchError(f"job {job.job} has no complete snapshot to rehearse", next_step=f"backupctl run {job.job}")
    facts = fingerprint_of(repository, complete[-1])
    return DrillPlan(
        drill=f"{job.job}/{drill_name}",
        host=settings.on,
        scratch=str(context.settings.hosts[settings.on].scratch),
        snapshot=complete[-1].id,
        sources=sorted(facts["sources"]),
        files=facts["summary"]["total_files_processed"],
        bytes=facts["summary"]["total_bytes_processed"],
        probes=len(settings.probes),
    )


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
