"""Restored files looked over for malware, with what the staging host has: ClamAV (its daemon, or else its scanner alone), or
YARA with somebody's rules. No scanner, or nothing to scan, is `not performed`; only a scanner can say `nothing found`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backupctl.errors import CouldNotRunError
from backupctl.hosts.protocol import Completed, Host
from backupctl.sources.protocol import NOT_PERFORMED

if TYPE_CHECKING:
    from backupctl.config.drilling import ScanProbe

SHOWN = 10
MISSING = 127  # exit code of a program that does not exist, see Host.run
CLAMAV = (  # clamscan(1), clamdscan(1): 0 nothing found, 1 something found, 2 an error
    ("clamdscan", ("--fdpass", "--multiscan", "--infected", "--no-summary")),
    ("clamscan", ("--recursive", "--infected", "--no-summary")),
)


@dataclass(frozen=True, slots=True)
class Scanned:
    ok: bool
    actual: str
    detail: str
    output: str


def scan(host: Host, directory: bytes, wanted: ScanProbe, timeout: float | None) -> Scanned:
    """Raises CouldNotRunError when a `required` scan cannot be performed."""
    target, why = os.fsdecode(directory), []
    if not any(host.list_directory(directory + b"/" + name) for name in host.list_directory(directory)):
        why.append("no files were restored")
    else:
        if wanted.engine in ("any", "clamav"):
            for program, options in CLAMAV:
                found = _clamav(host, program, [*options, target], timeout)
                if isinstance(found, Scanned):
                    return found
                why.append(found)
        if wanted.rules is not None and wanted.engine in ("any", "yara"):
            found = _yara(host, wanted.rules, target, timeout)
            if isinstance(found, Scanned):
                return found
            why.append(found)
    reason = "; ".join(why)
    if wanted.required:
        raise CouldNotRunError(
            f"the malware scan on host {host.name} could not be performed: {reason}",
            next_step="install clamav-daemon or yara there, or take `required` away",
        )
    return Scanned(True, f"{NOT_PERFORMED}: {reason}", "", reason)


def _clamav(host: Host, program: str, arguments: list[str], timeout: float | None) -> Scanned | str:
    """What came of it, or why nothing did."""
    version = host.run([program, "--version"], timeout=timeout)
    if version.returncode == MISSING:
        return f"no {program}"
    done = host.run([program, *arguments], timeout=timeout)
    if done.returncode not in (0, 1):
        return f"{program}: {_last_line(done)}"
    # "ClamAV 1.0.7/27480/Mon Dec  2 09:41:44 2024": program, signatures, and when those were made
    signatures = version.stdout.decode("utf-8", "replace").strip()
    if signatures.count("/") < 2:
        return f"{program}: no signature database"
    return _scanned(done.returncode == 1, done, signatures)


def _yara(host: Host, rules: str, target: str, timeout: float | None) -> Scanned | str:
    version = host.run(["yara", "--version"], timeout=timeout)
    if version.returncode == MISSING:
        return "no yara"
    done = host.run(["yara", "--recursive", "--no-warnings", rules, target], timeout=timeout)
    if done.returncode != 0:
        return f"yara: {_last_line(done)}"
    return _scanned(bool(done.stdout.strip()), done, f"yara {version.stdout.decode().strip()} with {rules}")


def _scanned(bad: bool, done: Completed, engine: str) -> Scanned:
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    hits = [line for line in lines if line.strip()]
    actual = f"{len(hits)} hits" if bad else "nothing found"
    return Scanned(not bad, actual, "; ".join([engine, *hits[:SHOWN]]), "\n".join([engine, *lines, done.stderr]))


def _last_line(done: Completed) -> str:
    words = (done.stderr or done.stdout.decode("utf-8", "replace")).strip().splitlines()
    return f"exit {done.returncode}: {words[-1] if words else 'nothing was said'}"[:300]
