"""Find, read and check the configuration. Every fault is reported at once, as file:line:column: where: what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backupctl.config.document import ConfigFaults, Document, Location, read_document, read_main
from backupctl.config.host_files import host_of
from backupctl.config.models import Job, MainFile, Settings
from backupctl.config.paths import absolute, rebased
from backupctl.config.references import (
    Known,
    catalog_url,
    check_drill,
    check_hosts,
    check_job,
    check_standbys,
    rebased_hosts,
    with_source_paths,
)
from backupctl.config.validate import validated


@dataclass(slots=True)
class Found:
    """A job and where it stands. `job` is None when it is not valid; its faults are in `document`."""

    name: Any
    job: Job | None
    value: Any
    document: Document
    where: Location


def load(path: Path | None = None, *, main: Document | None = None) -> Settings:
    """The configuration whose main file is `path`, or whatever `find` finds; not read again when it is `main`. Raises
    ConfigFaults, a ConfigError, with everything that is wrong."""
    document = main or read_main(path)
    documents, base = [document], document.path.parent
    value = document.value
    written = validated(MainFile, document.value, document) if document.readable else None
    hosts = [host_of(each) for each in _documents_below(document, "hosts_dir", "host", documents)]
    known = Known.of(value, hosts, document)
    found = _inline_jobs(document, value.get("jobs"), known)
    for each in _documents_below(document, "jobs_dir", "job", documents):
        found.append(_found(each, each.value, (), known))
    jobs = _by_name(found)
    if document.readable:
        check_hosts(known)
        for entry in found:
            check_job(entry.value, known, entry.document, entry.where)
        _join_drills(document, value.get("drills"), jobs, known)
        _check_drill_steps(jobs)
        _check_refresh_steps(jobs, check_standbys(value, jobs, known, document))
    url = catalog_url(written.catalog, base, document) if written else ""
    faults = [fault for each in documents for fault in sorted(each.faults)]
    if faults or written is None:
        raise ConfigFaults(faults)
    all_hosts = rebased_hosts(written.hosts, base)
    for one in hosts:
        all_hosts |= rebased_hosts(one.options, one.document.path.parent)
    fields = dict(rebased(written, base)) | {"catalog": url, "hosts": all_hosts}
    fields["standby"] = {
        name: rebased(one, base, texts=() if known.is_far(one.host) else ("directory",))
        for name, one in written.standby.items()
    }
    del fields["drills"]
    settings = Settings.model_construct(**fields | {"jobs": {}, "path": document.path, "base": base})
    stands_in = {"": document} | {name: entry.document for name, entry in jobs.items()}
    moments = {name: one.written for name, one in stands_in.items() if one.written is not None}
    complete = {name: _complete(entry, settings) for name, entry in jobs.items()}
    return settings.model_copy(
        update={"jobs": {name: job for name, job in complete.items() if job is not None}, "written": moments}
    )


def _complete(entry: Found, settings: Settings) -> Job | None:
    """The job with absolute paths, and with the time zone that it has when it names none."""
    if entry.job is None:
        return None
    job = rebased(entry.job, entry.document.path.parent)
    if "timezone" not in job.model_fields_set:
        job = job.model_copy(update={"timezone": settings.defaults.timezone})
    if job.schedule is not None and job.schedule.timezone is None:
        job = job.model_copy(update={"schedule": job.schedule.model_copy(update={"timezone": job.timezone})})
    return job


def _inline_jobs(document: Document, value: Any, known: Known) -> list[Found]:
    if isinstance(value, list):
        return [_found(document, item, ("jobs", number), known) for number, item in enumerate(value)]
    if isinstance(value, dict):
        return [_found(document, _named(document, name, item), ("jobs", name), known) for name, item in value.items()]
    if value is not None:
        document.fault(("jobs",), "must be a mapping of names to jobs, or a list of jobs")
    return []


def _named(document: Document, name: str, item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    if item.get("job", name) != name:
        document.fault(("jobs", name, "job"), f"is not {name!r}, the key it stands under; leave it out")
    return {**item, "job": name}


def _documents_below(main: Document, field: str, kind: str, documents: list[Document]) -> list[Document]:
    """The readable files of the directory that `field` of the main file names. All are put into `documents`, with their faults."""
    named = main.value.get(field)
    if not isinstance(named, str):
        return []
    directory = absolute(Path(named), main.path.parent)
    try:
        names = sorted(entry.name for entry in directory.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        main.fault((field,), f"{directory} cannot be read: {error.strerror}")
        return []
    if directory.resolve() == main.path.parent.resolve():
        main.fault((field,), "must be a directory of its own, not the one of this file")
        return []
    found = []
    for name in names:
        if name.endswith(".yml"):
            main.fault((field,), f"{directory / name} is not read: {kind} files end in .yaml; rename it")
        if name.endswith(".yaml"):
            found.append(read_document(directory / name, _shown(directory / name)))
    documents += found
    return [document for document in found if document.readable]


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _found(document: Document, value: Any, where: Location, known: Known) -> Found:
    value = with_source_paths(value, known, document.path.parent)
    name = value.get("job") if isinstance(value, dict) else None
    return Found(name, validated(Job, value, document, where), value, document, where)


def _by_name(found: list[Found]) -> dict[str, Found]:
    jobs: dict[str, Found] = {}
    for entry in found:
        if not isinstance(entry.name, str):
            continue
        first = jobs.setdefault(entry.name, entry)
        if first is not entry:
            line, _ = first.document.place((*first.where, "job"))
            entry.document.fault(
                (*entry.where, "job"), f"{entry.name!r} is a job already, in {first.document.shown}:{line}"
            )
    return jobs


def _join_drills(document: Document, value: Any, jobs: dict[str, Found], known: Known) -> None:
    """Top-level `drills:`, keyed JOB/DRILL, join the drills of their jobs."""
    if value is not None and not isinstance(value, dict):
        document.fault(("drills",), "must be a mapping of JOB/DRILL to drills")
        return
    if not value:
        return
    from backupctl.config.drilling import DrillSettings  # as in `models`: only for who has drills

    for key, item in value.items():
        where: Location = ("drills", key)
        drill = validated(DrillSettings, item, document, where)
        job, slash, name = key.partition("/")
        if not (job and slash and name) or "/" in name:
            document.fault(where, "a drill is named JOB/DRILL", key=True)
            continue
        if job not in jobs:
            document.fault(where, f"there is no job {job!r}", key=True)
            continue
        entry = jobs[job]
        sources = entry.value.get("sources")
        check_drill(item, sources if isinstance(sources, dict) else {}, known, document, where)
        if entry.job is None or drill is None:
            continue
        if name in entry.job.drills:
            document.fault(where, f"job {job!r} has a drill {name!r} already", key=True)
            continue
        entry.job = entry.job.model_copy(update={"drills": {**entry.job.drills, name: drill}})


def _check_refresh_steps(jobs: dict[str, Found], followed: set[str]) -> None:
    for name, entry in jobs.items():
        schedule = entry.job.schedule if entry.job is not None else None
        if schedule is not None and "refresh" in schedule.then and name not in followed:
            entry.document.fault((*entry.where, "schedule", "then"), "names refresh, but no standby follows the job")


def _check_drill_steps(jobs: dict[str, Found]) -> None:
    """Here and not in the model: a job's drills may stand elsewhere."""
    for entry in jobs.values():
        schedule = entry.job.schedule if entry.job is not None else None
        if entry.job is None or schedule is None or "drill" not in schedule.then:
            continue
        if all(drill.cron is not None for drill in entry.job.drills.values()):
            entry.document.fault(
                (*entry.where, "schedule", "then"), "names drill, but the job has no drill without a `cron` of its own"
            )
