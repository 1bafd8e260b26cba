"""Probes: what the job's owner wants to see in the restored system. Each gives one check of level 5, with what was
expected and what was found. A probe that cannot be carried out is a failed check, never a silent one; only a staging
host that is gone (UnreachableError) speaks about something else.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backupctl.clock import Clock
from backupctl.errors import InterruptedRunError, UnreachableError, UserError
from backupctl.hosts.protocol import Host
from backupctl.sources.protocol import CheckResult, DatabaseSource, Instance

if TYPE_CHECKING:
    from backupctl.config.models import CommandProbe, HttpProbe, ProbeSettings, SqlProbe

LEVEL = 5
PROBE_SECONDS = 60.0
SHOWN_CHARS = 500

# Asks from the staging host itself, so that 127.0.0.1 means there, and past any proxy.
_HTTP_PROGRAM = r"""
import json, sys, urllib.error, urllib.request
asked = json.loads(sys.stdin.read())
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    try:
        answer = opener.open(asked["url"], timeout=asked["timeout"])
    except urllib.error.HTTPError as error:
        answer = error
    body = answer.read(4 << 20).decode("utf-8", "replace")
    said = {"status": answer.getcode(), "found": asked["contains"] is None or asked["contains"] in body}
except Exception as error:
    said = {"error": "%s: %s" % (type(error).__name__, error)}
print(json.dumps(said))
"""


@dataclass(frozen=True, slots=True)
class RestoredSystem:
    """What probes may touch. `databases`: per running instance its source and the names of its databases."""

    host: Host
    directory: bytes
    files: bytes
    databases: Mapping[str, tuple[DatabaseSource, Instance, Sequence[str]]]

    def environment(self) -> dict[str, str]:
        """DRILL_DIRECTORY, DRILL_RESTORED, and per instance DRILL_<SOURCE>_<WHAT>, such as DRILL_SITE_DB_PORT."""
        values = {"DRILL_DIRECTORY": os.fsdecode(self.directory), "DRILL_RESTORED": os.fsdecode(self.files)}
        for name, (_, instance, _) in self.databases.items():
            prefix = f"DRILL_{_variable(name)}_"
            values |= {prefix + _variable(key): value for key, value in instance.connection.items()}
            values |= {prefix + "KIND": instance.kind, prefix + "DIRECTORY": os.fsdecode(instance.directory)}
        return values


def run_probes(
    probes: Sequence[ProbeSettings], system: RestoredSystem, clock: Clock, left: Callable[[], float | None]
) -> Iterator[CheckResult]:
    """One check per probe, in order. `left`: seconds left in the drill's budget; raises when there are none."""
    for probe in probes:
        remaining = left()
        timeout = PROBE_SECONDS if remaining is None else min(PROBE_SECONDS, remaining)
        begun = clock.monotonic()
        name, expected = _describe(probe)
        try:
            ok, actual, detail = _ask(probe, system, timeout)
        except (UnreachableError, InterruptedRunError):
            raise
        except (UserError, OSError, ValueError) as error:
            message = error.message if isinstance(error, UserError) else str(error)
            ok, actual, detail = False, f"error: {message}"[:SHOWN_CHARS], ""
        yield CheckResult(name, expected, actual, ok, LEVEL, round(clock.monotonic() - begun, 6), detail)


def _describe(probe: ProbeSettings) -> tuple[str, str]:
    if probe.sql is not None:
        return f"sql: {probe.sql.query}", _wanted_value(probe.sql)
    if probe.command is not None:
        output = probe.command.expect_output
        wanted = f"exit {probe.command.expect_exit}" + (f", output with {output!r}" if output is not None else "")
        return f"command: {shlex.join(probe.command.argv)}", wanted
    assert probe.http is not None
    contains = probe.http.contains
    wanted = f"status {probe.http.expect}" + (f", body with {contains!r}" if contains is not None else "")
    return f"http: {probe.http.url}", wanted


def _ask(probe: ProbeSettings, system: RestoredSystem, timeout: float) -> tuple[bool, str, str]:
    """(ok, actual, detail)."""
    if probe.sql is not None:
        return _sql(probe.sql, system)
    if probe.command is not None:
        return _command(probe.command, system, timeout)
    assert probe.http is not None
    return _http(probe.http, system, timeout)


def _sql(probe: SqlProbe, system: RestoredSystem) -> tuple[bool, str, str]:
    source, instance, names = _instance(probe, system)
    database = probe.database or (names[0] if len(names) == 1 else "")
    rows = source.query(instance, database, probe.query)
    if not rows or not rows[0]:
        return False, "no row", ""
    value = rows[0][0]
    return _fits(value, probe), value[:SHOWN_CHARS], "" if len(rows) == 1 else f"first of {len(rows)} rows"


def _instance(probe: SqlProbe, system: RestoredSystem) -> tuple[DatabaseSource, Instance, Sequence[str]]:
    running = system.databases
    if probe.source is not None:
        if probe.source not in running:
            raise UserError(f"no restored database source {probe.source!r}", next_step="correct the probe's source")
        return running[probe.source]
    fitting = [name for name, (_, _, names) in running.items() if probe.database in names] or list(running)
    if len(fitting) != 1:
        raise UserError(
            f"{len(fitting)} restored database sources could be meant: {', '.join(fitting) or 'none'}",
            next_step="name the probe's source",
        )
    return running[fitting[0]]


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


def _command(probe: CommandProbe, system: RestoredSystem, timeout: float) -> tuple[bool, str, str]:
    done = system.host.run(probe.argv, env=system.environment(), timeout=timeout)
    output = done.stdout.decode("utf-8", "replace")
    found = probe.expect_output is None or probe.expect_output in output
    actual = f"exit {done.returncode}"
    if probe.expect_output is not None:
        actual += f", output with{'' if found else 'out'} it"
    detail = (done.stderr if done.returncode else output).strip()[-SHOWN_CHARS:]
    return done.returncode == probe.expect_exit and found, actual, detail


def _http(probe: HttpProbe, system: RestoredSystem, timeout: float) -> tuple[bool, str, str]:
    question = {"url": str(probe.url), "timeout": timeout, "contains": probe.contains}
    done = system.host.run(
        [system.host.python, "-c", _HTTP_PROGRAM], stdin=json.dumps(question).encode(), timeout=timeout + 10, check=True
    )
    said: dict[str, Any] = json.loads(done.stdout)
    if "error" in said:
        return False, f"error: {said['error']}"[:SHOWN_CHARS], ""
    actual = f"status {said['status']}"
    if probe.contains is not None:
        actual += f", body with{'' if said['found'] else 'out'} it"
    return said["status"] == probe.expect and bool(said["found"]), actual, ""


def _variable(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())
