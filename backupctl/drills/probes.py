"""Probes: what the job's owner wants to see in the restored system. Each gives checks of level 5: what was expected, what was
found, how long it took, and the SHA-256 of all that was seen. A probe that cannot be carried out is a failed check, never a
silent one; only a staging host that is gone or lacks a program (UnreachableError, CouldNotRunError) speaks about something else.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from backupctl.clock import Clock, iso
from backupctl.drills.scanning import scan
from backupctl.errors import CouldNotRunError, InterruptedRunError, UnreachableError, UserError
from backupctl.hosts.protocol import Host
from backupctl.sources.protocol import NOT_PERFORMED, CheckResult, DatabaseSource, Instance

if TYPE_CHECKING:
    from backupctl.config.drilling import CommandProbe, FileProbe, FreshProbe, HttpProbe, ProbeSettings, SqlProbe

LEVEL = 5
PROBE_SECONDS = 60.0
SHOWN_CHARS = 500
READ_BYTES = 1 << 20

# Asks from the staging host itself, so that 127.0.0.1 means there, and past any proxy.
_HTTP_PROGRAM = r"""
import hashlib, json, sys, urllib.error, urllib.request
asked = json.loads(sys.stdin.read())
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    try:
        answer = opener.open(asked["url"], timeout=asked["timeout"])
    except urllib.error.HTTPError as error:
        answer = error
    body = answer.read(4 << 20).decode("utf-8", "replace")
    said = {"status": answer.getcode(), "found": asked["contains"] is None or asked["contains"] in body,
            "evidence": hashlib.sha256(body.encode()).hexdigest()}
except Exception as error:
    said = {"error": "%s: %s" % (type(error).__name__, error)}
