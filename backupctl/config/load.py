"""Find, read and check the configuration. Every fault is reported at once, as file:line:column: where: what."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backupctl.config.document import ConfigFaults, Document, Fault, Location, read_document
from backupctl.config.models import LOCAL, DrillSettings, Job, Settings
from backupctl.config.paths import absolute, rebased
from backupctl.config.references import catalog_url, check_job, check_settings, rebased_hosts, rebased_sources
from backupctl.config.validate import validated
from backupctl.errors import ConfigError

VARIABLE = "BACKUPCTL_CONFIG"
USUAL = (Path("backupctl.yaml"), Path("/etc/backupctl/backupctl.yaml"))


@dataclass(slots=True)
class Found:
    """A job and where it stands."""

    job: Job
    document: Document
    where: Location


def load(path: Path | None = None) -> Settings:
    """`path`, else $BACKUPCTL_CONFIG, else ./backupctl.yaml, else /etc/backupctl/backupctl.yaml. Raises ConfigFaults, a
    ConfigError, with everything that is wrong."""
    main = find(path)
    document = read_document(main, str(main))
    documents = [document]
    value = dict(document.value)
    inline, drills = value.pop("jobs", None), value.pop("drills", None)
    settings = None
    if not document.faults or value:
        settings = validated(Settings, value, document)
    zone = settings.defaults.timezone if settings else "UTC"
    found = _inline_jobs(document, inline, zone)
    if isinstance(value.get("jobs_dir"), str) and value["jobs_dir"]:
        found += _jobs_below(absolute(Path(value["jobs_dir"]), document.path.parent), document, documents, zone)
    jobs = _joined(found)
    _inline_drills(document, drills, jobs)
    if settings:
        base = document.path.parent
        settings = rebased(settings, base).model_copy(
            update={
                "hosts": rebased_hosts(settings.hosts, base),
                "catalog": catalog_url(settings.catalog, base, document),
                "path": document.path,
                "base": base,
            }
        )
        check_settings(settings, document)
        for entry in jobs.values():
            check_job(entry.job, settings, entry.document, entry.where)
    faults = [fault for each in documents for fault in sorted(set(each.faults), key=lambda f: (f.line, f.column))]
    if faults or settings is None:
        raise ConfigFaults(faults)
    complete = {name: rebased_sources(entry.job, settings, entry.document.path.parent) for name, entry in jobs.items()}
    return settings.model_copy(update={"jobs": complete})


def find(path: Path | None) -> Path:
    """The configuration file. Raises ConfigError when there is none."""
    named = path or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is not None:
        if not named.is_file():
            origin = "" if path else f" (from ${VARIABLE})"
            what = "is a directory" if named.is_dir() else "does not exist"
            raise ConfigError(
                f"the configuration {named}{origin} {what}", next_step="name the file, or make one: backupctl init"
            )
        return named
    for usual in USUAL:
        if usual.is_file():
            return usual
    places = ", ".join(("--config", f"${VARIABLE}", *map(str, USUAL)))
    raise ConfigError(f"no configuration found; looked at {places}", next_step="backupctl init")


def _inline_jobs(document: Document, value: Any, zone: str) -> list[Found]:
    entries: list[tuple[Location, Any]] = []
    if isinstance(value, list):
        entries = [(("jobs", number), item) for number, item in enumerate(value)]
    elif isinstance(value, dict):
        for name, item in value.items():
            named = {"job": name, **item} if isinstance(item, dict) else item
            if isinstance(item, dict) and item.get("job", name) != name:
                document.fault(("jobs", name, "job"), f"is not {name!r}, the key it stands under; leave it out")
            entries.append((("jobs", name), named))
    elif value is not None:
        document.fault(("jobs",), "must be a mapping of names to jobs, or a list of jobs")
    return [found for where, item in entries if (found := _job(document, item, where, zone))]


def _jobs_below(directory: Path, main: Document, documents: list[Document], zone: str) -> list[Found]:
    try:
        names = sorted(entry.name for entry in directory.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        main.fault(("jobs_dir",), f"{directory} cannot be read: {error.strerror}")
        return []
    found = []
    for name in names:
        if name.endswith(".yml"):
            main.fault(("jobs_dir",), f"{directory / name} is not read: job files end in .yaml; rename it")
        if not name.endswith(".yaml"):
            continue
        document = read_document(directory / name, _shown(directory / name))
        documents.append(document)
        if not document.faults or document.value:
            job = _job(document, document.value, (), zone)
            found += [job] if job else []
    return found


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _job(document: Document, value: Any, where: Location, zone: str) -> Found | None:
    if isinstance(value, dict) and "timezone" not in value:
        value = {**value, "timezone": zone}
    job = validated(Job, value, document, where)
    if job is not None and job.schedule is not None and job.schedule.timezone is None:
        job = job.model_copy(update={"schedule": job.schedule.model_copy(update={"timezone": job.timezone})})
    return Found(job, document, where) if job else None


def _joined(found: list[Found]) -> dict[str, Found]:
    jobs: dict[str, Found] = {}
    for entry in found:
        first = jobs.setdefault(entry.job.job, entry)
        if first is not entry:
            line, _ = first.document.values.get((*first.where, "job"), first.document.values[first.where])
            entry.document.fault(
                (*entry.where, "job"), f"{entry.job.job!r} is a job already, in {first.document.shown}:{line}"
            )
    return jobs


def _inline_drills(document: Document, value: Any, jobs: dict[str, Found]) -> None:
    """Top-level `drills:`, keyed JOB/DRILL, join the drills of their jobs."""
    if value is None:
        return
    if not isinstance(value, dict):
        document.fault(("drills",), "must be a mapping of JOB/DRILL to drills")
        return
    for key, item in value.items():
        where = ("drills", key)
        drill = validated(DrillSettings, item, document, where)
        job, slash, name = key.partition("/")
        if not (job and slash and name) or "/" in name:
            document.fault(where, "a drill is named JOB/DRILL", key=True)
        elif job not in jobs:
            document.fault(where, f"there is no job {job!r}", key=True)
        elif name in jobs[job].job.drills:
            document.fault(where, f"job {job!r} has a drill {name!r} already", key=True)
        elif drill is not None:
            entry = jobs[job]
            drills = {**entry.job.drills, name: drill}
            entry.job = entry.job.model_copy(update={"drills": drills})
