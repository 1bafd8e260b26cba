"""What a drill must stay away from, gathered from the configuration and from what backups recorded of their machines."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy.engine import make_url

from backupctl.config.models import LOCAL, Settings
from backupctl.drills.interlocks import Production, machine_hash, machines_of, source_paths
from backupctl.operations.context import Context
from backupctl.sources.options import SourceOptions, near
from backupctl.storage.options import endpoint_of

REGISTERED = "host.registered"


def production_of(context: Context, staging: str, read_there: Collection[str] = ()) -> Production:
    """For a drill on the host `staging`, which itself reads the repositories `read_there`. Machines as the newest snapshot of each
    job has them, and this one."""
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
        unreachable=resolved(addresses(context.settings, read_there)) if options.isolated else None,
    )


def addresses(settings: Settings, read_there: Collection[str] = ()) -> dict[tuple[str, int], str]:
    """Where production listens, by the configuration → what it is: sshd of each machine that is no staging host, the server of
    each database source, the store of each repository but `read_there`, the catalog. What listens on this machine has no address
    here."""
    ssh = {name: host.ssh for name, host in settings.hosts.items() if host.ssh is not None and host.role != "staging"}
    found = {(one.address, one.port): name for name, one in ssh.items()}
    for job in settings.jobs.values():
        for source, one in job.sources.items():
            for address, port in one.options.listens() if isinstance(one.options, SourceOptions) else ():
                machine = ssh.get(one.host)
                if where := address or (machine.address if machine is not None else ""):
                    found.setdefault((where, port), f"source {job.job}/{source}")
    stores = {
        name: endpoint_of(one.storage.s3) for name, one in settings.repositories.items() if one.storage.s3 is not None
    }
    needed = {stores[name] for name in read_there if name in stores}
    for name, place in stores.items():
        if place not in needed:
            found.setdefault(place, f"repository {name}")
    url = make_url(settings.catalog)
    if url.get_backend_name() != "sqlite" and (host := near(url.host or "")):
        found.setdefault((host, url.port or 5432), "catalog")
    return found


def resolved(places: Mapping[tuple[str, int], str]) -> dict[str, str]:
    """ADDRESS:PORT of each, and of the addresses that its name has for this machine: a staging host that nothing goes out from
    knows no names, which would prove nothing."""
    with ThreadPoolExecutor(16) as pool:
        numbers = list(pool.map(_numbers, places))
    found = {f"{address}:{port}": what for (address, port), what in places.items()}
    for ((_, port), what), those in zip(places.items(), numbers, strict=True):
        for number in those:
            found.setdefault(f"{number}:{port}", what)
    return found


def _numbers(place: tuple[str, int]) -> list[str]:
    try:
        return sorted({str(one[4][0]) for one in socket.getaddrinfo(*place, type=socket.SOCK_STREAM)})
    except OSError:
        return []  # it is no place that this machine could reach either


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