print(json.dumps(said))
"""


@dataclass(frozen=True, slots=True)
class RestoredSystem:
    """What probes may touch. `databases`: per running instance its source and the names of its databases. `viewed`: when each
    source was looked at for the backup. `heartbeats`: what `fresh` probes find is noted there, by source."""

    host: Host
    directory: bytes
    files: bytes
    databases: Mapping[str, tuple[DatabaseSource, Instance, Sequence[str]]]
    viewed: Mapping[str, datetime] = field(default_factory=dict)
    rpo: timedelta | None = None
    heartbeats: dict[str, datetime] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """DRILL_DIRECTORY, DRILL_RESTORED, and per instance DRILL_<SOURCE>_<WHAT>, such as DRILL_SITE_DB_PORT."""
        values = {"DRILL_DIRECTORY": os.fsdecode(self.directory), "DRILL_RESTORED": os.fsdecode(self.files)}
        for name, (_, instance, _) in self.databases.items():
            prefix = f"DRILL_{_variable(name)}_"
            values |= {prefix + _variable(key): value for key, value in instance.connection.items()}
            values |= {prefix + "KIND": instance.kind, prefix + "DIRECTORY": os.fsdecode(instance.directory)}
        return values


@dataclass(frozen=True, slots=True)
class Seen:
    """What a probe found; `evidence` is the SHA-256 of all of it."""

    ok: bool
    actual: str
    detail: str = ""
    evidence: str = ""


def run_probes(
    probes: Sequence[ProbeSettings], system: RestoredSystem, clock: Clock, left: Callable[[], float | None]
) -> Iterator[CheckResult]:
    """At least one check per probe, in order. `left`: seconds left in the drill's budget; raises when there are none. Raises
    UnreachableError, and CouldNotRunError for what the staging host lacks."""
    for probe in probes:
        begun = clock.monotonic()
        if probe.integrity is not None:
            yield from _integrity(probe.integrity.source, system, clock, left)
            continue
        remaining = left()
        timeout = PROBE_SECONDS if remaining is None else min(PROBE_SECONDS, remaining)
        name, expected = _describe(probe, system)
        try:
            seen = _ask(probe, system, timeout if probe.scan is None else remaining)
        except (UnreachableError, InterruptedRunError, CouldNotRunError):
            raise
        except (UserError, OSError, ValueError) as error:
            message = error.message if isinstance(error, UserError) else str(error)
            seen = Seen(False, f"error: {message}"[:SHOWN_CHARS], "", _hash(message))
        seconds = round(clock.monotonic() - begun, 6)
        yield CheckResult(name, expected, seen.actual, seen.ok, LEVEL, seconds, seen.detail, seen.evidence)


def _describe(probe: ProbeSettings, system: RestoredSystem) -> tuple[str, str]:
    if probe.sql is not None:
        return f"sql: {probe.sql.query}", _wanted_value(probe.sql)
    if probe.command is not None:
        output = probe.command.expect_output
        wanted = f"exit {probe.command.expect_exit}" + (f", output with {output!r}" if output is not None else "")
        return f"command: {shlex.join(probe.command.argv)}", wanted
    if probe.file is not None:
        return f"file: {probe.file.source}{_rooted(probe.file.path)}", f"SHA-256 {probe.file.sha256}"
    if probe.fresh is not None:
        within = probe.fresh.within or system.rpo
        return f"fresh: {probe.fresh.query}", f"a time at most {within} before the backup"
    if probe.scan is not None:
        return "malware scan of the restored files", "nothing found"
    assert probe.http is not None
    contains = probe.http.contains
    wanted = f"status {probe.http.expect}" + (f", body with {contains!r}" if contains is not None else "")
    return f"http: {probe.http.url}", wanted


def _ask(probe: ProbeSettings, system: RestoredSystem, timeout: float | None) -> Seen:
    if probe.sql is not None:
        return _sql(probe.sql, system)
    if probe.command is not None:
        return _command(probe.command, system, timeout)
    if probe.file is not None:
        return _file(probe.file, system)
    if probe.fresh is not None:
        return _fresh(probe.fresh, system)
    if probe.scan is not None:
        found = scan(system.host, system.files, probe.scan, timeout)
        return Seen(found.ok, found.actual, found.detail, _hash(found.output))
    assert probe.http is not None
    return _http(probe.http, system, timeout)


def _sql(probe: SqlProbe, system: RestoredSystem) -> Seen:
    _, rows = _rows(probe, system)
    evidence = _hash(json.dumps(rows))
    if not rows or not rows[0]:
        return Seen(False, "no row", "", evidence)
    value = rows[0][0]
    more = "" if len(rows) == 1 else f"first of {len(rows)} rows"
    return Seen(_fits(value, probe), value[:SHOWN_CHARS], more, evidence)


def _rows(probe: SqlProbe | FreshProbe, system: RestoredSystem) -> tuple[str, list[list[str]]]:
    """The source that was asked, and its answer."""
    name = _source(probe, system)
    source, instance, names = system.databases[name]
    database = probe.database or (names[0] if len(names) == 1 else "")
    return name, source.query(instance, database, probe.query)


def _fresh(probe: FreshProbe, system: RestoredSystem) -> Seen:
    name, rows = _rows(probe, system)
    evidence = _hash(json.dumps(rows))
    if not rows or not rows[0] or not rows[0][0]:
        return Seen(False, "no time", "", evidence)
    newest, viewed = _instant(rows[0][0]), system.viewed[name]
    system.heartbeats[name] = newest
    within = probe.within or system.rpo
    age = viewed - newest
    fits = within is None or age <= within
    actual = f"{iso(newest)}, {max(age, timedelta(0))} before the backup"
    return Seen(fits, actual, f"the backup saw its data at {iso(viewed)}", evidence)


def _instant(text: str) -> datetime:
    """Raises ValueError for what is no time."""
    if (number := _number(text.strip())) is not None:
        return datetime.fromtimestamp(number, UTC)
    found = datetime.fromisoformat(text.strip())
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _file(probe: FileProbe, system: RestoredSystem) -> Seen:
    path = system.files + b"/" + os.fsencode(probe.source + _rooted(probe.path))
    digest, size = hashlib.sha256(), 0
    try:
        with system.host.open_read(path) as stream:
            while data := stream.read(READ_BYTES):
                digest.update(data)
                size += len(data)
    except FileNotFoundError:
        return Seen(False, "no such file", "", _hash(""))
    found = digest.hexdigest()
    return Seen(found == probe.sha256, f"SHA-256 {found}", f"{size} bytes", found)


def _rooted(path: str) -> str:
    return "/" + path.lstrip("/")


def _integrity(
    wanted: str | None, system: RestoredSystem, clock: Clock, left: Callable[[], float | None]
) -> Iterator[CheckResult]:
    """One check for each database, or one that says why there is none."""
    asked = False
    for name, (source, instance, databases) in sorted(system.databases.items()):
        if wanted not in (None, name):
            continue
        for database in databases:
            left()
            begun = clock.monotonic()
            for check in source.examine(instance, [database]):
                asked = True
                seconds = round(clock.monotonic() - begun, 6)
                yield replace(check, name=f"{name}: {check.name}", level=LEVEL, seconds=seconds)
    if not asked:
        actual = f"{NOT_PERFORMED}: no restored database has a checker of its own"
        yield CheckResult(f"integrity: {wanted or 'all'}", "no corruption", actual, True, LEVEL)


def _source(probe: SqlProbe | FreshProbe, system: RestoredSystem) -> str:
    running = system.databases
    if probe.source is not None:
        if probe.source not in running:
            raise UserError(f"no restored database source {probe.source!r}", next_step="correct the probe's source")
        return probe.source
    fitting = [name for name, (_, _, names) in running.items() if probe.database in names] or list(running)
    if len(fitting) != 1:
        raise UserError(
            f"{len(fitting)} restored database sources could be meant: {', '.join(fitting) or 'none'}",
            next_step="name the probe's source",
        )
    return fitting[0]


def _wanted_value(probe: SqlProbe) -> str:
    wanted = [str(probe.equals)] if probe.equals is not None else []
    wanted += [f"at least {probe.at_least:g}"] if probe.at_least is not None else []
    wanted += [f"at most {probe.at_most:g}"] if probe.at_most is not None else []
    return ", ".join(wanted)


def _fits(value: str, probe: SqlProbe) -> bool:
    """A value that is no number fits no bound."""
    number = _number(value)
    if probe.equals is not None and value != str(probe.equals) and (number is None or number != _number(probe.equals)):
        return False
    low, high = probe.at_least, probe.at_most
    return (low is None or (number is not None and number >= low)) and (
        high is None or (number is not None and number <= high)
    )


def _number(value: str | int | float) -> float | None:
    if isinstance(value, str) and not re.fullmatch(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", value):
        return None
    return float(value)


def _command(probe: CommandProbe, system: RestoredSystem, timeout: float | None) -> Seen:
    done = system.host.run(probe.argv, env=system.environment(), timeout=timeout)
    output = done.stdout.decode("utf-8", "replace")
    found = probe.expect_output is None or probe.expect_output in output
    actual = f"exit {done.returncode}"
    if probe.expect_output is not None:
        actual += f", output with{'' if found else 'out'} it"
    detail = (done.stderr if done.returncode else output).strip()[-SHOWN_CHARS:]
    evidence = _hash(json.dumps([done.returncode, output, done.stderr]))
    return Seen(done.returncode == probe.expect_exit and found, actual, detail, evidence)


def _http(probe: HttpProbe, system: RestoredSystem, timeout: float | None) -> Seen:
    timeout = PROBE_SECONDS if timeout is None else timeout
    question = {"url": str(probe.url), "timeout": timeout, "contains": probe.contains}
    done = system.host.run(
        [system.host.python, "-c", _HTTP_PROGRAM], stdin=json.dumps(question).encode(), timeout=timeout + 10, check=True
    )
    said: dict[str, Any] = json.loads(done.stdout)
    if "error" in said:
        return Seen(False, f"error: {said['error']}"[:SHOWN_CHARS], "", _hash(said["error"]))
    actual = f"status {said['status']}"
    if probe.contains is not None:
        actual += f", body with{'' if said['found'] else 'out'} it"
    return Seen(said["status"] == probe.expect and bool(said["found"]), actual, "", said["evidence"])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _variable(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())
