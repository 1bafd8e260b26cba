"""Several series of MariaDB's or MySQL's programs side by side on a host: which ones fit a server. Unlike PostgreSQL's, packages
of a distribution keep one series on the PATH; others lie in directories of their own, which `bin_dir` names."""

from __future__ import annotations

import re
from dataclasses import replace

from backupctl.errors import SourceError
from backupctl.hosts.protocol import Host
from backupctl.sources.mariadb_client import MariadbClient, find_client, numbers, series
from backupctl.sources.mariadb_family import MARIADB, Family

SERIES = "{series}"
_BACKUP_VERSION = re.compile(r"based on MariaDB server (\d+\.\d+\.\d+)")


def directories(host: Host, bin_dir: str | None) -> list[str]:
    """Where programs may be, oldest series first; "" is the PATH, which counts without `bin_dir` only. `{series}` in it stands
    for any version such as 10.11 or 11.4.2."""
    if not bin_dir:
        return [""]
    if SERIES not in bin_dir:
        return [bin_dir.rstrip("/")]
    before, _, after = bin_dir.rstrip("/").partition(SERIES)
    parent, _, start = before.rpartition("/")
    end, slash, rest = after.partition("/")
    pattern = re.compile(re.escape(start) + r"(\d+\.\d+(?:\.\d+)?)" + re.escape(end))
    try:
        names = [name.decode("utf-8", "surrogateescape") for name in host.list_directory((parent or "/").encode())]
    except OSError:
        return []
    found = sorted((numbers(match[1]), name) for name in names if (match := pattern.fullmatch(name)))
    return [f"{parent}/{name}{slash}{rest}" for _, name in found]


def inside(directory: str, program: str) -> str:
    return f"{directory}/{program}" if directory else program


def version_of(host: Host, program: str, family: Family = MARIADB) -> str:
    """E.g. "10.11.14"; "" where it is not there, or does not say its version as the family's programs do."""
    completed = host.run([program, "--version"])
    if completed.returncode != 0:
        return ""
    said = completed.stdout.decode("utf-8", "replace") + completed.stderr
    found = _BACKUP_VERSION.search(said)
    return found.group(1) if found else family.version_said(said)


def any_client(client: MariadbClient, bin_dir: str | None) -> MariadbClient:
    """One that can ask a server for its version: the newest. Raises SourceError when there is none."""
    if not bin_dir or SERIES not in bin_dir:
        return find_client(client, bin_dir)
    family = client.family
    for directory in reversed(directories(client.host, bin_dir)):
        if version_of(client.host, inside(directory, family.clients[0]), family):
            return _programs_in(client, directory)
    raise SourceError(
        f"source {client.source}: no {family.clients[0]} in {bin_dir} on host {client.host.name}",
        source=client.source,
        next_step=f"install {family.name}'s client programs there, or correct `bin_dir` of source {client.source}",
    )


def _programs_in(client: MariadbClient, directory: str) -> MariadbClient:
    family = client.family
    return replace(client, client=inside(directory, family.clients[0]), dumper=inside(directory, family.dumpers[0]))


def choose_client(client: MariadbClient, bin_dir: str | None, server: str) -> MariadbClient:
    """Programs of the server's series, else of the next newer one. Raises SourceError where there are only older ones."""
    if not bin_dir or SERIES not in bin_dir:
        refuse_older(client, server)
        return client
    family = client.family
    versions = {
        directory: version
        for directory in directories(client.host, bin_dir)
        if (version := version_of(client.host, inside(directory, family.dumpers[0]), family))
    }
    wanted = numbers(series(server))
    fitting = [one for one, version in versions.items() if numbers(series(version)) >= wanted]
    if not fitting:
        there = f"the newest is {list(versions.values())[-1]}" if versions else "there is none"
        raise SourceError(
            f"source {client.source}: the server is {family.name} {server}; of {family.dumpers[0]} in {bin_dir} on host"
            f" {client.host.name} {there}",
            source=client.source,
            next_step=f"install {family.name}'s client programs {series(server)} or newer there, or correct `bin_dir`",
        )
    best = min(fitting, key=lambda one: numbers(series(versions[one])))
    same = [one for one in fitting if series(versions[one]) == series(versions[best])]
    chosen = max(same, key=lambda one: numbers(versions[one]))
    return _programs_in(client, chosen)


def refuse_older(client: MariadbClient, server: str) -> None:
    """A dump program that is older than the server may leave out what it has never heard of, and say nothing. Raises
    SourceError; one that does not say its version as the family's do passes."""
    family = client.family
    version = version_of(client.host, client.dumper, family)
    if version and numbers(version) < numbers(series(server)):
        raise SourceError(
            f"source {client.source}: {client.dumper} {version} is older than the server, {server}",
            source=client.source,
            next_step=f"install {family.client_package} {series(server)} or newer on host {client.host.name}, or set `bin_dir`",
        )


def refuse_other_series(client: MariadbClient, program: str, server: str) -> None:
    """mariadb-backup reads the server's files: it has to know their format. Raises SourceError."""
    version = version_of(client.host, program)
    if version and series(version) != series(server):
        raise SourceError(
            f"source {client.source}: {program} {version} is of another series than the server, {server}",
            source=client.source,
            next_step=f"install mariadb-backup of series {series(server)} on host {client.host.name}, or set `bin_dir`",
        )
