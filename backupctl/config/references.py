"""What names what: repositories, hosts, channels, staging hosts. And paths made absolute where that depends on a host.

The checks read plain values, not models, so that a fault elsewhere hides none of these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from backupctl.config.document import Document, Location
from backupctl.config.host_files import HostFile
from backupctl.config.models import LOCAL
from backupctl.config.paths import absolute, rebased
from backupctl.hosts.options import HostOptions

SOURCE_PATHS = ("path", "paths", "scratch")  # text fields of source options that name files on the source's host


@dataclass(frozen=True, slots=True)
class Known:
    """What can be named, right or wrong, and where each host stands."""

    repositories: dict[str, Any]
    hosts: dict[str, Any]
    channels: dict[str, Any]
    places: dict[str, tuple[Document, Location]]
    fleet: bool = False

    @classmethod
    def of(cls, value: Any, files: Sequence[HostFile], main: Document) -> Known:
        """`files` are hosts beside those of the main file; one that is there already is a fault of its file."""
        places: dict[str, tuple[Document, Location]] = {
            name: (main, ("hosts", name)) for name in _mapping(value, "hosts")
        }
        hosts = {LOCAL: {"local": {}}, **_mapping(value, "hosts")}
        for one in files:
            if one.name in places:
                document, where = places[one.name]
                line, _ = document.place(where)
                one.document.fault(("host",), f"{one.name!r} is a host already, in {document.shown}:{line}")
            elif one.name:
                places[one.name], hosts[one.name] = (one.document, ()), one.value
        return cls(_mapping(value, "repositories"), hosts, _mapping(value, "notify"), places, _fleet(value))

    def is_far(self, host: Any) -> bool:
        return isinstance(host, str) and "ssh" in _mapping(self.hosts, host)


def _fleet(value: Any) -> bool:
    return isinstance(value, dict) and value.get("fleet") is not None


def _mapping(value: Any, *keys: str) -> dict[str, Any]:
    """What stands below `keys`, or nothing when that is no mapping."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> Iterator[tuple[int, Any]]:
    yield from enumerate(value if isinstance(value, list) else [])


def check_hosts(known: Known) -> None:
    for name, (document, where) in known.places.items():
        jump, seen = _jump(known, name), [name]
        at = (*where, "ssh", "jump")
        if not _check(document, at, "host", jump, known.hosts):
            continue
        if jump is not None and not known.is_far(jump):
            document.fault(at, f"host {jump!r} is not reached by SSH: it cannot be jumped through")
        while jump is not None:
            seen.append(jump)
            if jump in seen[:-1]:
                document.fault(at, f"leads round in a circle: {' → '.join(seen)}")
                break
            jump = _jump(known, jump)


def _jump(known: Known, host: str) -> str | None:
    jump = _mapping(known.hosts, host, "ssh").get("jump")
    return jump if isinstance(jump, str) else None


def check_job(job: Any, known: Known, document: Document, where: Location) -> None:
    if not isinstance(job, dict):
        return
    _check(document, (*where, "repository"), "repository", job.get("repository"), known.repositories)
    places = [job.get("repository")]
    for number, name in _items(job.get("copies")):
        if _check(document, (*where, "copies", number), "repository", name, known.repositories) and name in places:
            document.fault((*where, "copies", number), f"{name!r} is named twice: a copy is in a repository of its own")
        places.append(name)
    for number, channel in _items(job.get("notify")):
        _check(document, (*where, "notify", number), "channel in `notify`", channel, known.channels)
    for name, source in _mapping(job, "sources").items():
        for kind in _mapping(source):
            _check_source(_mapping(source, kind), known, document, (*where, "sources", name, kind))
    for number, hook in _items(job.get("hooks")):
        _check(document, (*where, "hooks", number, "host"), "host", _mapping(hook).get("host", LOCAL), known.hosts)
    for name, drill in _mapping(job, "drills").items():
        check_drill(drill, _mapping(job, "sources"), known, document, (*where, "drills", name))


