"""What names what: repositories, hosts, channels, staging hosts; and paths made absolute where that depends on a host."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel

from backupctl.config.document import Document, Location
from backupctl.config.models import LOCAL, Job, Settings
from backupctl.config.paths import absolute, rebased
from backupctl.hosts.options import HostOptions

SOURCE_PATHS = ("path", "paths", "scratch")  # text fields of source options that name files on the source's host


def check_settings(settings: Settings, document: Document) -> None:
    for name, host in settings.hosts.items():
        jump = jump_of(host)
        if jump is not None and _unknown(document, ("hosts", name, "ssh", "jump"), "host", jump, settings.hosts):
            continue
        seen = [name]
        while jump is not None and jump in settings.hosts:
            if jump in seen:
                document.fault(("hosts", name, "ssh", "jump"), f"leads back to itself: {' → '.join([*seen, jump])}")
                break
            seen.append(jump)
            jump = jump_of(settings.hosts[jump])


def check_job(job: Job, settings: Settings, document: Document, where: Location) -> None:
    _unknown(document, (*where, "repository"), "repository", job.repository, settings.repositories)
    for name, source in job.sources.items():
        at: Location = (*where, "sources", name, source.kind)
        if not _unknown(document, (*at, "host"), "host", source.host, settings.hosts):
            _check_source_paths(source.options, source.host, settings, document, at)
    for number, channel in enumerate(job.notify):
        _unknown(document, (*where, "notify", number), "channel in `notify`", channel, settings.notify)
    for name, drill in job.drills.items():
        at = (*where, "drills", name)
        owner, at = (document, at) if at in document.values else (document, where)
        if not _unknown(owner, (*at, "on"), "host", drill.on, settings.hosts):
            if settings.hosts[drill.on].role != "staging":
                owner.fault((*at, "on"), f"host {drill.on!r} is no staging host; give it `role: staging`")
        for number, probe in enumerate(drill.probes):
            if probe.sql is not None and probe.sql.source is not None:
                _unknown(owner, (*at, "probes", number, "sql", "source"), "source", probe.sql.source, job.sources)


def _unknown(document: Document, where: Location, kind: str, name: str, known: Iterable[str]) -> bool:
    names = sorted(known)
    if name in names:
        return False
    close = difflib.get_close_matches(name, names, 1, 0.6)
    hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(names) or 'none'}"
    document.fault(where, f"no {kind} {name!r}; {hint}")
    return True


def is_local(host: HostOptions) -> bool:
    return getattr(host, "ssh", None) is None


def jump_of(host: HostOptions) -> str | None:
    return host.ssh.jump if host.ssh is not None else None


def _check_source_paths(options: BaseModel, host: str, settings: Settings, document: Document, at: Location) -> None:
    if is_local(settings.hosts[host]):
        return
    for field in SOURCE_PATHS:
        value = getattr(options, field, None)
        for path in [value] if isinstance(value, str) else value or []:
            if not str(path).startswith("/"):
                document.fault((*at, field), f"must be absolute: {path!r} is on host {host!r}")


def rebased_hosts(hosts: dict[str, HostOptions], base: Path) -> dict[str, HostOptions]:
    """With the host `local`, which always exists. The scratch directory of a far host is a path over there."""
    found = {LOCAL: HostOptions.model_validate({"local": {}})}
    for name, host in hosts.items():
        found[name] = rebased(host, base, texts=("scratch",) if is_local(host) else ())
    return found


def rebased_sources(job: Job, settings: Settings, base: Path) -> Job:
    """The job with the paths of its sources made absolute, where the source is on this machine."""
    sources = {}
    for name, source in job.sources.items():
        texts = SOURCE_PATHS if is_local(settings.hosts[source.host]) else ()
        sources[name] = source.model_copy(update={"options": rebased(source.options, base, texts=texts)})
    return job.model_copy(update={"sources": sources})


def catalog_url(text: str, base: Path, document: Document) -> str:
    """The URL with an absolute file. A password in it is a fault: the file may be readable by many."""
    scheme, colon, rest = text.partition("://")
    try:
        url = urlsplit(text)
        secret = url.password is not None or "password" in parse_qs(url.query)
    except ValueError:
        colon, secret = "", False
    if secret:
        document.fault(("catalog",), "must not hold a password; name a file: …/NAME?passfile=/etc/backupctl/pgpass")
    elif scheme == "sqlite" and colon and rest.startswith("/") and len(rest) > 1:
        return f"sqlite:///{absolute(Path(rest[1:]), base)}"
    elif not colon or scheme not in ("postgresql", "postgresql+psycopg"):
        document.fault(("catalog",), "must be sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME")
    return text
