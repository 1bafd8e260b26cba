"""What a drill must stay away from, gathered from the configuration and from what backups recorded of their machines."""

from __future__ import annotations

import os
from collections.abc import Iterator

from sqlalchemy.engine import make_url

from backupctl.config.models import LOCAL
from backupctl.drills.interlocks import Production, machine_hash, machines_of, source_paths
from backupctl.operations.context import Context

REGISTERED = "host.registered"


def production_of(context: Context, staging: str) -> Production:
    """For a drill on the host `staging`. Machines as the newest snapshot of each job has them, and this one."""
    options = context.settings.hosts[staging]
    machines = machines_of(
        (job, row.sources or []) for job in context.settings.jobs for row in context.catalog.snapshots(job=job)[:1]
    )
    here = machine_hash(context.resources.host(LOCAL).facts())
    if here and options.local is None:
        machines[here] = "backupctl itself"
    registered = context.catalog.events_of([REGISTERED], staging)
    return Production(
        machines=machines,
        paths=dict(_paths(context)),
        nonce=str(registered[-1].detail.get("nonce", "")) if registered else "",
        same_machine=options.same_machine or options.local is not None,
        unreachable=_addresses(context) if options.isolated else None,
    )


def _addresses(context: Context) -> dict[str, str]:
    """Where sshd of each machine listens that is no staging host."""
    return {
        f"{host.ssh.address}:{host.ssh.port}": name
        for name, host in context.settings.hosts.items()
        if host.ssh is not None and host.role != "staging"
    }


def _paths(context: Context) -> Iterator[tuple[bytes, str]]:
    """Local ones, absolute."""
    settings = context.settings
    for name, repository in settings.repositories.items():
        if repository.storage.local is not None:
            yield os.fsencode(settings.base / repository.storage.local.path.expanduser()), f"repository {name}"
    url = make_url(settings.catalog)
    if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        yield os.fsencode(settings.base / url.database), "catalog"
    yield os.fsencode(settings.path), "configuration"
    local = {name for name, host in settings.hosts.items() if host.local is not None}
    for job in settings.jobs.values():
        for source, one in job.sources.items():
            if one.host in local:
                yield from ((path, f"source {job.job}/{source}") for path in source_paths(one.options))