def _check_source(options: dict[str, Any], known: Known, document: Document, where: Location) -> None:
    host = options.get("host", LOCAL)
    _check(document, (*where, "host"), "host", host, known.hosts)
    if options.get("split") is None:
        return
    if not known.fleet:
        document.fault((*where, "split"), "divides a source among the workers of a fleet, and there is no `fleet`")
    elif isinstance(host, str) and not known.is_far(host) and not _mapping(known.hosts, host).get("needs"):
        document.fault(
            (*where, "split"),
            f"host {host!r} is each worker's own machine: name one whose `needs` only workers have which see the same files",
        )


def check_drill(drill: Any, sources: dict[str, Any], known: Known, document: Document, where: Location) -> None:
    if not isinstance(drill, dict):
        return
    host = drill.get("on")
    good = _check(document, (*where, "on"), "host", host, known.hosts)
    if good and isinstance(host, str) and _mapping(known.hosts, host).get("role") != "staging":
        document.fault((*where, "on"), f"host {host!r} is no staging host; give it `role: staging`")
    for number, probe in _items(drill.get("probes")):
        for kind in ("sql", "file", "fresh", "integrity"):
            source = _mapping(probe, kind).get("source")
            _check(document, (*where, "probes", number, kind, "source"), "source", source, sources)
    for number, name in _items(_mapping(drill, "select").get("places")):
        _check(document, (*where, "select", "places", number), "repository", name, known.repositories)


def check_standbys(value: Any, jobs: Iterable[str], known: Known, document: Document) -> set[str]:
    """The jobs that one follows."""
    places: dict[tuple[Any, Any], str] = {}
    followed: set[str] = set()
    for name, standby in _mapping(value, "standby").items():
        where: Location = ("standby", name)
        one = _mapping(standby)
        host, directory = one.get("host"), one.get("directory")
        good = _check(document, (*where, "host"), "host", host, known.hosts)
        if good and isinstance(host, str) and _mapping(known.hosts, host).get("role") == "staging":
            document.fault((*where, "host"), f"host {host!r} is a staging host: drills delete there")
        for number, job in _items(one.get("jobs")):
            if _check(document, (*where, "jobs", number), "job", job, jobs) and isinstance(job, str):
                followed.add(job)
        if isinstance(directory, str) and known.is_far(host) and not directory.startswith("/"):
            document.fault((*where, "directory"), "is on an SSH host: give an absolute path")
        other = places.setdefault((host, directory), name)
        if other != name:
            document.fault((*where, "directory"), f"belongs to standby {other!r} already")
    return followed


def _check(document: Document, where: Location, kind: str, name: Any, known: Iterable[str]) -> bool:
    """True when `name` is known, or is nothing that could be (that is somebody else's fault to find)."""
    names = sorted(known)
    if not isinstance(name, str) or name in names:
        return isinstance(name, str) or name is None
    close = difflib.get_close_matches(name, names, 1, 0.6)
    hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(names) or 'none'}"
    document.fault(where, f"no {kind} {name!r}; {hint}")
    return False


def rebased_hosts(hosts: dict[str, HostOptions], base: Path) -> dict[str, HostOptions]:
    """With the host `local`, which always exists. The scratch directory of a far host is a path over there."""
    found = {LOCAL: HostOptions.model_validate({"local": {}})}
    for name, host in hosts.items():
        found[name] = rebased(host, base, texts=("scratch",) if host.ssh is None else ())
    return found


def with_source_paths(job: Any, known: Known, base: Path) -> Any:
    """The job with the paths of its sources made absolute, where the source is on this machine."""
    if not isinstance(job, dict) or not isinstance(job.get("sources"), dict):
        return job
    sources = {}
    for name, source in job["sources"].items():
        sources[name] = source
        if isinstance(source, dict):
            sources[name] = {kind: _with_paths(options, known, base) for kind, options in source.items()}
    return {**job, "sources": sources}


def _with_paths(options: Any, known: Known, base: Path) -> Any:
    if not isinstance(options, dict) or known.is_far(options.get("host", LOCAL)):
        return options
    changed = dict(options)
    for field in SOURCE_PATHS:
        value = options.get(field)
        if isinstance(value, str) and value:
            changed[field] = str(absolute(Path(value), base))
        elif isinstance(value, list):
            changed[field] = [str(absolute(Path(v), base)) if isinstance(v, str) and v else v for v in value]
    return changed


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
